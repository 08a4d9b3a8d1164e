"""The log of `vnet up` on a terminal: a driver that gives a wild address, and a standard error that is closed."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support.cli import PATIENCE
from support.paths import ROOT, VNET

pytestmark = pytest.mark.usefixtures("privileged", "no_leaks")

WILD = str(ROOT / "tests" / "support" / "wild.py")
TOPOLOGY = """
[hosts.rc]
[hosts.ep]
[links.pcie0]
root = "rc"
endpoint = "ep"
[devices.wild0]
type = "wild"
link = "pcie0"
"""
BROKE = "broke and is stopped until the driver resets the device"
FAULT = "write of 64 bytes at 0xdeadbeef0000: no memory there"


def start(folder: Path, name: str, *options: str) -> subprocess.Popen[str]:
    topology = folder / "wild.toml"
    topology.write_text(TOPOLOGY, encoding="utf-8")
    command = [VNET, "--load", WILD, "up", "--name", name, *options, str(topology)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def end(up: subprocess.Popen[str]) -> None:
    up.send_signal(signal.SIGTERM)
    up.wait(PATIENCE)
    if up.stderr is not None:
        up.stderr.close()


def test_a_wild_address_is_named_once_and_the_resets_are_counted(tmp_path: Path) -> None:
    up = start(tmp_path, "t-wild")
    try:
        assert up.stderr is not None
        lines = [up.stderr.readline().rstrip() for _ in range(2)]
    finally:
        end(up)
    assert lines == [
        f"vnet: wild0 requestq (device on ep): {BROKE}: {FAULT}",
        f"vnet: wild0 (driver on rc): reset 3 times in a row: requestq: {FAULT} (the device asked for a reset)",
    ]


def test_lines_of_json_have_the_fields_of_the_event(tmp_path: Path) -> None:
    up = start(tmp_path, "t-wildjson", "--log-json")
    try:
        assert up.stderr is not None
        line = json.loads(up.stderr.readline())
    finally:
        end(up)
    expected = {
        "level": "warning", "host": "ep", "device": "wild0", "side": "device", "queue": "requestq",
        "event": "QueueStopped", "cause": FAULT,
    }  # fmt: skip
    assert expected.items() <= line.items()


def test_a_closed_standard_error_ends_nothing(tmp_path: Path) -> None:
    up = start(tmp_path, "t-wildclosed", "-vv")
    try:
        assert up.stderr is not None
        up.stderr.close()
        time.sleep(2)
        assert up.poll() is None
    finally:
        end(up)
