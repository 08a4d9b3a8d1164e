"""The hostile driver at a virtio-pci device; for other transports there are subclasses."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Generic, TypeVar

import attrs
import trio
import trio.testing

from drivers.contracts.hw import DmaBuffer
from drivers.devices.net.layout import CONTROLLED
from drivers.testing import read_structures
from drivers.transports.pci.registers import SIZES, CfgType, Common, Structure
from rings.ids import DeviceId
from rings.layout import SPLIT_ALIGN, RingAddrs, split_sizes
from rings.memory import Addr
from rings.status import Status
from rings.testing import Desc, RawRing
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.testing.checks import bounded
from vnet.testing.pair import Pair

__all__ = ["HostileDriver", "P_co", "unpin"]


P_co = TypeVar("P_co", bound=Pair, covariant=True)


class HostileDriver(Generic[P_co]):
    """A driver's place at the registers and rings of a virtio-pci device: it does what the test says, unchecked.

    For other transports there are subclasses, which do the same elsewhere.
    """

    function: PciFunctionHandle
    structures: Mapping[int, Structure]

    def __init__(self, carrier: Any, pair: P_co) -> None:
        """``carrier`` is what the transport stands on, such as a PCI function."""
        self.look(carrier)
        self.pair = pair
        self.memory = pair.rc.memory
        self.rings: list[RawRing] = []
        self.calls: list[int] = []
        """The MSI-X vectors that came in, in order."""
        self._buffers: list[DmaBuffer] = []
        self._raw: list[RawRing] = []

    async def arrive(self) -> None:
        """Do what the transport needs before the first access."""

    # Registers

    def look(self, carrier: Any) -> None:
        """Find the registers."""
        self.function = carrier
        self.structures = read_structures(carrier)

    def places(self) -> tuple[int, int]:
        """Where registers and notifications are among the host's addresses."""
        registers = self.function.bars[0].address
        return registers, registers + self.structures[CfgType.NOTIFY].offset

    def read(self, field: Common) -> int:
        at = self.structures[CfgType.COMMON]
        return self.function.bar_read(at.bar, at.offset + field, SIZES[field])

    def write(self, field: Common, value: int) -> None:
        at = self.structures[CfgType.COMMON]
        self.function.bar_write(at.bar, at.offset + field, SIZES[field], value)

    @property
    def status(self) -> Status:
        return Status(self.read(Common.DEVICE_STATUS))

    @status.setter
    def status(self, value: int) -> None:
        self.write(Common.DEVICE_STATUS, value)

    @property
    def device_features(self) -> int:
        value = 0
        for select in range(4):
            self.write(Common.DEVICE_FEATURE_SELECT, select)
            value |= self.read(Common.DEVICE_FEATURE) << 32 * select
        return value

    @property
    def driver_features(self) -> int:
        value = 0
        for select in range(4):
            self.write(Common.DRIVER_FEATURE_SELECT, select)
            value |= self.read(Common.DRIVER_FEATURE) << 32 * select
        return value

    @driver_features.setter
    def driver_features(self, value: int) -> None:
        for select in range(4):
            self.write(Common.DRIVER_FEATURE_SELECT, select)
            self.write(Common.DRIVER_FEATURE, value >> 32 * select & 0xFFFF_FFFF)

    def config(self, offset: int, size: int) -> int:
        """Device-specific configuration."""
        at = self.structures[CfgType.DEVICE]
        return self.function.bar_read(at.bar, at.offset + offset, size)

    def kick(self, queue: int, value: int | None = None) -> None:
        at = self.structures[CfgType.NOTIFY]
        self.function.bar_write(at.bar, at.offset + queue * at.multiplier, 2, queue if value is None else value)

    # What a well-behaved driver does, step by step, and as a whole.

    async def reset(self) -> None:
        """Status 0, until it reads back. Raises AssertionError after a second."""
        self.status = Status(0)
        with bounded():
            while self.status:  # noqa: ASYNC110  a register wakes no task
                await trio.sleep(0.001)

    async def negotiate(self, features: int | None = None) -> None:
        """Steps 1 to 6, with all that is offered by default."""
        await self.reset()
        self.status = Status.ACKNOWLEDGE
        self.status |= Status.DRIVER
        self.driver_features = self.device_features if features is None else features
        self.status |= Status.FEATURES_OK

    def set_up(self, queue: int, num: int | None = None, *, enable: bool = True) -> RawRing:
        """Ring memory, and its addresses in the registers."""
        num = self.queue_size(queue, num)
        areas = (self.alloc(size, max(64, align)) for size, align in zip(split_sizes(num), SPLIT_ALIGN, strict=True))
        ring = RawRing(self.memory, num, RingAddrs(*areas))
        self._raw.append(ring)
        self.place(queue, num, ring.addrs)
        if enable:
            self.enable(queue)
        return ring

    def queue_size(self, queue: int, num: int | None) -> int:
        """Request ``num`` entries unless it is None. Returns the size of the queue."""
        self.write(Common.QUEUE_SELECT, queue)
        if num is not None:
            self.write(Common.QUEUE_SIZE, num)
        return self.read(Common.QUEUE_SIZE)

    def place(self, queue: int, num: int, addrs: RingAddrs) -> None:
        """Tell the device where a ring is."""
        self.write(Common.QUEUE_SELECT, queue)
        fields = Common.QUEUE_DESC, Common.QUEUE_DRIVER, Common.QUEUE_DEVICE
        for field, area in zip(fields, attrs.astuple(addrs), strict=True):
            self.write(field, area)

    def enable(self, queue: int) -> None:
        self.write(Common.QUEUE_SELECT, queue)
        self.write(Common.QUEUE_ENABLE, 1)

    def map_vectors(self, queues: int = 2) -> None:
        """MSI-X: vector 0 for the configuration, one for each queue; `calls` takes what comes."""
        self.function.enable_msix()
        for vector in range(queues + 1):
            self.function.request_irq(vector, partial(self.calls.append, vector))
        self.point(queues)

    def point(self, queues: int) -> None:
        """Give the device its vectors."""
        self.write(Common.CONFIG_MSIX_VECTOR, 0)
        for queue in range(queues):
            self.write(Common.QUEUE_SELECT, queue)
            self.write(Common.QUEUE_MSIX_VECTOR, queue + 1)

    async def start(self, features: int | None = None, num: int | None = None, queues: int = 2) -> None:
        """Steps 1 to 8: MSI-X, and the first ``queues`` queues as `rings`, with nothing in them yet.

        Of a network device, whose two first they are, nothing is accepted by default that needs a control queue.
        """
        if features is None:
            controlled = CONTROLLED if self.pair.vhost.device_id == DeviceId.NET else 0
            features = self.device_features & ~controlled
        await self.negotiate(features)
        self.map_vectors(queues)
        self.rings = [self.set_up(queue, num) for queue in range(queues)]
        self.status |= Status.DRIVER_OK
        await trio.testing.wait_all_tasks_blocked()

    # Buffers

    def alloc(self, size: int, align: int = 64) -> Addr:
        buffer = self.memory.alloc(size, align)
        self._buffers.append(buffer)
        return buffer.addr

    def put(self, data: bytes) -> Addr:
        """A buffer of its own that holds ``data``."""
        addr = self.alloc(max(1, len(data)))
        self.memory.view(addr, len(data), True)[:] = data
        return addr

    def get(self, addr: Addr, size: int) -> bytes:
        return bytes(self.memory.view(addr, size))

    def send(self, *descs: Desc, head: int = 0, queue: int = 1) -> None:
        """Make one chain available and kick."""
        ring = self.rings[queue]
        ring.chain(head, *descs)
        ring.offer(head)
        self.kick(queue)

    def close(self) -> None:
        """Reset the device, then take everything back."""
        self.status = Status(0)
        self.let_go()
        while self._raw:
            unpin(self._raw.pop())
        while self._buffers:
            self.memory.free(self._buffers.pop())

    def let_go(self) -> None:
        """Release the interrupts."""
        self.function.free_irqs()


def unpin(ring: RawRing) -> None:
    """Release the views into the memory of a ring."""
    for view in (ring._desc, ring._avail, ring._used, ring._elems):
        ring.memory.unpin(view)
