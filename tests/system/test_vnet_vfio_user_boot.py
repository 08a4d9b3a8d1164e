"""SeaBIOS boots from a disk that is our PCI function: its own virtio driver, before there is an operating system."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.guest import Serve
from support.new_qemu import function
from vnet.bench.guest import shared

pytestmark = [pytest.mark.usefixtures("privileged"), pytest.mark.timeout(600)]

SECTOR = 512
PATIENCE = 300.0
"""Seconds that the machine may take to boot."""
START = 0x7C00
"""Address at which a BIOS puts the boot sector."""
CODE = bytes.fromhex(
    "31c0 8ed8"  # xor ax, ax; mov ds, ax
    "bb 007e b80102 b90200 b600 cd13"  # mov bx, 7e00; mov ax, 0201; mov cx, 2; mov dh, 0; int 13: read sector 2
    "be 007e ba f803"  # mov si, 7e00; mov dx, 3f8
    "ac 84c0 7403 ee ebf8"  # lodsb; test al, al; jz +3; out dx, al; jmp -8
    "f4 ebfd"  # hlt; jmp -3
)
"""Prints the text in the second sector to the first serial port. The BIOS leaves the number of the disk in dl."""
TEXT = b"read by the BIOS from a simulated function"


def test_seabios_boots_from_a_disk_of_ours(new_qemu: Sequence[str], tmp_path: Path) -> None:
    image, log = tmp_path / "boot.img", tmp_path / "serial.log"
    image.write_bytes((CODE.ljust(SECTOR - 2, b"\0") + b"\x55\xaa" + TEXT).ljust(1 << 20, b"\0"))
    served = Serve(tmp_path, "blk0", "blk", "--file", str(image), by="--vfio-user")
    try:
        argv = [
            *new_qemu,
            "-machine",
            "q35,accel=tcg",
            "-m",
            "256M",
            *shared("256M"),
            "-nodefaults",
            "-display",
            "none",
        ]
        qemu = subprocess.Popen([*argv, "-serial", f"file:{log}", *function(served.socket)])
        try:
            deadline = time.monotonic() + PATIENCE
            while not (log.exists() and TEXT in log.read_bytes()):
                assert time.monotonic() < deadline, served.output
                assert qemu.poll() is None
                time.sleep(0.1)
        finally:
            qemu.kill()
            qemu.wait()
    finally:
        served.close()
    assert "Traceback" not in served.output
