"""`vnet capture` on running systems: its files as other programs read them, its ends, and what it says of bad input."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from support.capturing import capturing
from support.cli import PATIENCE, Up, vnet
from support.machine import RequireTool
from support.paths import BIN


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "capture.log"


def flap(up: Up) -> None:
    for move in ("down", "up"):
        assert vnet("link", "--name", up.name, move).returncode == 0


pytestmark = pytest.mark.usefixtures("privileged", "no_leaks")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_capture_with_complete_files(
    up: Up, log: Path, tmp_path: Path, require_tool: RequireTool, number: signal.Signals
) -> None:
    require_tool("tshark")
    file, timeline = tmp_path / "all.pcapng", tmp_path / "all.json"
    with capturing(log, "--name", up.name, "-w", str(file), "--perfetto", str(timeline)) as capture:
        flap(up)
        status, _, text = capture.end(number)
    assert status == 0
    captured = int(text.splitlines()[-1].split()[0])
    assert text.splitlines()[-1] == f"{captured} events captured, 0 lost"
    events = json.loads(timeline.read_text(encoding="utf-8"))["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) == captured
    done = subprocess.run(["tshark", "-r", file], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert len(done.stdout.splitlines()) == captured > 0


def test_lines_show_what_was_chosen(up: Up, log: Path) -> None:
    with capturing(
        log, "--name", up.name, "--events", "links", "--on", "pcie0", "--filter", "link.up == no"
    ) as capture:
        flap(up)
        status, out, _ = capture.end()
    assert status == 0
    assert out.partition(" ")[2] == "pcie0 link moved: up no, epoch 1\n"


def test_a_capture_ends_with_its_time_and_with_the_system(up: Up, log: Path) -> None:
    done = vnet("capture", "--name", up.name, "--seconds", "0.2")
    assert (done.returncode, done.stderr.count("events captured, 0 lost")) == (0, 1)
    with capturing(log, "--name", up.name) as capture:
        assert vnet("down", "--name", up.name).returncode == 0
        status, _, text = capture.end(None)
    assert (status, "0 lost" in text) == (0, True)


def test_a_reader_that_leaves_ends_a_capture_without_a_word(up: Up, log: Path) -> None:
    with capturing(log, "--name", up.name, "-w", "-") as capture:
        assert capture.process.stdout is not None
        assert capture.process.stdout.read(4) == b"\x0a\x0d\x0d\x0a", "the section header comes at once"
        capture.process.stdout.close()
        assert capture.process.wait(PATIENCE) == 128 + signal.SIGPIPE
        assert len(capture.text().splitlines()) == 1


@pytest.mark.parametrize("option", ["-w", "--perfetto"])
def test_a_full_disk_ends_a_capture_with_one_line(up: Up, option: str) -> None:
    done = vnet("capture", "--name", up.name, "--seconds", "1", option, "/dev/full")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "vnet: /dev/full: No space left on device")


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("--on", "net1"), "device or link 'net1': must be one of net0, pcie0"),
        (("--events", "smoke"), "events 'smoke': must be one of lifecycle, "),
        (("--filter", "smoke == 1"), "filter 'smoke == 1': field 'smoke': must be one of control.command, "),
    ],
)
def test_bad_input_gets_one_line_and_makes_no_file(up: Up, tmp_path: Path, args: tuple[str, str], why: str) -> None:
    done = vnet("capture", "--name", up.name, *args, "-w", str(tmp_path / "none.pcapng"))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert done.stderr.startswith(f"vnet: {why}")
    assert not (tmp_path / "none.pcapng").exists()


def test_extcap_lists_running_systems_and_captures_into_a_fifo(up: Up, tmp_path: Path) -> None:
    def extcap(*args: str) -> str:
        done = subprocess.run(
            [BIN / "vnet-extcap", *args], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    interface = f"vnet-{up.name}"
    listed = extcap("--extcap-interfaces", "--extcap-version=4.4")
    assert f"interface {{value={interface}}}{{display=vnet system {up.name}}}" in listed.splitlines()
    assert extcap("--extcap-dlts", "--extcap-interface", interface).startswith("dlt {number=252}")
    config = extcap("--extcap-config", "--extcap-interface", interface)
    assert "value {arg=0}{value=net0}{display=net0}" in config
    assert "value {arg=1}{value=frames}{display=frames}" in config
    assert extcap("--extcap-interface", interface, "--extcap-capture-filter", "queue == receiveq1") == ""
    assert extcap("--extcap-interface", interface, "--extcap-capture-filter", "x").startswith("filter 'x': must be")
    fifo = tmp_path / "fifo"
    subprocess.run(["mkfifo", fifo], check=True)
    with subprocess.Popen(
        [BIN / "vnet-extcap", "--capture", "--extcap-interface", interface, "--fifo", fifo, "--events", "links"]
    ) as process:
        try:
            with fifo.open("rb") as reader:
                assert reader.read(4) == b"\x0a\x0d\x0d\x0a"
            assert process.wait(PATIENCE) == 0, "Wireshark has closed the FIFO"
        finally:
            if process.poll() is None:
                process.kill()
