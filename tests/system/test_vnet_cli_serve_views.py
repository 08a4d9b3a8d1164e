"""A served device is a system like any other: ps, show, capture, lspci and down know it; its name is free or given."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.cli import PATIENCE, vnet
from support.guest import Serve
from support.machine import RequireTool
from support.paths import VNET
from support.topologies import VHOST_USER_DISK

pytestmark = pytest.mark.usefixtures("privileged", "no_leaks")

FRONT = VHOST_USER_DISK + 'driver = {{ nbd = "{nbd}" }}\n'


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def serve(stack: ExitStack, folder: Path, *options: str, by: str = "--vhost-user") -> Serve:
    folder.mkdir(exist_ok=True)
    image = folder / "disk.img"
    image.write_bytes(bytes(1 << 20))
    served = Serve(folder, "t-disk", "blk", "--file", str(image), *options, by=by)
    stack.callback(served.close)
    return served


def run(*argv: str, status: int = 0) -> str:
    done = vnet(*argv)
    assert done.returncode == status, done.stderr
    return done.stdout if not status else done.stderr


def states() -> dict[str, str]:
    return {row["name"]: row["state"] for row in json.loads(run("ps", "--json"))}


def test_a_served_device_is_listed_shown_captured_and_ended(
    stack: ExitStack, tmp_path: Path, require_tool: RequireTool
) -> None:
    require_tool("nbdcopy")
    name, served = "serve-blk-t-disk", serve(stack, tmp_path)
    assert states() == {name: "down"}
    assert "device blk0: blk over vhost_user on serve, " in run("show", "--name", name)
    assert "down (no driver is connected)" in run("show", "--name", name)
    front, nbd = tmp_path / "front.toml", tmp_path / "nbd.sock"
    front.write_text(FRONT.format(path=served.socket, nbd=nbd))
    copy = f"nbdcopy 'nbd+unix:///disk0?socket={nbd}' {tmp_path / 'copy.img'}"
    look = f"{VNET} show --name {name} blk0 requestq1 > {tmp_path / 'ring'}; {VNET} ps --json > {tmp_path / 'ps'}"
    with subprocess.Popen(
        [VNET, "capture", "--name", name, "--seconds", "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as capture:
        assert capture.stderr is not None
        assert "capturing" in capture.stderr.readline()
        run("up", "--name", "t-front", str(front), "--exec", f"{copy} && {look}")
        capture.send_signal(signal.SIGINT)
        captured, _ = capture.communicate(timeout=PATIENCE)
    assert "blk0.device.requestq1 chain completed: chain 0, " in captured
    assert "request SET_MEM_TABLE" in captured or "request ADD_MEM_REG" in captured
    ring = (tmp_path / "ring").read_text()
    assert "split ring of 256 descriptors at 0x" in ring
    assert "0 chains outstanding" in ring
    assert {row["name"]: row["state"] for row in json.loads((tmp_path / "ps").read_text())}[name] == "up"
    assert run("down", "--name", name) == f"{name} is down\n"
    served.wait()
    assert not served.socket.exists()
    assert states() == {}


def test_names_are_free_ones_or_those_that_are_given(stack: ExitStack, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        serve(stack, tmp_path / folder)
    serve(stack, tmp_path / "c", "--name", "t-mine")
    assert set(states()) == {"serve-blk-t-disk", "serve-blk-t-disk-2", "t-mine"}
    again = ("serve", "blk", "--vhost-user", str(tmp_path / "d"), "--file", str(tmp_path / "a" / "disk.img"))
    error = run(*again, "--name", "t-mine", status=1)
    assert error == "vnet: t-mine is running already; try: vnet show --name t-mine\n"


def test_remains_of_a_killed_one_are_removed(stack: ExitStack, tmp_path: Path) -> None:
    served = serve(stack, tmp_path)
    served.end(signal.SIGKILL)
    assert served.socket.exists()
    assert states() == {"serve-blk-t-disk": "killed"}
    assert "was killed; removed" in run("down", "--name", "serve-blk-t-disk")
    assert not served.socket.exists()
    assert states() == {}


def test_the_function_of_a_vfio_user_device_is_decoded(
    stack: ExitStack, tmp_path: Path, require_tool: RequireTool
) -> None:
    require_tool("lspci")
    serve(stack, tmp_path, "--name", "t-function", by="--vfio-user")
    text = run("lspci", "--name", "t-function", "-vv")
    assert "Virtio 1.0 block device" in text
    assert ", blk0 on pcie0" in text
    assert "link pcie0: client (root complex) to serve (endpoint), up" in run("show", "--name", "t-function")


def test_a_served_function_is_listed_shown_and_ended(
    stack: ExitStack, tmp_path: Path, require_tool: RequireTool
) -> None:
    """It is no virtio device: `examples/pci_test.py`."""
    require_tool("lspci")
    name, served = "serve-pci_test-t-function", Serve(tmp_path, "t-function", "pci_test", by="--vfio-user")
    stack.callback(served.close)
    assert name in states()
    shown = run("show", "--all", "--name", name)
    assert "function 0 104c:b500 class ff0000" in shown
    assert f"other process at {served.socket}: not connected, 0 connections so far" in shown
    assert "MSI-X: 64 vectors" in shown
    assert "104c:b500" in run("lspci", "--name", name, "-n")
    run("down", "--name", name)
    served.wait()
    assert name not in states()
