"""Linux's own virtio_scsi and sd, in a guest, use our logical units: found, written, trimmed, plugged in and out."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from drivers.devices.scsi import LogicalUnit, Lun, ScsiPlug, UnitIdentity
from support.guest import Guest, GuestKernel
from vnet.ports.disk.store import MemoryStore
from vnet.system.exports import DeviceExport, open_exports
from vnet.topology import parse_device

MIB = 1 << 20


@attrs.frozen
class Served:
    """A guest with a SCSI host, and the host's own end."""

    guest: Guest
    plug: ScsiPlug

    async def run(self, command: str) -> str:
        """The output of a line in the guest."""
        return (await trio.to_thread.run_sync(self.guest.run, command)).strip()

    async def until(self, command: str, wanted: str) -> None:
        """Wait until it prints that."""
        actual = ""
        with trio.move_on_after(30):
            while (actual := await self.run(command)) != wanted:  # noqa: ASYNC110  another kernel's
                await trio.sleep(0.2)
        assert actual == wanted


@asynccontextmanager
async def served(kernel: GuestKernel, folder: Path) -> AsyncIterator[Served]:
    (folder / "a.img").write_bytes(os.urandom(64 * MIB))
    (folder / "b.img").write_bytes(b"x" * 16 * MIB)
    units = [
        {"store": "file", "path": str(folder / "a.img"), "serial": "vnet-0001"},
        {"store": "file", "path": str(folder / "b.img"), "target": 3, "lun": 300, "block_size": 4096},
        {"store": "memory", "size": 8, "lun": 1, "read_only": True},
    ]
    spec = parse_device({"type": "scsi", "queues": 2, "device": {"luns": units}}, "test")
    sock = folder / "scsi.sock"
    async with open_exports({"scsi0": DeviceExport(spec, sock)}) as exports:
        plug = exports["scsi0"].end.settings
        assert isinstance(plug, ScsiPlug)
        qemu = ["-chardev", f"socket,id=c0,path={sock}", "-device", "vhost-user-scsi-pci,chardev=c0,num_queues=2"]
        guest = await trio.to_thread.run_sync(partial(Guest, kernel, folder / "guest", qemu, cpus=2))
        try:
            yield Served(guest, plug)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(guest.close)


@pytest.mark.timeout(1800)
async def test_a_linux_guest_finds_and_uses_logical_units(guest_kernel: GuestKernel, tmp_path: Path) -> None:
    async with served(guest_kernel, tmp_path) as linux:
        run, plug = linux.run, linux.plug
        # A LUN from 256 on keeps the bits of its addressing method in Linux's number: 0x412c.
        await linux.until("ls -1 /sys/class/scsi_disk", "0:0:0:0\n0:0:0:1\n0:0:3:16684")
        places = "0:0:0:0", "0:0:0:1", "0:0:3:16684"
        a, ro, b = [await run(f"ls /sys/class/scsi_device/{at}/device/block") for at in places]

        # What it found out about them
        queue = f"/sys/block/{a}/queue"
        assert await run(f"cat /sys/block/{a}/size /sys/block/{b}/size") == "131072\n32768"
        assert await run(f"cat {queue}/logical_block_size") == "512"
        assert await run(f"cat {queue}/physical_block_size {queue}/rotational {queue}/fua") == "4096\n0\n1"
        assert await run(f"cat /sys/block/{b}/queue/logical_block_size") == "4096"
        assert await run(f"cat /sys/block/{ro}/ro") == "1"
        assert await run("cat /sys/class/scsi_disk/0:0:0:0/cache_type") == "write back"
        assert await run("cat /sys/class/scsi_disk/0:0:0:0/provisioning_mode") == "unmap"
        assert int(await run(f"cat {queue}/discard_max_bytes")) > 0
        assert int(await run(f"cat {queue}/write_zeroes_max_bytes")) > 0
        assert await run("cat /sys/class/scsi_device/0:0:0:0/device/queue_depth") == "128"
        assert (await run("cat /sys/class/scsi_device/0:0:0:0/device/wwid")).startswith("naa.3")

        # Data, and what was flushed is in the file
        wanted = (tmp_path / "a.img").read_bytes()
        assert await run(f"cmp /dev/{a} /dev/{a} && md5sum </dev/{a} | cut -c1-8") == _md5(wanted)[:8]
        await run(f"mke2fs -F /dev/{a} >/dev/null 2>&1 && mount -t ext4 /dev/{a} /mnt")
        await run("dd if=/dev/urandom of=/mnt/file bs=64k count=300 conv=fsync 2>/dev/null")
        before = await run("md5sum </mnt/file")
        await run(f"umount /mnt && echo 3 >/proc/sys/vm/drop_caches && mount -t ext4 /dev/{a} /mnt")
        assert await run("md5sum </mnt/file") == before
        await run("umount /mnt")
        assert await run(f"blkdiscard /dev/{b} && cmp -n 16777216 /dev/{b} /dev/zero && echo same") == "same"
        assert (tmp_path / "b.img").read_bytes() == bytes(16 * MIB)

        # Its cache is switched off, which is a MODE SELECT
        await run("echo 'write through' >/sys/class/scsi_disk/0:0:0:0/cache_type")
        unit = plug.domain.disk(Lun(0, 0))
        assert unit is not None
        assert not unit.mode.write_cache

        # Hot plug
        new = LogicalUnit(MemoryStore(4 * MIB), UnitIdentity("plugged-in"))
        plug.domain.add(Lun(5, 0), new)
        await linux.until("ls /sys/class/scsi_disk | grep 0:0:5:0 || true", "0:0:5:0")
        c = await run("ls /sys/class/scsi_device/0:0:5:0/device/block")
        await run(f"echo hello | dd of=/dev/{c} conv=sync,fsync bs=512 2>/dev/null")
        assert new.store.data[:6] == b"hello\n"  # type: ignore[attr-defined]
        await plug.domain.remove(Lun(5, 0))
        await linux.until("ls /sys/class/scsi_disk | grep 0:0:5:0 || true", "")

        assert not [line for line in (await run("dmesg")).splitlines() if "error" in line.lower() and "sd" in line]
        assert set(plug.figures[0].errors) | set(plug.figures[1].errors) <= {"bad_target"}
        assert not plug.events.drops


def _md5(data: bytes) -> str:
    import hashlib

    return hashlib.md5(data, usedforsecurity=False).hexdigest()
