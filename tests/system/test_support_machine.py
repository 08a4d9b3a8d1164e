"""The fixtures that give tests tools, privileges and namespaces take back what they gave."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from support.machine import NETNS, Holdings, MakeNetns, ip
from support.paths import ROOT


def run(pytester: pytest.Pytester) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", "support.machine", "-ra")


def test_a_namespace_has_a_unique_name_and_loopback_up(netns: MakeNetns) -> None:
    first, second = netns("rc"), netns("rc")
    assert first != second
    assert "LOOPBACK,UP" in ip("-n", first, "-o", "link", "show", "lo")


def test_namespaces_go_also_after_a_failure_and_with_processes_in_them(
    pytester: pytest.Pytester, privileged: None
) -> None:
    pytester.makepyfile("""
        import subprocess

        def test_it(netns):
            name = netns("left")
            sleep = "sleep 60 >/dev/null 2>&1 & echo $!"
            pid = subprocess.check_output(["ip", "netns", "exec", name, "sh", "-c", sleep], text=True)
            print("made", name, pid)
            assert False
        """)
    result = run(pytester)
    result.assert_outcomes(failed=1)
    [[_, name, pid]] = [line.split() for line in result.outlines if line.startswith("made ")]
    assert not (NETNS / name).exists()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()


@contextmanager
def open_pipe() -> Iterator[None]:
    ends = os.pipe()
    yield
    for fd in ends:
        os.close(fd)


@contextmanager
def child_process() -> Iterator[None]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield
        process.kill()


@contextmanager
def namespace() -> Iterator[None]:
    name = f"t{os.getpid()}-leak"
    ip("netns", "add", name)
    yield
    ip("netns", "del", name)


@contextmanager
def interface() -> Iterator[None]:
    name = f"t{os.getpid()}"
    ip("tuntap", "add", name, "mode", "tun")
    yield
    ip("tuntap", "del", name, "mode", "tun")


@pytest.mark.parametrize(
    ("kind", "hold"),
    [("fds", open_pipe), ("children", child_process), ("namespaces", namespace), ("interfaces", interface)],
)
def test_resources_in_use_are_seen_and_released_ones_are_not(
    privileged: None, kind: str, hold: Callable[[], AbstractContextManager[None]]
) -> None:
    before = Holdings.now()
    with hold():
        assert list(Holdings.now().gained(before)) == [kind]
    assert Holdings.now().gained(before) == {}


WORKER = """
import os, socket
from support.machine import NETNS, RUN_DIR, in_machine_network, own_machine
inode = lambda: os.stat("/proc/thread-self/ns/net").st_ino
outside = inode()
own_machine(network=True)
assert (inode() != outside, in_machine_network(inode)) == (True, outside)
assert [name for _, name in socket.if_nameindex()] == ["lo"]
assert not [*NETNS.iterdir(), *RUN_DIR.iterdir()]
(NETNS / "mine").touch()
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname()).close()
    print("port", server.getsockname()[1], flush=True)
    input()
"""


def test_a_worker_has_a_network_and_names_of_its_own_and_reaches_that_of_the_machine(privileged: None) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WORKER], cwd=ROOT / "tests", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        word, port = process.stdout.readline().split()
        assert word == "port"
        assert not (NETNS / "mine").exists()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(port)))
        process.communicate("\n")
    assert process.returncode == 0


class Kept:
    """A plugin that lets an inner test hand file descriptors to the outer one, which closes them."""

    def __init__(self) -> None:
        self.fds: list[int] = []

    @pytest.fixture
    def kept(self) -> list[int]:
        return self.fds


def test_a_test_that_leaves_something_behind_fails(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.machine.GRACE", 0.1)
    pytester.makepyfile("import os\ndef test_it(no_leaks, kept):\n    kept.append(os.open('/dev/zero', os.O_RDONLY))\n")
    holder = Kept()
    result = pytester.runpytest_inprocess("-p", "support.machine", plugins=[holder])
    for fd in holder.fds:
        os.close(fd)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*left behind: {'fds': *-> /dev/zero*"])


@pytest.mark.parametrize(("ci", "outcome"), [("", "skipped"), ("true", "failed")])
def test_a_missing_tool_skips_but_fails_in_ci(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str, outcome: str
) -> None:
    monkeypatch.setenv("CI", ci)
    pytester.makepyfile("def test_it(require_tool):\n    require_tool('no-such-tool')\n")
    result = run(pytester)
    result.assert_outcomes(**{outcome: 1})
    result.stdout.fnmatch_lines(["*not on PATH: no-such-tool*"])
