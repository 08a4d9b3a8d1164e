"""How the process of `vnet` starts and ends: by signals, by readers that leave, and by input from a pipe."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cli import PATIENCE, READY, Up, left_behind, vnet
from support.machine import RequireTool
from support.paths import VNET
from support.topologies import TWO_HOSTS
from vnet import __version__
from vnet.topology import DEFAULT

IN_MEMORY = DEFAULT.replace('"tun"', '"memory"')
DEAF = """\
[hosts.box]
[devices.disk0]
type = "blk"
transport = "vhost_user"
host = "box"
socket = "{}"
"""
FILES = (
    TWO_HOSTS
    + """\
[devices.disk0]
type = "blk"
link = "pcie0"
driver = {{ nbd = "{0}/nbd" }}
[devices.rp0]
type = "rpmsg"
link = "pcie0"
function = 1
[[devices.rp0.driver.channels]]
name = "a"
surface = "socket"
path = "{0}/socket"
[[devices.rp0.driver.channels]]
name = "b"
surface = "pty"
path = "{0}/terminal"
"""
)


def test_python_m_vnet_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "vnet", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert __version__ in done.stdout


@pytest.mark.parametrize("args", [("--help",), ("demo", "--device", "rpmsg", "--seconds", "1")])
def test_a_reader_that_leaves_ends_it_quietly(args: tuple[str, ...]) -> None:
    """The status is that of a program that SIGPIPE ends, as a shell shows it."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([VNET, *args], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=PATIENCE)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_output_that_can_not_be_written_is_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([VNET, "--help"], stdout=full, stderr=subprocess.PIPE, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (1, b"vnet: No space left on device\n")


def test_closed_standard_streams_do_not_become_other_files() -> None:
    """The descriptor of the next file would be 1, and what a program prints would end up in it."""
    check = "[os.path.samestat(os.fstat(fd), os.stat(os.devnull)) for fd in range(3)] == [True] * 3"
    start = f"import os; from vnet.cli import start as s; s._run = lambda *_: 7 if {check} else 1; s.start()"
    shell = f'exec "{sys.executable}" -c "$0" <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", shell, start], check=False, timeout=PATIENCE)
    assert done.returncode == 7


@pytest.mark.parametrize("module", ["click", "trio", "cattrs"])
def test_ctrl_c_in_the_middle_of_the_imports_is_no_traceback(tmp_path: Path, module: str) -> None:
    """A stand-in for a library interrupts the process that imports it, as a user does."""
    stand_in = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    (tmp_path / f"{module}.py").write_text(stand_in)
    done = subprocess.run(
        [VNET, "up"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "")


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[Path]:
    """A socket whose owner does not accept, and whose backlog is full."""
    with contextlib.ExitStack() as stack:
        owner = stack.enter_context(socket.socket(socket.AF_UNIX))
        owner.bind(str(tmp_path / "nbd"))
        owner.listen(0)
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(tmp_path / "nbd"))
        yield tmp_path / "nbd"


def test_serve_reports_a_socket_whose_owner_does_not_accept(deaf: Path) -> None:
    image = deaf.with_name("disk.img")
    done = vnet("serve", "blk", "--file", str(image), "--size", "1", "--vhost-user", str(deaf))
    line = f"vnet: vnet serve blk: socket = '{deaf}': another program listens there already\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)


@pytest.mark.usefixtures("privileged")
class TestUp:
    def test_a_socket_whose_owner_does_not_accept_is_one_line(self, name: str, deaf: Path) -> None:
        """Start-up waited for it without an end, and Ctrl-C did not end that."""
        topology = deaf.with_name("t.toml")
        topology.write_text(FILES.format(deaf.parent))
        done = vnet("up", "--name", name, str(topology))
        line = f"vnet: {topology}: devices.disk0.driver.nbd = '{deaf}': another program listens there already\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
        assert left_behind(name) == []

    def test_a_topology_is_read_from_standard_input(self, name: str) -> None:
        command = [VNET, "up", "--name", name, "--exec", f"{VNET} show --name {name}", "-"]
        done = subprocess.run(command, input=IN_MEMORY, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, "")
        assert "device net0" in done.stdout

    def test_a_wrong_topology_on_standard_input_is_one_line(self, name: str) -> None:
        command = [VNET, "up", "--name", name, "-"]
        done = subprocess.run(command, input="[hosts.rc", capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.returncode == 1
        assert done.stderr.startswith("vnet: standard input: not valid TOML: ")
        assert done.stderr.count("\n") == 1

    def test_an_ignored_sighup_stays_ignored(
        self, name: str, started: list[Up], tmp_path: Path, require_tool: RequireTool
    ) -> None:
        """As nohup has it, for a terminal that is closed."""
        require_tool("nohup")
        topology = tmp_path / "t.toml"
        topology.write_text(IN_MEMORY)
        started.append(Up(name, str(topology), prefix=("nohup",)))
        started[0].wait_for(READY)
        started[0].process.send_signal(signal.SIGHUP)
        assert vnet("show", "--name", name).returncode == 0
        assert started[0].process.poll() is None
        assert started[0].end(signal.SIGTERM) == 0

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_before_all_is_up_is_no_success(
        self, name: str, started: list[Up], tmp_path: Path, number: signal.Signals
    ) -> None:
        """Its device is another program's that is not there, so that it never comes up."""
        topology = tmp_path / "t.toml"
        topology.write_text(DEAF.format(tmp_path / "no-back-end"))
        started.append(Up(name, str(topology)))
        control = Path("/run/vnet") / f"{name}.sock"
        while not control.exists() and started[0].process.poll() is None:
            os.sched_yield()
        assert started[0].end(number) == 128 + number
        assert started[0].text == ""
        assert left_behind(name) == []

    def test_down_removes_sockets_and_terminals_of_a_killed_system(
        self, name: str, started: list[Up], tmp_path: Path
    ) -> None:
        topology = tmp_path / "t.toml"
        made = {tmp_path / word for word in ("nbd", "socket", "terminal")}
        topology.write_text(FILES.format(tmp_path))
        started.append(Up(name, str(topology)))
        started[0].wait_for(READY)
        assert made < set(tmp_path.iterdir())
        assert started[0].end(signal.SIGKILL) == -signal.SIGKILL
        assert made < set(tmp_path.iterdir())
        assert vnet("down", "--name", name).stdout == f"{name} was killed; removed its files\n"
        assert set(tmp_path.iterdir()) == {topology}
        assert left_behind(name) == []
