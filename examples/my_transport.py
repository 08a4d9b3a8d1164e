"""A custom transport in one file: a network device comes up over it and carries a frame each way.

python examples/my_transport.py
vnet --load examples/my_transport.py demo --transport mine --port memory

A transport joins two halves. The front half implements `drivers.bus.virtio.ConfigOps` for the virtio bus of the
driver's host. The back half turns register accesses into calls of a `drivers.bus.vhost.VhostDevice`. This transport is
eleven 64-bit registers and an interrupt line on a host's platform bus.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from functools import partial

import trio

from drivers.bus.back import Identity, VhostBack
from drivers.bus.model import MatchId
from drivers.bus.vhost import DeviceQueue
from drivers.bus.virtio import DriverQueue, QueueSpec, VirtioDevice
from drivers.carriers.base import wait_reset
from drivers.carriers.platform import RegionTransport, VirtioPlatformDriver
from drivers.carriers.transport import PlatformTransport
from drivers.contracts.hw import MmioRegion, PlatformSlot
from rings.layout import Area
from rings.memory import Memory
from vnet.demo import default_topology
from vnet.system.world import open_world
from vnet.topology.extensions import add_transport

MINE = MatchId(device=0x0001, vendor=int.from_bytes(b"MINE", "big"))  # the firmware id that the front half matches
CONFIG = 0x100  # offset of the device's configuration space, which holds its MAC address for example


class Reg(IntEnum):  # register offsets, the whole interface between the two halves
    ID = 0x00  # virtio device id
    FEATURES = 0x08  # read: device features; write: driver features
    STATUS = 0x10  # device status; writing 0 resets
    GENERATION = 0x18  # changes with every configuration change
    QUEUE = 0x20  # selects the queue for the next five registers
    SIZE = 0x28  # read: largest size; write: size in use
    DESC, DRIVER, DEVICE = 0x30, 0x38, 0x40  # addresses of the three ring areas
    ENABLE = 0x48  # 1 starts the queue, 0 stops it
    KICK = 0x50  # write a queue index: new buffers are available


RING = {Reg.DESC: Area.DESC, Reg.DRIVER: Area.DRIVER, Reg.DEVICE: Area.DEVICE}  # the ring area of each register


class Back(VhostBack):
    """The device's half: handles register accesses."""

    def __init__(self, slot: PlatformSlot, identity: Identity) -> None:
        super().__init__(identity, MINE.vendor)
        self._slot, self._selected = slot, 0

    def bind(self) -> None:
        self._slot.insert(self)  # shows the device

    def unbind(self) -> None:
        self._slot.remove()

    def memory(self) -> Memory:
        return self._slot.memory

    def call(self, queue: DeviceQueue) -> None:
        self.config_changed()

    def config_changed(self) -> None:
        self._slot.set_irq(True)  # one pulse for every cause: the front half checks all queues and the configuration
        self._slot.set_irq(False)

    def read(self, offset: int, size: int) -> int:
        device, queue = self.device, self.device.queue(self._selected)
        if offset >= CONFIG:
            return int.from_bytes(device.read_config(offset - CONFIG, size), "little")
        values: dict[int, int] = {Reg.ID: device.device_id, Reg.FEATURES: device.device_features}
        values |= {Reg.STATUS: device.status, Reg.GENERATION: device.generation}
        if queue is not None:
            values[Reg.SIZE] = queue.max_num
        return values.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        device, queue = self.device, self.device.idle_queue(self._selected)
        if offset >= CONFIG:
            device.write_config(offset - CONFIG, value.to_bytes(size, "little"))
        elif offset == Reg.FEATURES:
            for select in (0, 1):  # the device takes features 32 bits at a time
                device.write_driver_features(select, value >> 32 * select)
        elif offset in (Reg.STATUS, Reg.KICK):
            (device.write_status if offset == Reg.STATUS else device.kick)(value)
        elif offset == Reg.QUEUE:
            self._selected = value
        elif offset == Reg.ENABLE and not value:
            device.disable_queue(self._selected)
        elif queue is not None and offset == Reg.ENABLE:  # the queue exists and is not enabled yet
            device.enable_queue(self._selected)
        elif queue is not None and offset == Reg.SIZE:
            queue.resize(value)
        elif queue is not None and offset in RING:
            queue.addrs = queue.addrs.with_bits(RING[Reg(offset)], value)


class Front(RegionTransport):
    """The driver's half: `drivers.bus.virtio.ConfigOps` in terms of the registers."""

    vendor_id = MINE.vendor

    def __init__(self, region: MmioRegion) -> None:
        super().__init__(region)
        self.device_id = self._read(Reg.ID)

    def _read(self, reg: Reg) -> int:
        return self._region.read(reg, 8)

    def _write(self, reg: Reg, value: int) -> None:
        self._region.write(reg, 8, value)

    async def get_status(self) -> int:
        return self._read(Reg.STATUS)

    async def set_status(self, status: int) -> None:
        self._write(Reg.STATUS, status)

    async def reset(self) -> None:
        self._write(Reg.STATUS, 0)
        await wait_reset(self._region.name, partial(self._read, Reg.STATUS), lambda: True)

    async def get_features(self) -> int:
        return self._read(Reg.FEATURES)

    async def finalize_features(self, features: int) -> None:
        self._write(Reg.FEATURES, features)

    async def generation(self) -> int:
        return self._read(Reg.GENERATION)

    async def read_config(self, offset: int, size: int) -> bytes:
        return self._region.read(CONFIG + offset, size).to_bytes(size, "little")

    async def write_config(self, offset: int, data: bytes) -> None:
        self._region.write(CONFIG + offset, len(data), int.from_bytes(data, "little"))

    async def find_vqs(self, device: VirtioDevice, specs: Sequence[QueueSpec]) -> list[DriverQueue]:
        """Allocate the rings in the driver's memory, pass their addresses to the device, and return the queues."""
        self._region.request_irq(self._interrupt)
        for index, spec in enumerate(specs):
            self._write(Reg.QUEUE, index)
            vring = self._rings.make(device.features, self._read(Reg.SIZE), spec.num, spec.segments, spec.name)
            self._queues.append(DriverQueue(index, spec, vring.ring, partial(self._write, Reg.KICK, index)))
            values = vring.num, vring.addrs.desc, vring.addrs.driver, vring.addrs.device, 1
            for reg, value in zip((Reg.SIZE, *RING, Reg.ENABLE), values, strict=True):
                self._write(reg, value)
        return self._queues

    def del_vqs(self) -> None:
        self._region.free_irq()
        for queue in self._queues:
            queue.close()
            self._write(Reg.QUEUE, queue.index)
            self._write(Reg.ENABLE, 0)
        self._queues = []
        self._rings.free()  # safe now: the device no longer uses them

    def _interrupt(self) -> None:
        for queue in self._queues:
            queue.on_call()
        if self._device is not None:
            self._device.interrupt()


# Registers the transport.
add_transport("mine", PlatformTransport(VirtioPlatformDriver("mine", (MINE,), Front), Back))

FRAME = bytes.fromhex("ffffffffffff 020000000001 88b5") + b"hello over a custom transport"


async def main() -> None:
    async with open_world(default_topology("memory", "mine")) as world:
        await world.wait_up()
        for source, sink in (("driver", "device"), ("device", "driver")):
            world.memory_port("net0", source).inject(FRAME)
            _, frame = await world.memory_port("net0", sink).receive()
            print(f"from the {source}'s end to the {sink}'s: {frame[14:].decode()}")


if __name__ == "__main__":
    trio.run(main)
