"""Firmware boots from a disk that is our PCI function: its own virtio driver, before there is an operating system."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.guest import Serve
from support.machine import unavailable
from support.new_qemu import function
from support.uefi import boot_disk
from vnet.bench.guest import shared

pytestmark = [pytest.mark.usefixtures("privileged"), pytest.mark.timeout(600)]

SECTOR = 512
PATIENCE = 300.0
"""Seconds that the machine may take to boot."""
CODE = bytes.fromhex(
    "31c0 8ed8"  # xor ax, ax; mov ds, ax
    "bb 007e b80102 b90200 b600 cd13"  # mov bx, 7e00; mov ax, 0201; mov cx, 2; mov dh, 0; int 13: read sector 2
    "be 007e ba f803"  # mov si, 7e00; mov dx, 3f8
    "ac 84c0 7403 ee ebf8"  # lodsb; test al, al; jz +3; out dx, al; jmp -8
    "f4 ebfd"  # hlt; jmp -3
)
"""Prints the text in the second sector to the first serial port. The BIOS leaves the number of the disk in dl."""
TEXT = "read by the firmware from a simulated function"
OVMF = Path("/usr/share/OVMF")


def boot(qemu: Sequence[str], folder: Path, disk: bytes) -> None:
    """Boot from a served disk until its program prints `TEXT` on the serial console."""
    image, log = folder / "boot.img", folder / "serial.log"
    image.write_bytes(disk)
    served = Serve(folder, "blk0", "blk", "--file", str(image), by="--vfio-user")
    try:
        argv = [*qemu, "-machine", "q35,accel=tcg", "-m", "256M", *shared("256M"), "-nodefaults", "-display", "none"]
        machine = subprocess.Popen([*argv, "-serial", f"file:{log}", *function(served.socket)])
        try:
            deadline = time.monotonic() + PATIENCE
            while not (log.exists() and TEXT.encode() in log.read_bytes()):
                assert time.monotonic() < deadline, served.output
                assert machine.poll() is None
                time.sleep(0.1)
        finally:
            machine.kill()
            machine.wait()
    finally:
        served.close()
    assert "Traceback" not in served.output


def test_seabios_boots_from_a_disk_of_ours(new_qemu: Sequence[str], tmp_path: Path) -> None:
    text = TEXT.encode()
    boot(new_qemu, tmp_path, (CODE.ljust(SECTOR - 2, b"\0") + b"\x55\xaa" + text).ljust(1 << 20, b"\0"))


def test_uefi_boots_from_a_disk_of_ours(new_qemu: Sequence[str], tmp_path: Path) -> None:
    """OVMF, from Debian's package; its settings are stored in a copy."""
    code, settings = OVMF / "OVMF_CODE_4M.fd", tmp_path / "settings.fd"
    if not code.exists():
        unavailable("ovmf is not installed")
    shutil.copy(OVMF / "OVMF_VARS_4M.fd", settings)
    drive = "if=pflash,format=raw"
    flash = ["-drive", f"{drive},readonly=on,file={code}", "-drive", f"{drive},file={settings}"]
    boot([*new_qemu, *flash], tmp_path, boot_disk(TEXT))
