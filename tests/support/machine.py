"""Requirements of tests on their machine: tools, privileges, network namespaces, and nothing left behind."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TypeAlias, TypeVar

import attrs
import pytest

from vnet.linux.netns import run_in_namespace, set_up_interface
from vnet.linux.syscalls import CLONE_NEWNET, CLONE_NEWNS, MS_REC, mount, unshare

RequireTool: TypeAlias = Callable[..., None]
MakeNetns: TypeAlias = Callable[[str], str]

MS_PRIVATE = 1 << 18
NETNS, RUN_DIR = Path("/run/netns"), Path("/run/vnet")
GRACE = 30.0
"""Seconds that what was let go may take to be gone: kernel work queues and processes that end, on a busy machine."""

T = TypeVar("T")

_serial = itertools.count(1)
_machine_network: list[int] = []
"""A descriptor of the machine's network, in a process that has left it."""


def unavailable(reason: str) -> NoReturn:
    """Skip the test; but fail it where CI is set, since there everything has to be tested."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (CI is set, so this is no reason to skip)", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def require_tool() -> RequireTool:
    """``require_tool("ping", "iperf3")``: these programs are on PATH."""

    def require(*names: str) -> None:
        missing = [name for name in names if shutil.which(name) is None]
        if missing:
            unavailable(f"not on PATH: {', '.join(missing)}")

    return require


@pytest.fixture(scope="session")
def privileged() -> None:
    """The test may make network namespaces and TUN interfaces."""
    if os.geteuid() != 0:
        unavailable("needs root")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        unavailable("needs /dev/net/tun")


@pytest.fixture(scope="session")
def fuse(privileged: None) -> None:
    """The test may mount a file system in user space; it is skipped on a machine without such, also in CI."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse")
    if importlib.util.find_spec("pyfuse3") is None:
        unavailable("needs pyfuse3")


@pytest.fixture
def netns(privileged: None, require_tool: RequireTool) -> Iterator[MakeNetns]:
    """``netns("rc")`` makes a network namespace, loopback up, and returns its name, which is unique.

    All are removed afterwards, and processes that still run in them are killed first.
    """
    require_tool("ip")
    made: list[str] = []

    def make(word: str) -> str:
        name = f"t{os.getpid()}-{next(_serial)}-{word}"
        ip("netns", "add", name)
        made.append(name)
        ip("-n", name, "link", "set", "lo", "up")
        return name

    try:
        yield make
    finally:
        for name in reversed(made):
            remove_netns(name)


def ip(*args: str) -> str:
    """Run iproute2 and return its output. Raises CalledProcessError with its error output."""
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr.strip())
    return done.stdout


def remove_netns(name: str) -> None:
    """Remove a namespace, and with it the processes that keep it alive; harmless if it is gone."""
    if not (NETNS / name).exists():
        return
    for pid in map(int, ip("netns", "pids", name).split()):
        if pid != os.getpid():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    ip("netns", "del", name)


def own_machine(*, network: bool) -> None:
    """Give this process, and those it starts, a /run/netns and a /run/vnet that no other system of the machine uses.

    Other systems come and go while tests run, under any name. With ``network`` the interfaces and ports are its own as
    well: loopback, and no way out but `in_machine_network`. Without the right to do so nothing is changed.
    """
    if os.geteuid() != 0:
        return
    try:
        unshare(CLONE_NEWNS)
    except OSError:
        return
    mount(None, Path("/"), flags=MS_REC | MS_PRIVATE)
    for path in (NETNS, RUN_DIR):
        path.mkdir(parents=True, exist_ok=True)
        mount(Path("tmpfs"), path, "tmpfs")
        path.chmod(0o755)
    if network:
        _machine_network.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        unshare(CLONE_NEWNET)
        set_up_interface("lo")


def in_machine_network(call: Callable[[], T]) -> T:
    """Run ``call``, which downloads something, in the network of the machine; return its result or raise its error."""
    return run_in_namespace(_machine_network[0], call) if _machine_network else call()


@attrs.frozen
class Holdings:
    """Resources of this process: each a set, so that a difference names the leak.

    Of the machine's it has only what no other system owns: `own_machine` hides their namespaces, and an interface that
    a test makes beside them has this process's number in its name.
    """

    fds: frozenset[str]
    namespaces: frozenset[str]
    interfaces: frozenset[str]
    children: frozenset[str]

    @classmethod
    def now(cls) -> Holdings:
        return cls(
            fds=frozenset(_fds()),
            namespaces=frozenset(path.name for path in NETNS.glob("*")),
            interfaces=frozenset(name for _, name in socket.if_nameindex() if str(os.getpid()) in name),
            children=frozenset(_children()),
        )

    def gained(self, before: Holdings) -> dict[str, list[str]]:
        """Per kind, what is there now and was not before."""
        pairs = {
            field.name: getattr(self, field.name) - getattr(before, field.name) for field in attrs.fields(Holdings)
        }
        return {kind: sorted(more) for kind, more in pairs.items() if more}


def _fds() -> Iterator[str]:
    for entry in Path("/proc/self/fd").iterdir():
        try:
            yield f"{entry.name} -> {entry.readlink()}"
        except FileNotFoundError:  # the one that listed the folder
            continue


def _children() -> Iterator[str]:
    for task in Path("/proc/self/task").iterdir():
        yield from (task / "children").read_text().split()


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail the test if it leaves a file descriptor, a process, a namespace or an interface behind.

    Ask for it before the fixtures it shall watch: it looks after they are done.
    """
    before = Holdings.now()
    yield
    deadline = time.monotonic() + GRACE
    while gained := Holdings.now().gained(before):
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: {gained}", pytrace=False)
        time.sleep(0.05)
