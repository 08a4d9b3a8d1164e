"""A guest's shell and monitor, with a script in QEMU's place: lines that get lost, failures, and an early end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from vnet.bench.guest import Guest, GuestError
from vnet.bench.guest_kernel import GuestKernel

QEMU = """
import json, re, socket, subprocess, sys
paths = re.findall(r"unix:([^,]+),server", " ".join(sys.argv))
listeners = [socket.socket(socket.AF_UNIX) for _ in paths]
for listener, path in zip(listeners, paths):
    listener.bind(path)
    listener.listen()
(shell, _), (monitor, _) = (listener.accept() for listener in listeners)
commands = monitor.makefile("rw")

def answer(**members):
    commands.write(json.dumps(members) + "\\n")
    commands.flush()

answer(QMP={{}})
commands.readline()
answer(**{{"return": {{}}}})
losses = {losses}
shell.sendall(b"boot messages\\nguest is up\\n")
for line in shell.makefile("r"):
    size, command = line.rstrip("\\n").split(" ", 1)
    if losses:
        losses -= 1
        command = command[1:]
    if int(size) != len(command):
        shell.sendall(b"again;\\n")
        continue
    shell.sendall(b"taken;\\n")
    if command == "monitor":
        asked = json.loads(commands.readline())
        answer(event="RESUME")
        answer(**({{"return": asked}} if asked["arguments"] else {{"error": "none given"}}))
    if command == "stall":
        continue
    if command == "poweroff":
        sys.exit("powered off")
    done = subprocess.run(command, shell=True, capture_output=True)
    shell.sendall(done.stdout + b"status=%d;\\n" % done.returncode)
"""
KERNEL = cast(GuestKernel, SimpleNamespace(executable="vmlinux", initrd="initrd"))

Start = Callable[..., Guest]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    guests: list[Guest] = []

    def start(losses: int = 0) -> Guest:
        script = tmp_path / "qemu.py"
        script.write_text(QEMU.format(losses=losses))
        guests.append(Guest(KERNEL, tmp_path / "guest", ["-device", "none"], qemu=[sys.executable, str(script)]))
        return guests[-1]

    yield start
    for guest in guests:
        guest.close()
        assert guest.process.returncode is not None


def test_a_shell_line_has_its_output_and_its_status(start: Start) -> None:
    guest = start()
    assert guest.run("echo one; echo two") == "one\ntwo\n"
    assert guest.run("echo bad; exit 3", ok=False) == "bad\n"
    with pytest.raises(GuestError, match=r"^exit 3: status 3\n"):
        guest.run("exit 3")
    guest.send("echo later")
    assert guest.result() == "later\n"


def test_a_line_of_which_bytes_got_lost_is_sent_again_and_never_run_in_part(start: Start, tmp_path: Path) -> None:
    mark = shlex.quote(str(tmp_path / "mark"))
    assert start(losses=3).run(f"echo x >>{mark}; cat {mark}") == "x\n"


def test_a_line_that_never_arrives_whole_is_an_error(start: Start) -> None:
    with pytest.raises(GuestError, match=r"^echo: the guest never got the whole of it\n"):
        start(losses=1000).run("echo")


def test_a_guest_that_is_gone_is_an_error_with_qemus_last_words(start: Start) -> None:
    guest = start()
    guest.send("poweroff")
    with pytest.raises(GuestError, match=r"(?s)^the guest is gone\n.*QEMU: powered off"):
        guest.result()


def test_a_guest_that_does_not_answer_in_time_is_an_error_with_what_it_wrote(start: Start) -> None:
    guest = start()
    guest.send("stall")
    with pytest.raises(GuestError, match=r"^the guest wrote only '' in 0\.1 s\n"):
        guest.result(timeout=0.1)


def test_a_command_to_a_monitor_that_is_gone_says_why(start: Start) -> None:
    guest = start()
    guest.send("poweroff")
    guest.process.wait()
    for _ in range(2):  # the end of the stream, then a broken pipe
        with pytest.raises(GuestError, match=r"device_del: .*\n.*\nQEMU: powered off"):
            guest.monitor("device_del")


def test_a_command_of_the_monitor_has_its_result_after_any_events(start: Start) -> None:
    guest = start()
    guest.send("monitor")
    assert guest.monitor("device_del", id="net0") == {"execute": "device_del", "arguments": {"id": "net0"}}
    guest.result(ok=False)
    guest.send("monitor")
    with pytest.raises(GuestError, match=r"device_del: .*none given"):
        guest.monitor("device_del")


def test_qemu_that_does_not_start_is_an_error_with_its_reason(tmp_path: Path) -> None:
    script = "import sys; sys.exit('no such machine')"
    with pytest.raises(GuestError, match=r"QEMU did not start: no such machine"):
        Guest(KERNEL, tmp_path, [], qemu=[sys.executable, "-c", script])


def test_an_error_has_the_end_of_what_qemu_repeats(tmp_path: Path) -> None:
    script = "import sys; sys.stderr.write('Failed to read msg header.\\n' * 100_000); sys.exit('the last words')"
    with pytest.raises(GuestError) as caught:
        Guest(KERNEL, tmp_path, [], qemu=[sys.executable, "-c", script])
    assert len(str(caught.value)) < 3000
    assert str(caught.value).endswith("the last words\n")
