"""Everything here runs on a clock that jumps to the next deadline as soon as nothing else is left to do."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from trio.abc import Clock, Instrument
from trio.testing import MockClock

from vnet.spec import WireSpec
from vnet.testing import over
from vnet.testing.exercises import LINKS
from vnet.testing.hostile import DRIVERS

HERE = Path(__file__).parent
SEEDS = 40
"""Seeds of one test: each device type, transport and ring once."""
T = TypeVar("T")


def simulate(
    function: Callable[[], Awaitable[T]], clock: Clock | None = None, instruments: tuple[Instrument, ...] = ()
) -> T:
    """`trio.run` for a test: on a clock of its own unless it asked for one."""
    return trio.run(function, clock=clock or MockClock(autojump_threshold=0), instruments=instruments)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--only-transport", choices=list(DRIVERS), help="run what is marked every_transport on this one alone"
    )
    parser.addoption("--but-transport", choices=list(DRIVERS), help="run it on all but this one")
    parser.addoption("--seeds", type=int, default=80, help="number of seeds that random systems are simulated with")
    parser.addoption("--link", choices=["ideal", "wire"], default="ideal", help="link between the hosts of a pair")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "seeds: simulates many random systems, or some in many processes")
    config.addinivalue_line(
        "markers", "every_link: runs once for each kind of link but wire, or with --link wire for that alone"
    )
    config.addinivalue_line(
        "markers", "every_transport(but): runs once for each transport that a pair can have, but for those named"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seeds" in metafunc.fixturenames:
        count = metafunc.config.getoption("--seeds")
        metafunc.parametrize("seeds", [range(at, min(at + SEEDS, count)) for at in range(0, count, SEEDS)])
    if metafunc.definition.get_closest_marker("every_link") is not None:
        wired = metafunc.config.getoption("--link") == "wire"
        metafunc.parametrize("link", [link for link in LINKS if (link == "wire") == wired])
    marker = metafunc.definition.get_closest_marker("every_transport")
    if marker is not None:
        only, but = (metafunc.config.getoption(option) for option in ("--only-transport", "--but-transport"))
        excluded = {but, *marker.kwargs.get("but", ())}
        wanted = [name for name in ([only] if only else DRIVERS) if name not in excluded]
        metafunc.parametrize("transport", wanted, indirect=True)


@pytest.fixture(autouse=True)  # a fixture that no test asks for would only be a name in its id
def transport(request: pytest.FixtureRequest) -> Iterator[str]:
    """Transport of pairs that do not choose one."""
    name: str = getattr(request, "param", "pci")
    wire = WireSpec() if request.config.getoption("--link") == "wire" else None
    with over(name, wire=wire):
        yield name


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Turn garbage collection off, for tests of what is freed without it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and item.get_closest_marker("trio"):
            item.add_marker(pytest.mark.trio(run=simulate), append=False)
