"""`vnet serve` as its user meets it: the arguments that it prints for QEMU, and a machine without /proc."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
import trio

from rings.features import RingFeature, mask
from support.guest import Guest, GuestKernel
from support.machine import MakeNetns, RequireTool
from support.paths import MY_DEVICE, VNET
from support.rigs.vhost_user import FrontEnd, request
from vnet.linux.ipc import connect
from vnet.system.qemu import PROGRAM, qemu_version

FEATURES = mask((RingFeature.VERSION_1, RingFeature.EVENT_IDX, RingFeature.INDIRECT_DESC))
PATIENCE = 60.0
HINTS = {
    "net": "serve net --tap hint0 --mtu 9000",
    "pairs": "serve net --tun hint0 --pairs 2 --ring packed",
    "blk": "serve blk --file {image}",
    "blk_queues": "serve blk --file {image} --queues 2 --queue-size 64",
    "scsi": "serve scsi --lun path={image}",
    "scsi_queues": "serve scsi --lun path={image} --queues 2 --queue-size 64",
    "net_connect": "serve net --tap hint0 --connect",
    "blk_connect": "serve blk --file {image} --connect",
    "scsi_connect": "serve scsi --lun path={image} --connect",
    "entropy": f"--load {MY_DEVICE} serve entropy",
}
"""Each kind of line that is printed, by the command that prints it."""


@contextmanager
def serving(folder: Path, line: str, *around: str) -> Iterator[tuple[list[str], Path]]:
    """Run a command of ``vnet``; the arguments that it prints for QEMU, and the file with its reports."""
    image, reports = folder / "disk.img", folder / "reports"
    image.touch()
    os.truncate(image, 16 << 20)
    argv = [*around, VNET, *shlex.split(line.format(image=image)), "--vhost-user", str(folder / "serve.sock")]
    with (
        reports.open("wb") as errors,
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            yield list(_arguments(process.stdout, reports)), reports
        finally:
            process.terminate()
            status = process.wait(60)
    assert (status, "Traceback" in reports.read_text()) == (0, False), reports.read_text()


def _arguments(printed: IO[str], reports: Path) -> Iterator[str]:
    """Lines that are indented, as a shell reads them; the last one is that of the device."""
    actual = printed.readline()
    assert "Ctrl-C ends it" in actual, actual + reports.read_text()
    words: list[str] = []
    while "-device" not in words:
        line = printed.readline()
        assert line, reports.read_text()
        words = shlex.split(line) if line.startswith("  ") else []
        yield from words


@pytest.mark.usefixtures("privileged")
@pytest.mark.parametrize("kind", HINTS)
def test_qemu_takes_every_line_that_is_printed_with_two_processors(
    kind: str, tmp_path: Path, require_tool: RequireTool, netns: MakeNetns
) -> None:
    """Its monitor answers only once every device is made, for which the back end was asked all it is asked."""
    require_tool(PROGRAM)
    line = HINTS[kind] + (f" --netns {netns(kind)}" if "serve net" in HINTS[kind] else "")
    monitor, log = tmp_path / "qmp", tmp_path / "qemu.log"
    machine = f"-machine q35,accel=tcg -smp 2 -nodefaults -display none -S -qmp unix:{monitor},server=on,wait=off"
    with serving(tmp_path, line) as (words, reports), log.open("wb") as output:
        argv = [PROGRAM, *shlex.split(machine), *words]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as qemu:
            try:
                deadline = time.monotonic() + PATIENCE
                while True:
                    assert qemu.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, "QEMU never came up"
                    with socket.socket(socket.AF_UNIX) as client:
                        try:
                            client.connect(str(monitor))
                        except OSError:
                            time.sleep(0.05)
                            continue
                        client.settimeout(PATIENCE)
                        assert "QMP" in json.loads(client.makefile().readline())
                        break
                assert "a front end is connected" in reports.read_text()
                assert "closed" not in reports.read_text()
            finally:
                qemu.terminate()
                qemu.wait(60)


def numbered(words: list[str], number: int) -> list[str]:
    """Arguments for a guest that has several such devices, and memory already."""
    at = words.index("-chardev")
    renamed = (word.replace("=c0", f"=c{number}").replace("=n0", f"=n{number}") for word in words[at:])
    old = (qemu_version() or (99, 0)) < (8, 0)  # which crashes on MSI-X of vhost-user without KVM
    return [f"{word},vectors=0" if old and "-pci" in word else word for word in renamed]


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("privileged")
def test_a_guest_with_the_printed_lines_has_everything_that_they_promise(
    guest_kernel: GuestKernel, tmp_path: Path, netns: MakeNetns
) -> None:
    """Two processors, rings smaller than the segments that are shown, and the MTU of the interface."""
    name = netns("hints")
    lines = {
        "net": f"serve net --tap hint0 --netns {name} --address 198.18.0.1/24 --mtu 9000",
        "blk": "serve blk --file {image} --queue-size 64",
        "scsi": "serve scsi --lun path={image} --queue-size 64",
    }
    for kind in lines:
        (tmp_path / kind).mkdir()
    with (
        serving(tmp_path / "net", lines["net"]) as (net, _),
        serving(tmp_path / "blk", lines["blk"]) as (blk, _),
        serving(tmp_path / "scsi", lines["scsi"]) as (scsi, _),
    ):
        words = [word for number, each in enumerate((net, blk, scsi)) for word in numbered(each, number)]
        guest = Guest(guest_kernel, tmp_path / "guest", words, cpus=2)
        try:
            assert guest.run("cat /sys/class/net/eth0/mtu").strip() == "9000"
            guest.run("ip addr add 198.18.0.2/24 dev eth0; ip link set eth0 up")
            guest.run("ping -c 1 -W 30 -s 8000 198.18.0.1")
            subprocess.run(
                ["ip", "netns", "exec", name, "ping", "-M", "do", "-c", "1", "-w", "30", "-s", "8000", "198.18.0.2"],
                check=True,
                capture_output=True,
                timeout=60,
            )
            for disk in ("vda", "sda"):
                guest.run(f"dd if=/dev/{disk} of=/dev/null bs=1M iflag=direct")
        finally:
            guest.close()


@pytest.mark.usefixtures("privileged")
def test_a_machine_without_proc_serves_as_any_other(tmp_path: Path, require_tool: RequireTool) -> None:
    require_tool("unshare", "mount")
    hide = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh")

    async def use() -> bytes:
        front = FrontEnd(await connect(tmp_path / "serve.sock"), FEATURES)
        try:
            await front.bring_up()
            return await request(front, front.rings[0], 1, 0, b"x" * 512)
        finally:
            front.close()

    with serving(tmp_path, "serve blk --file {image}", *hide):
        assert trio.run(use)[-1] == 0
    assert (tmp_path / "disk.img").read_bytes()[:512] == b"x" * 512
