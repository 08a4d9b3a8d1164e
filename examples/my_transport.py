"""A transport of your own, in one file and one line: a network device comes up over it and carries a frame each way.

python examples/my_transport.py
vnet --load examples/my_transport.py demo --transport mine --port memory

A transport joins two halves. The front half does what the virtio bus of the driver's side asks for, as
`drivers.bus.virtio.ConfigOps` lists it. The back half turns what comes over into calls of a
`drivers.bus.vhost.VhostDevice`.
Between them may be anything; here it is eleven 64-bit registers and an interrupt line on a host's platform bus.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from functools import partial

import trio

from drivers.bus.model import MatchId
from drivers.bus.vhost import DeviceQueue, VhostDevice, VhostOps
from drivers.bus.virtio import DriverQueue, QueueSpec, VirtioDevice
from drivers.carriers.base import wait_reset
from drivers.carriers.platform import VirtioPlatformDriver
from drivers.contracts.hw import MmioRegion, PlatformSlot
from drivers.errors import ProbeError
from drivers.memory.vring import VringMemory
from drivers.registry import Transport
from rings.formats import RING_FEATURES
from rings.memory import Memory
from vnet.demo import default_topology
from vnet.system.world import open_world
from vnet.topology.extensions import add_transport

MINE = MatchId(device=0x0001, vendor=int.from_bytes(b"MINE", "big"))  # what firmware calls it: so the front finds it
CONFIG = 0x100  # behind the registers: the device's own configuration, such as its MAC address


class Reg(IntEnum):  # offsets of the registers: all that the two halves have to agree on
    ID = 0x00  # which virtio device this is
    FEATURES = 0x08  # read: what is offered; write: what was chosen
    STATUS = 0x10  # the device status of the specification; 0 resets
    GENERATION = 0x18  # another number whenever the configuration changed
    QUEUE = 0x20  # which queue the next five are about
    SIZE = 0x28  # read: the largest; write: the one in use
    DESC, DRIVER, DEVICE = 0x30, 0x38, 0x40  # where the three parts of its ring are
    ENABLE = 0x48  # 1: the ring is there; 0: touch it no more
    KICK = 0x50  # write the number of a queue: it has new buffers


RING = {Reg.DESC: "desc", Reg.DRIVER: "driver", Reg.DEVICE: "used"}  # the fields of a queue that they set


class Back(VhostOps):
    """The device's half: what each register means to the device, which takes whatever is written."""

    features = RING_FEATURES

    def __init__(self, slot: PlatformSlot, device_id: int, name: str = "") -> None:
        self.device = VhostDevice(device_id, MINE.vendor, self, name)
        self._slot, self._selected = slot, 0
        self.bind, self.unbind = partial(slot.insert, self), slot.remove  # from now on it can be found; no more

    async def serve(self) -> None:
        """Nothing: every access arrives in `read` or `write`."""

    def registers(self) -> dict[str, int]:
        return {}  # for reports

    def memory(self) -> Memory:
        return self._slot.memory

    def call(self, queue: DeviceQueue) -> None:
        self.config_changed()

    def config_changed(self) -> None:
        self._slot.set_irq(True)  # a pulse, whatever it is about: the other half looks at everything
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
        if offset == Reg.FEATURES:
            for select in (0, 1):  # the device takes 32 bits at a time
                device.write_driver_features(select, value >> 32 * select)
        elif offset in (Reg.STATUS, Reg.KICK):
            (device.write_status if offset == Reg.STATUS else device.kick)(value)
        elif offset == Reg.QUEUE:
            self._selected = value
        elif offset == Reg.ENABLE and not value:
            device.disable_queue(self._selected)
        elif queue is not None and offset == Reg.ENABLE:  # there is such a queue, and it is not too late
            device.enable_queue(self._selected)
        elif queue is not None and offset == Reg.SIZE:
            queue.resize(value)
        elif queue is not None and offset in RING:
            setattr(queue, RING[Reg(offset)], value)


class Front:
    """The driver's half: which registers to use for what the virtio bus wants done."""

    features, vendor_id, online = RING_FEATURES, MINE.vendor, True  # a link could be lost; this can't

    def __init__(self, region: MmioRegion) -> None:
        self._region, self.dma = region, region.dma
        self._rings, self._queues = VringMemory(region.dma), list[DriverQueue]()
        self.device_id = self._read(Reg.ID)

    def _read(self, reg: Reg) -> int:
        return self._region.read(reg, 8)

    def _write(self, reg: Reg, value: int) -> None:
        self._region.write(reg, 8, value)

    def own(self, device: VirtioDevice) -> None:
        self._device = device

    def release(self) -> None:
        """Nothing is held beyond `del_vqs`."""

    async def wait_online(self) -> None:
        """It is."""

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
        raise ProbeError("no driver of a network device writes its configuration")

    async def find_vqs(self, device: VirtioDevice, specs: Sequence[QueueSpec]) -> list[DriverQueue]:
        """Allocate the rings, here in the driver's memory, and tell the device where they are."""
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
        self._rings.free()  # now that nobody looks there any more

    def _interrupt(self) -> None:
        for queue in self._queues:
            queue.called()
        self._device.interrupt()


# The one line.
add_transport("mine", Transport("host", VirtioPlatformDriver("mine", (MINE,), Front), Back))

FRAME = bytes.fromhex("020000000002 020000000001 88b5") + b"hello over a transport of my own"


async def main() -> None:
    async with open_world(default_topology("memory", "mine")) as world:
        await world.wait_up()
        for source, sink in (("driver", "device"), ("device", "driver")):
            world.memory_port("net0", source).inject(FRAME)
            _, frame = await world.memory_port("net0", sink).receive()
            print(f"from the {source}'s end to the {sink}'s arrived: {frame[14:].decode()}")


if __name__ == "__main__":
    trio.run(main)
