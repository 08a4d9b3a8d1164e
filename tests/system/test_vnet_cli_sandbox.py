"""Systems in a sandbox do what others do, with no right, and with no call allowed that they do not need."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.cli import PATIENCE, PING, READY, Up, left_behind, vnet
from support.machine import RequireTool
from support.paths import ROOT, VNET
from vnet.linux.privileges.calls import CALLS, RUN_CALLS, allowed_calls
from vnet.linux.privileges.confinement import why_incomplete

pytestmark = [
    pytest.mark.usefixtures("privileged", "no_leaks"),
    pytest.mark.skipif(bool(why_incomplete()), reason=why_incomplete()),
]

ADDED = """
[hosts.extra]
[devices.extra0]
type = "blk"
transport = "mmio"
host = "extra"
driver = { nbd = "%s/extra.sock" }
device = { store = "memory", size = 1 }
"""
INTERFACES = """
[hosts.extra]
[devices.extra0]
type = "net"
transport = "mmio"
host = "extra"
driver = {}
device = {}
"""
SYSTEM = """
[hosts.rc]
[hosts.ep]
[links.pcie0]
root = "rc"
endpoint = "ep"
[devices.net0]
type = "net"
transport = "pci"
link = "pcie0"
driver = {{ addresses = ["198.18.0.1/24"] }}
device = {{ addresses = ["198.18.0.2/24"] }}
[devices.rpmsg0]
type = "rpmsg"
transport = "pci"
link = "pcie0"
function = 1
driver = {{ channels = [{{ name = "rpmsg-client-sample", surface = "pty", path = "{folder}/tty" }}] }}
device = {{ channels = [{{ name = "rpmsg-client-sample", surface = "echo" }}] }}
[devices.disk]
type = "blk"
transport = "vhost_user"
host = "rc"
socket = "{folder}/vhost.sock"
driver = {{ nbd = "{folder}/disk.sock" }}
"""


def rights(pid: int) -> list[dict[str, str]]:
    """The lines of /proc/PID/task/*/status about rights."""
    keys = {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"}
    threads = []
    for path in Path(f"/proc/{pid}/task").glob("*/status"):
        values = dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)
        threads.append({key: values[key].lstrip("0") for key in keys})
    return threads


NOTHING = {"CapInh": "", "CapPrm": "", "CapEff": "", "CapBnd": "", "CapAmb": "", "NoNewPrivs": "1", "Seccomp": "2"}


@pytest.mark.hostile("X01")
def test_a_strict_system_has_no_right_does_its_work_and_does_not_change(
    name: str, started: list[Up], require_tool: RequireTool, tmp_path: Path
) -> None:
    require_tool("ping")
    started.append(up := Up(name, "--sandbox=strict"))
    up.wait_for(READY)
    assert all(each == NOTHING for each in rights(up.process.pid))
    shown = vnet("show", "--name", name).stdout
    [line] = (line for line in shown.splitlines() if "sandbox" in line)
    assert line in (ROOT / "docs" / "running.md").read_text("utf-8"), "the page shows this line"
    view = json.loads(vnet("show", "--json", "--name", name).stdout)["sandbox"]
    assert view == {"mode": "strict", "capabilities": 0, "no_new_privs": True} | {
        "calls": len(allowed_calls(strict=True, runs_command=False)),
        "landlock": view["landlock"],
    }
    for state in ("down", "up"):
        assert vnet("link", "--name", name, state).returncode == 0
    assert up.exec("rc", *PING, "198.18.0.2").returncode == 0
    file = tmp_path / "added.toml"
    file.write_text(ADDED % tmp_path)
    refused = vnet("add", "--name", name, str(file))
    assert "does not change while it runs: its sandbox is strict; start it with --sandbox=on" in refused.stderr
    assert vnet("down", "--name", name).returncode == 0
    assert up.end() == 0
    assert left_behind(name) == [], "another process, which has kept its rights, has cleaned up"


def test_a_forbidden_change_is_an_error_that_names_the_sandbox(name: str, started: list[Up], tmp_path: Path) -> None:
    started.append(up := Up(name, "--sandbox=on"))
    up.wait_for(READY)
    mtu = vnet("set", "--name", name, "net0", "mtu", "1400")
    assert "the sandbox of this process forbids it to change the MTU of an interface" in mtu.stderr
    for text, why in (
        (INTERFACES, "the sandbox of this process forbids it to make the network namespace"),
        (ADDED % tmp_path, "Permission denied: the sandbox of this process allows only the files that it had"),
    ):
        file = tmp_path / "added.toml"
        file.write_text(text)
        refused = vnet("add", "--name", name, str(file))
        assert (refused.returncode, why in refused.stderr, "--sandbox=off" in refused.stderr) == (1, True, True)
    up.end(signal.SIGKILL)
    for _ in range(100):
        if not left_behind(name):
            break
        vnet("ps")
    assert left_behind(name) == [], "also after a kill"


@contextmanager
def traced(pid: int, log: Path) -> Iterator[Callable[[], set[str]]]:
    """Yield a function that returns the calls that a process has made, once the process has ended."""
    argv = ["strace", "-f", "-qq", "-p", str(pid), "-o", str(log)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as strace:

        def calls() -> set[str]:
            assert strace.wait(PATIENCE) in (0, 1)
            lines = log.read_text(errors="replace").splitlines()
            made = (re.match(r"\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed)", line) for line in lines)
            return {match[1] for match in made if match is not None}

        while not log.exists() or not log.stat().st_size:
            assert strace.poll() is None
        try:
            yield calls
        finally:
            if strace.poll() is None:
                strace.terminate()


@pytest.mark.timeout(600)
def test_no_call_is_allowed_that_nothing_needs(
    name: str, started: list[Up], require_tool: RequireTool, tmp_path: Path
) -> None:
    require_tool("strace", "ping", "fio")
    serve = [VNET, "serve", "blk", "--sandbox=strict", "--vhost-user", str(tmp_path / "vhost.sock")]
    serve += ["--file", str(tmp_path / "disk.img"), "--size", "4", "--name", f"{name}-s"]
    topology, added, script = (tmp_path / file for file in ("system.toml", "added.toml", "load.sh"))
    topology.write_text(SYSTEM.format(folder=tmp_path))
    added.write_text(ADDED % tmp_path)
    script.write_text(LOAD.format(vnet=VNET, name=name, folder=tmp_path, added=added))

    @contextmanager
    def serving() -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert READY in process.stdout.readline()
                yield process
            finally:
                process.send_signal(signal.SIGINT)

    with ExitStack() as stack:
        served = stack.enter_context(serving())
        started.append(up := Up(name, str(topology), "--sandbox=on", "--exec", f"exec sh {script}"))
        up.wait_for("begin")
        of_up = stack.enter_context(traced(up.process.pid, tmp_path / "up"))
        of_serve = stack.enter_context(traced(served.pid, tmp_path / "serve"))
        (tmp_path / "go").touch()
        up.wait_for("restart")
        served.send_signal(signal.SIGINT)
        assert served.wait(PATIENCE) == 0
        stack.enter_context(serving())
        (tmp_path / "again").touch()
        up.wait_for("the end")
        assert up.end(signal.SIGTERM) == 128 + signal.SIGTERM, up.text
        made = of_up() | of_serve()
    needed = {call for call, entry in {**CALLS, **RUN_CALLS}.items() if not entry.rare}
    assert not needed - made, f"allowed, and never made: {sorted(needed - made)}"


LOAD = """
set -e
echo begin
until test -e {folder}/go; do sleep 0.1; done
ping -n -c 2 -i 0.05 -w 15 198.18.0.2
{vnet} link --name {name} down
{vnet} link --name {name} up
{vnet} add --name {name} {added}
{vnet} show --name {name}
disk="nbd+unix:///?socket={folder}/disk.sock"
fio --name=x --ioengine=nbd --uri="$disk" --rw=randwrite --bs=64k --size=1m --fsync=4
fio --name=x --ioengine=nbd --uri="$disk" --rw=randtrim --bs=64k --size=1m
fio --name=x --ioengine=nbd --uri="$disk" --rw=randread --bs=4k --size=256k
echo hello > {folder}/tty
echo restart
until test -e {folder}/again; do sleep 0.1; done
sleep 11 # idle threads end after ten seconds, and others begin
fio --name=x --ioengine=nbd --uri="$disk" --rw=randwrite --bs=64k --size=256k --fsync=1
fio --name=x --ioengine=nbd --uri="$disk" --rw=randread --bs=4k --size=64k
echo the end
sleep 600
"""
