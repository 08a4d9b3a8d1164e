"""A real virtio-pci function over an ideal link, driven by hand: registers, one queue, and the device's tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from drivers.bus.back import VhostBack
from drivers.bus.vhost import VhostDevice, VhostOps
from drivers.transports.pci.front import find_structures
from drivers.transports.pci.names import register_name
from drivers.transports.pci.registers import SIZES, CfgType, Common
from rings.features import RingFeature
from rings.formats import FORMATS
from rings.layout import RingAddrs
from rings.memory import Addr, Memory
from rings.split.virtqueue import SplitVirtqueue
from rings.status import MOVES, Status
from vnet.learn.machine import Area, Machine, RecordedMemory, Word
from vnet.learn.words import ring_areas

if TYPE_CHECKING:
    from vnet.pcie.function_handle import PciFunctionHandle
    from vnet.ports.packet.memory import MemoryPort

__all__ = ["FRAME", "HEADER", "NUM", "QUEUE", "FunctionMachine", "open_function", "status_names"]

QUEUE, NUM = 1, 4
"""Index of transmitq1, and its number of descriptors."""
CONFIG_VECTOR, QUEUE_VECTOR = 0, 1
IN_ORDER = (*MOVES, Status.NEEDS_RESET)
"""Bits of the device status in the order in which a driver sets them."""
HEADER = bytes(12)
"""An empty virtio_net_hdr (VIRTIO 1.4 section 5.1.6)."""
FRAME = bytes.fromhex("02000000000202000000000188b5") + b"hello, device".ljust(46, b".")
"""An Ethernet frame of a local experimental type."""


def status_names(value: int) -> str:
    """Return the names of the bits of the device status field."""
    return " ".join(bit.name or "" for bit in IN_ORDER if value & bit) or "0"


def _shown(name: str, value: int) -> str:
    if name.endswith("device_status"):
        return status_names(value)
    return f"{value:#x}" if ("feature" in name and "select" not in name) or value > 0xFFF else str(value)


class _RecordedOps:
    """A back half whose device has its accesses to the driver's memory recorded."""

    def __init__(self, back: VhostBack, machine: Machine) -> None:
        self._back, self._machine = back, machine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._back, name)

    def memory(self) -> Memory:
        return RecordedMemory(self._back.memory(), "device", self._machine)


class FunctionMachine(Machine):
    """The function of a network device, without a driver: the lesson writes the registers and the ring."""

    def __init__(self, function: PciFunctionHandle, back: VhostBack, port: MemoryPort) -> None:
        super().__init__(function.dma)
        self.device: VhostDevice = back.device
        self.port = port
        """Port of the device, at which frames of the driver arrive."""
        self.structures = find_structures(function)
        self._function, self._back = function, back
        self.device.ops = cast("VhostOps", _RecordedOps(back, self))
        sizes, align = FORMATS["split"].sizes(NUM), FORMATS["split"].align
        starts = [function.dma.alloc(size, max(64, at)).addr for size, at in zip(sizes, align, strict=True)]
        self.addrs = RingAddrs(*starts)
        self.frame = function.dma.alloc(len(HEADER) + len(FRAME)).addr
        self.driver_memory = RecordedMemory(function.dma, "driver", self)
        self.areas += [
            Area("common configuration", "both", tuple(self._register(name) for name in self._registers())),
            *ring_areas(self, "split", NUM, self.addrs),
        ]
        self.buffer("header", self.frame, len(HEADER), "driver")
        self.buffer("frame", Addr(self.frame + len(HEADER)), len(FRAME), "driver")

    def _registers(self) -> dict[str, int]:
        """Return the registers that the lessons use, from the device's own state."""
        registers = self._back.registers()
        device = {"device_feature": self.device.device_features, "driver_feature": self.device.driver_features}
        queue = f"queue{QUEUE}."
        return {
            "device_status": registers["device_status"],
            **device,
            "config_msix_vector": registers["config_msix_vector"],
            **{name: value for name, value in registers.items() if name.startswith(queue)},
        }

    def _register(self, name: str) -> Word:
        return Word(name, lambda: _shown(name, self._registers()[name]))

    async def settle(self) -> None:
        """Let the tasks of the device run until all of them wait."""
        from trio.testing import wait_all_tasks_blocked  # here, because trio.testing imports pytest if it is there

        await wait_all_tasks_blocked()

    # The driver's side

    def read(self, field: Common) -> int:
        """Read a register of the common configuration."""
        at = self.structures[CfgType.COMMON]
        value = self._function.bar_read(at.bar, at.offset + field, SIZES[field])
        self.note("driver", "read", f"{field.name.lower()} = {_shown(field.name.lower(), value)}")
        return value

    def write(self, field: Common, value: int) -> None:
        """Write a register of the common configuration."""
        at, name = self.structures[CfgType.COMMON], field.name.lower()
        self.note("driver", "write", f"{name} = {_shown(name, value)}", (name,))
        self._function.bar_write(at.bar, at.offset + field, SIZES[field], value)

    def set_status(self, status: int) -> int:
        """Write the device status and return what it reads then."""
        self.write(Common.DEVICE_STATUS, status)
        return self.read(Common.DEVICE_STATUS)

    def accept(self, features: int) -> None:
        """Write the driver's features, 32 bits at a time."""
        for select in (0, 1):
            self.write(Common.DRIVER_FEATURE_SELECT, select)
            self.write(Common.DRIVER_FEATURE, features >> 32 * select & 0xFFFF_FFFF)

    def set_up_queue(self) -> None:
        """Configure and enable the queue."""
        self.write(Common.QUEUE_SELECT, QUEUE)
        self.read(Common.QUEUE_SIZE)
        self.write(Common.QUEUE_SIZE, NUM)
        self.write(Common.QUEUE_DESC, self.addrs.desc)
        self.write(Common.QUEUE_DRIVER, self.addrs.driver)
        self.write(Common.QUEUE_DEVICE, self.addrs.device)
        self.write(Common.QUEUE_MSIX_VECTOR, QUEUE_VECTOR)
        self.read(Common.QUEUE_MSIX_VECTOR)
        self.write(Common.QUEUE_ENABLE, 1)

    def enable_interrupts(self) -> None:
        """Enable MSI-X; each vector that fires is recorded."""
        self._function.enable_msix()
        for vector, cause in ((CONFIG_VECTOR, "configuration or status"), (QUEUE_VECTOR, "transmitq1")):
            text = f"MSI-X vector {vector}: {cause}"
            self._function.request_irq(vector, partial(self.note, "device", "interrupt", text))
        self.write(Common.CONFIG_MSIX_VECTOR, CONFIG_VECTOR)

    def bring_up(self) -> SplitVirtqueue:
        """Bring the device up after a reset, and return a new ring."""
        self.set_status(Status.ACKNOWLEDGE | Status.DRIVER)
        self.accept(1 << RingFeature.VERSION_1)
        self.set_status(self.device.status | Status.FEATURES_OK)
        self.enable_interrupts()
        ring = self.new_ring()
        self.set_up_queue()
        self.set_status(self.device.status | Status.DRIVER_OK)
        return ring

    def new_ring(self) -> SplitVirtqueue:
        """Return the driver's side of a new ring."""
        return SplitVirtqueue(self.driver_memory, NUM, self.addrs, event_idx=False)

    def ring_doorbell(self) -> None:
        """Notify the device of the queue: a write of the queue's index at its address in the notification structure."""
        at = self.structures[CfgType.NOTIFY]
        offset = at.offset + QUEUE * at.multiplier
        self.note("driver", "notify", f"{register_name(at.bar, offset)} = {QUEUE}")
        self._function.bar_write(at.bar, offset, 2, QUEUE)

    def fill_frame(self) -> None:
        """Write a header and a frame into the buffer."""
        whole = self.memory.view(self.frame, len(HEADER) + len(FRAME), True)
        self.put("driver", "header", [whole[: len(HEADER)]], HEADER)
        self.put("driver", "frame", [whole[len(HEADER) :]], FRAME)


@asynccontextmanager
async def open_function() -> AsyncIterator[FunctionMachine]:
    """Build two hosts with a network device on memory ports, and take the function from its driver."""
    # Imported here, because that takes half a second, which lessons about bare rings do not need.
    from vnet.demo import default_topology
    from vnet.system.world import open_world

    async with open_world(default_topology("memory"), "lesson") as world:
        await world.wait_up()
        device, host = world.devices["net0"], world.hosts["rc"]
        assert device.back is not None
        function = next(one for one in host.rc.functions if one.name == device.location)
        await host.pci.unregister_device(function)
        await device.vhost.wait_idle()
        machine = FunctionMachine(function, device.back, world.memory_port("net0", "device"))
        await machine.settle()
        yield machine
