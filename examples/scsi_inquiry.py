"""Scans, queries and writes logical units across a simulated PCI Express link. Needs no root.

python examples/scsi_inquiry.py
"""

from pathlib import Path

import trio

from drivers.devices.scsi import LogicalUnit, Lun, UnitIdentity
from drivers.devices.scsi import cdb as scsi
from vnet.ends.scsi import InitiatorEnd, TargetsEnd
from vnet.ports.disk.store import MemoryStore
from vnet.system.world import open_world
from vnet.topology import load

TOPOLOGY = Path(__file__).with_name("topologies") / "scsi_inquiry.toml"


async def main() -> None:
    async with open_world(load(TOPOLOGY), "example") as world:
        await world.wait_up()
        device = world.devices["scsi0"]
        assert isinstance(device.driver_end, InitiatorEnd)
        assert isinstance(device.device_end, TargetsEnd)
        initiator, domain = device.driver_end.initiator, device.device_end.settings.domain

        for lun in await initiator.scan():
            inquiry = await initiator.execute(scsi.inquiry(96), lun=lun, data_in=96)
            serial = await initiator.execute(scsi.inquiry(255, page=0x80), lun=lun, data_in=255)
            size = await initiator.execute(scsi.read_capacity(), lun=lun, data_in=32)
            blocks, block = int.from_bytes(size.data[:8], "big") + 1, int.from_bytes(size.data[8:12], "big")
            print(f"{lun}: {inquiry.data[8:32].decode()} {serial.data[4:].decode()}, {blocks} blocks of {block} bytes")

        text = b"written through a virtqueue".ljust(512, b"\0")
        await initiator.execute(scsi.write(8, 1, fua=True), data_out=text)
        print((await initiator.execute(scsi.read(8, 1), data_in=512)).data.rstrip(b"\0").decode())
        rejected = await initiator.execute(scsi.write(0, 1), lun=Lun(0, 1), data_out=bytes(4096))
        print("a write to 0:1:", rejected.sense)

        with initiator.events() as events:
            domain.add(Lun(0, 2), LogicalUnit(MemoryStore(1 << 20), UnitIdentity("plugged-in")))
            event = await events.receive()
            print("plugged in:", event.lun, "- all units now:", *await initiator.scan())


if __name__ == "__main__":
    trio.run(main)
