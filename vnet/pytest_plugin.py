"""The pytest plugin: fixtures for devices of your own, under a simulated clock and one seed.

pytest loads it in each run, so that nothing of vnet is imported before a fixture needs it.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pytest

if TYPE_CHECKING:
    from vnet.system.world import World
    from vnet.testing import HostileDevice, HostileDriver
    from vnet.testing.device_pair import DevicePair
    from vnet.topology import Topology

__all__ = ["OpenPair", "OpenWorld", "Run"]

T = TypeVar("T")
Run = Callable[..., Any]
"""Runs a coroutine function with arguments, and returns its result."""
OpenWorld = Callable[["Topology | Path"], AbstractAsyncContextManager["World"]]
"""Opens a system in memory that is up."""
OpenPair = Callable[..., AbstractAsyncContextManager["DevicePair"]]
"""Opens two hosts with a device between them; see `vnet.testing.device_pair.open_device_pair`."""

MARK, SEED, TRANSPORT, RING = "vnet_sim", "vnet_seed", "vnet_transport", "vnet_ring"
SEED_KEY = pytest.StashKey[int]()
"""The seed of the run."""
USED_KEY = pytest.StashKey[bool]()
"""Whether a test used the seed."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vnet", "simulations of vnet")
    group.addoption("--vnet-seed", type=int, metavar="N", help="seed of simulated tests; default: a random one")
    group.addoption(
        "--vnet-transport", action="append", metavar="NAME", help="transport for tests of all transports; repeatable"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{MARK}: runs a coroutine function under a simulated clock, with a seeded order of tasks"
    )
    given: int | None = config.getoption("--vnet-seed")
    shared = getattr(config, "workerinput", {}).get(SEED, secrets.randbits(32))
    config.stash[SEED_KEY] = shared if given is None else given


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give each worker of pytest-xdist the seed of the run."""
    node.workerinput[SEED] = node.config.stash[SEED_KEY]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that started this worker of pytest-xdist, if it is one, whether a test used the seed."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output[SEED] = session.config.stash.get(USED_KEY, False)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Note whether a worker of pytest-xdist used the seed; one that crashed does not say."""
    if getattr(node, "workeroutput", {}).get(SEED, False):
        node.config.stash[USED_KEY] = True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses the fixtures once for each transport, and for each ring format."""
    by_hand = {name for mark in metafunc.definition.iter_markers("parametrize") for name in _names(mark.args[0])}
    wanted = {TRANSPORT, RING} & {*metafunc.fixturenames} - by_hand
    if TRANSPORT in wanted:
        from vnet.transports import TRANSPORTS

        names = metafunc.config.getoption("--vnet-transport") or list(TRANSPORTS)
        for name in names:
            if name not in TRANSPORTS:
                raise pytest.UsageError(f"--vnet-transport {name}: must be one of {', '.join(TRANSPORTS)}")
        metafunc.parametrize(TRANSPORT, names, indirect=True)
    if RING in wanted:
        metafunc.parametrize(RING, ["split", "packed"], indirect=True)


def _names(argnames: Any) -> list[str]:
    """Return the names of a parametrize mark."""
    return [name.strip() for name in argnames.split(",")] if isinstance(argnames, str) else list(argnames)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Take the mark of pytest-trio off marked tests: its ``trio_mode`` puts it on all coroutine functions."""
    for item in items:
        if item.get_closest_marker(MARK) is not None:
            item.own_markers[:] = [mark for mark in item.own_markers if mark.name != "trio"]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a marked coroutine function."""
    if pyfuncitem.get_closest_marker(MARK) is None or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    _run(pyfuncitem, partial(pyfuncitem.obj, **arguments))
    return True


def _run(item: pytest.Item, main: Callable[[], Awaitable[T]]) -> T:
    from vnet.sim.scheduler import run_seeded

    return run_seeded(main, _stream(item, "order"))


def _stream(item: pytest.Item, purpose: str) -> Random:
    """Return the random numbers of a test for one purpose."""
    from vnet.sim.seeds import stream

    return stream(_seed(item), f"{item.nodeid} {purpose}")


def _seed(item: pytest.Item) -> int:
    """Return the seed of the run, and note that the test used it."""
    item.config.stash[USED_KEY] = item.stash[USED_KEY] = True
    return item.config.stash[SEED_KEY]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Add the seed to the report of a failed test that used it."""
    report = yield
    if report.failed and item.stash.get(USED_KEY, False):
        command = f"pytest '{item.nodeid}' --vnet-seed {item.config.stash[SEED_KEY]}"
        report.sections.append(("vnet", f"to repeat it: {command}"))
    return report


def pytest_report_header(config: pytest.Config) -> str | None:
    return None if config.getoption("--vnet-seed") is None else f"vnet seed: {config.stash[SEED_KEY]}"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.stash.get(USED_KEY, False):
        terminalreporter.write_line(f"vnet seed: {config.stash[SEED_KEY]} (--vnet-seed repeats it)")


@pytest.fixture
def vnet_seed(request: pytest.FixtureRequest) -> int:
    """Seed of the run, for what has no fixture here."""
    return _seed(request.node)


@pytest.fixture
def vnet_random(request: pytest.FixtureRequest) -> Random:
    """Random numbers of the test, from the seed of the run."""
    return _stream(request.node, "numbers")


@pytest.fixture
def vnet_run(request: pytest.FixtureRequest) -> Run:
    """Function that runs a coroutine function as the mark vnet_sim does."""

    def run(main: Callable[..., Awaitable[T]], *args: object) -> T:
        return _run(request.node, partial(main, *args))

    return run


@pytest.fixture
def vnet_transport(request: pytest.FixtureRequest) -> str:
    """Name of a transport: the test runs once for each."""
    return str(request.param)


@pytest.fixture
def vnet_ring(request: pytest.FixtureRequest) -> Literal["split", "packed"]:
    """Ring format: the test runs once for each."""
    return "packed" if request.param == "packed" else "split"


@pytest.fixture
def vnet_world(vnet_seed: int) -> OpenWorld:
    """Function that opens the system of a topology or of its file, in memory, as an async context manager."""

    @asynccontextmanager
    async def open_simulated(topology: Topology | Path) -> AsyncIterator[World]:
        from vnet.sim.simulated import simulated
        from vnet.system.world import open_world
        from vnet.topology import load

        parsed = load(topology) if isinstance(topology, Path) else topology
        async with open_world(simulated(parsed, vnet_seed), "test") as world:
            await world.wait_up()
            yield world

    return open_simulated


@pytest.fixture
def vnet_pair(request: pytest.FixtureRequest, vnet_seed: int) -> OpenPair:
    """Function that opens two hosts with a device of a type between them, as an async context manager.

    The transport and the ring are those of the fixtures vnet_transport and vnet_ring, if the test has them.
    """
    transport = request.getfixturevalue(TRANSPORT) if TRANSPORT in request.fixturenames else "pci"
    ring: Literal["split", "packed"] = request.getfixturevalue(RING) if RING in request.fixturenames else "split"

    def open_pair(kind: str, keys: str = "") -> AbstractAsyncContextManager[DevicePair]:
        from vnet.testing.device_pair import open_device_pair

        return open_device_pair(kind, transport, ring, keys, seed=vnet_seed)

    return open_pair


@pytest.fixture
def vnet_hostile_driver() -> Callable[[DevicePair], AbstractAsyncContextManager[HostileDriver[Any]]]:
    """Function that replaces the driver of a pair by one that writes to registers and rings unchecked."""
    from vnet.testing import hostile_driver

    return hostile_driver


@pytest.fixture
def vnet_hostile_device() -> Callable[[DevicePair], AbstractAsyncContextManager[HostileDevice]]:
    """Function that opens a device beside the one of a pair, which writes to the driver's rings unchecked."""
    from vnet.testing import hostile_device

    return hostile_device
