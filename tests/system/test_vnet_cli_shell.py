"""``vnet shell``: statements from standard input on a running system."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.cli import PATIENCE, left_behind, vnet
from support.paths import TOPOLOGIES, VNET


def shell(statements: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [VNET, "shell", *args], input=statements, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


def test_a_frame_built_with_scapy_crosses_the_system() -> None:
    done = shell(
        "frame = Ether(src='02:00:00:00:00:01', dst='02:00:00:00:00:02') / IP(dst='198.18.0.2') / UDP() / b'hello'\n"
        "ports['net0.driver'].inject(bytes(frame))\n"
        "header, data = await ports['net0.device'].receive()\n"
        "Ether(data)[UDP].payload.load\n"
        "rings['net0.transmitq1'].device['idx']\n"
        "sorted(hosts), sorted(links), sorted(devices), world.name\n"
    )
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["True", "b'hello'", "1", "(['ep', 'rc'], ['pcie0'], ['net0'], 'vnet')"]
    assert done.stderr.splitlines()[0] == "vnet is up: hosts rc, ep; links pcie0; devices net0."


def test_unknown_rings_list_those_that_there_are_and_the_prompt_goes_on() -> None:
    done = shell("rings['net0.q']\nlen(rings)\n")
    assert "KeyError: 'net0.q: must be one of net0.receiveq1, net0.transmitq1, net0.controlq'" in done.stderr
    assert done.stdout == "3\n"


@pytest.mark.parametrize("statements", ["", "exit()\n"])
def test_the_end_of_the_input_or_exit_ends_it(statements: str) -> None:
    assert shell(statements).returncode == 0


def test_a_file_that_is_wrong_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text("[hosts.a]\n", encoding="utf-8")
    done = shell("", str(tmp_path / "t.toml"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("ring", ["split", "packed"])
@pytest.mark.usefixtures("privileged", "no_leaks")
def test_a_topology_of_a_file_is_known_to_the_other_commands(tmp_path: Path, name: str, ring: str) -> None:
    text = (
        (TOPOLOGIES / "rc_ep.toml")
        .read_text(encoding="utf-8")
        .replace("[devices.net0]", f"[devices.net0]\nring = '{ring}'")
    )
    (tmp_path / "t.toml").write_text(text, encoding="utf-8")
    done = shell(
        "import subprocess\n"
        f"show = [{VNET!r}, 'show', '--name', world.name, '--json']\n"
        "done = await trio.run_process(show, capture_stdout=True)\n"
        "print(done.stdout.decode())\n"
        "print(rings['net0.receiveq1'].format, len(rings['net0.receiveq1'].chains))\n",
        str(tmp_path / "t.toml"),
        "--name",
        name,
    )
    assert done.returncode == 0, done.stderr
    *shown, last = done.stdout.splitlines()
    assert json.loads("\n".join(shown))["name"] == name
    assert last == f"{ring} 256"
    assert left_behind(name) == []


@pytest.mark.usefixtures("privileged", "no_leaks")
def test_vnet_down_and_sigterm_end_it(name: str) -> None:
    for end in ("down", "term"):
        process = subprocess.Popen(
            [VNET, "shell", str(TOPOLOGIES / "rc_ep.toml"), "--name", name],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith(f"{name} is up")
            if end == "down":
                assert vnet("down", "--name", name).returncode == 0
            else:
                process.terminate()
            status = process.wait(PATIENCE)
            assert status == (0 if end == "down" else 128 + signal.SIGTERM)
        finally:
            process.kill()
            process.communicate()
        assert left_behind(name) == []


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, fd: int, pid: int) -> None:
        self._fd, self._pid = fd, pid
        self.text = ""
        self._at = 0  # end of the last word waited for

    def wait_for(self, word: str) -> None:
        end = time.monotonic() + PATIENCE
        while word not in self.text[self._at :]:
            assert time.monotonic() < end, self.text
            if select.select([self._fd], [], [], 0.1)[0]:
                self.text += os.read(self._fd, 65536).decode(errors="replace")
        self._at = self.text.index(word, self._at) + len(word)

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def end(self) -> int:
        try:
            while data := os.read(self._fd, 65536):
                self.text += data.decode(errors="replace")
        except OSError:
            pass  # a terminal whose program has ended reads as an error
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


@contextmanager
def terminal(*args: str) -> Iterator[Terminal]:
    pid, fd = pty.fork()
    if not pid:
        os.execv(VNET, [VNET, *args])
    try:
        yield Terminal(fd, pid)
    finally:
        os.close(fd)  # the program gets SIGHUP if it runs still


def test_on_a_terminal_ctrl_c_ends_a_statement_and_ctrl_d_the_system() -> None:
    with terminal("shell") as prompt:
        prompt.wait_for(">>> ")
        prompt.type("await trio.sleep_forever()\n")
        prompt.wait_for("forever()")
        time.sleep(0.5)  # the prompt reads the line by then; if not, Ctrl-C discards it, with the same output
        prompt.type("\x03")
        prompt.wait_for("KeyboardInterrupt")
        prompt.wait_for(">>> ")
        prompt.type("6 * 7\n")
        prompt.wait_for("\n42")
        prompt.wait_for(">>> ")
        prompt.type("\x04")
        assert prompt.end() == 0


def test_on_a_terminal_a_lesson_stops_at_each_step() -> None:
    with terminal("learn", "split") as lesson:
        lesson.wait_for("q: end")
        assert "split 2." not in lesson.text
        lesson.type("\n")
        lesson.wait_for("q: end")
        assert "split 2." in lesson.text
        assert "split 3." not in lesson.text
        lesson.type("q\n")
        assert lesson.end() == 0
        assert "split 3." not in lesson.text
