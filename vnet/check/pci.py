"""A driver of virtio-pci functions by raw registers, over vfio-user (VIRTIO 1.4 section 4.1)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from enum import Enum, IntEnum
from typing import ClassVar

import attrs
import trio

from vnet.check.front import NEEDS_RESET, Front, Vring, new_eventfd, take_events
from vnet.check.packed import PackedRing
from vnet.check.split import SplitRing
from vnet.check.trial import TrialOf
from vnet.check.verdicts import Skipped
from vnet.check.vfio_user import FunctionWire
from vnet.check.wire import BadReply, Journal, PeerError
from vnet.vfio_user.constants import CAPABILITIES, VERSION, Command, DeviceFlag, DmaFlag, IrqSet, IrqType, Region
from vnet.vfio_user.payloads import DeviceInfo, DmaMap, IrqInfo, RegionInfo, SetIrqs, Version

__all__ = [
    "BUS_MASTER", "COMMAND", "MEMORY", "NO_VECTOR", "VFIO_USER", "Capability", "F", "Kind", "PciFront", "PciTrial",
    "Structure", "areas", "with_msix",
]  # fmt: skip

VFIO_USER = "vfio-user"
C = Command
COMMAND, MEMORY, BUS_MASTER = 0x04, 2, 4
"""Offset of the command register, and its bits for accesses to BARs and by the function."""
CAP_POINTER, CAP_VENDOR, CAP_MSIX = 0x34, 0x09, 0x11
MSIX_ENABLE = 0x8000
NO_VECTOR = 0xFFFF
WORDS = 2
"""Words of feature bits that a driver reads; cases read more of them."""
HEADER = 256
"""Bytes of the configuration space with the header and the capabilities."""
ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK = 1, 3, 11, 15
"""Values of the status during bring-up."""


class F(Enum):
    """Fields of the common configuration: offset and bytes."""

    DEVICE_FEATURE_SELECT = 0x00, 4
    DEVICE_FEATURE = 0x04, 4
    DRIVER_FEATURE_SELECT = 0x08, 4
    DRIVER_FEATURE = 0x0C, 4
    CONFIG_MSIX_VECTOR = 0x10, 2
    NUM_QUEUES = 0x12, 2
    DEVICE_STATUS = 0x14, 1
    CONFIG_GENERATION = 0x15, 1
    QUEUE_SELECT = 0x16, 2
    QUEUE_SIZE = 0x18, 2
    QUEUE_MSIX_VECTOR = 0x1A, 2
    QUEUE_ENABLE = 0x1C, 2
    QUEUE_NOTIFY_OFF = 0x1E, 2
    QUEUE_DESC = 0x20, 8
    QUEUE_DRIVER = 0x28, 8
    QUEUE_DEVICE = 0x30, 8
    QUEUE_NOTIF_CONFIG_DATA = 0x38, 2
    QUEUE_RESET = 0x3A, 2


class Kind(IntEnum):
    """Types of virtio structures (cfg_type)."""

    COMMON = 1
    NOTIFY = 2
    ISR = 3
    DEVICE = 4
    PCI_CFG = 5
    SHARED_MEMORY = 8
    VENDOR = 9


@attrs.frozen
class Capability:
    """A capability of the function: its place in the configuration space, and its id."""

    at: int
    id: int


@attrs.frozen
class Structure:
    """A virtio structure, from its vendor capability."""

    at: int
    """Offset of the capability in the configuration space."""
    size: int
    """cap_len."""
    kind: int
    bar: int
    ident: int
    offset: int
    length: int
    multiplier: int = 0
    """notify_off_multiplier of a notification structure."""


@attrs.define(eq=False)
class DoorbellVring(Vring):
    """A ring whose kicks are writes of a register."""

    front: PciFront = attrs.field(kw_only=True)

    def kick(self) -> None:
        self.front.ring_doorbell(self.index)

    def calls(self) -> int:
        """Return the device's notifications since the last call. Raises Skipped if the function has no MSI-X."""
        self.front.need_msix()
        return super().calls()


def areas(ring: SplitRing | PackedRing) -> list[tuple[F, int]]:
    """Return the field and the address of each area of a ring."""
    return [(F.QUEUE_DESC, ring.desc), (F.QUEUE_DRIVER, ring.driver), (F.QUEUE_DEVICE, ring.device)]


class PciFront(FunctionWire, Front):
    """A connection to a function, with its registers."""

    carrier: ClassVar = VFIO_USER
    signs: ClassVar = "no NEEDS_RESET"

    def __init__(self, connected: socket.socket, journal: Journal, patience: float) -> None:
        Front.__init__(self, connected, journal, patience)
        FunctionWire.__init__(self, connected, journal, patience, self.arena)
        self.space = b""
        """The first 256 bytes of the configuration space, as they were at first."""
        self.sizes: dict[int, int] = {}
        """Bytes of each region."""
        self.irqs: dict[int, int] = {}
        """Interrupts of each type."""
        self.doorbells: dict[int, tuple[int, int]] = {}
        """BAR and offset of each queue's notification address."""
        self.config_fd = new_eventfd()
        """Notified by vector 0, that of configuration changes."""
        self._shared = self._msix = False

    def replace(self, connected: socket.socket) -> None:
        super().replace(connected)
        self._shared = False

    # The function

    async def open(self) -> None:
        """Agree on a version, reset the function, and let it be accessed and access memory. Raises PeerError."""
        version = await self.ask(C.VERSION, Version(*VERSION, CAPABILITIES).emit())
        if len(version) < 4 or struct.unpack_from("<H", version)[0] != VERSION[0]:
            raise BadReply(f"replied to VERSION {VERSION[0]}.{VERSION[1]} with {version[:64].hex()}")
        info = await self.ask_for(C.DEVICE_GET_INFO, DeviceInfo(DeviceInfo.FORM.size, 0, 0, 0))
        if not info.flags & DeviceFlag.PCI or info.regions <= Region.CONFIG:
            raise PeerError(f"is no PCI function: flags {info.flags:#x}, {info.regions} regions")
        if info.flags & DeviceFlag.RESET:
            await self.reset()
        for index in (*range(6), Region.CONFIG):
            region = RegionInfo(RegionInfo.FORM.size, 0, index, 0, 0, 0)
            self.sizes[index] = (await self.ask_for(C.DEVICE_GET_REGION_INFO, region)).size
        for index in range(min(info.irqs, 3)):
            irq = IrqInfo(IrqInfo.FORM.size, 0, index, 0)
            self.irqs[index] = (await self.ask_for(C.DEVICE_GET_IRQ_INFO, irq)).count
        self.space = await self.read(Region.CONFIG, 0, HEADER)
        await self.command(MEMORY | BUS_MASTER)

    async def reset(self) -> None:
        """Reset the function by the protocol's message. Raises Refusal, PeerError."""
        await self.ask(C.DEVICE_RESET)

    async def config_read(self, offset: int, size: int) -> int:
        """Return a register of the PCI configuration space. Raises PeerError."""
        return int.from_bytes(await self.read(Region.CONFIG, offset, size), "little")

    async def config_write(self, offset: int, size: int, value: int) -> None:
        """Write a register of the PCI configuration space. Raises PeerError."""
        await self.write(Region.CONFIG, offset, value.to_bytes(size, "little"), f"configuration space {offset:#x}")

    async def command(self, bits: int) -> None:
        """Write the command register. Raises PeerError."""
        await self.config_write(COMMAND, 2, bits)

    def capabilities(self) -> Iterator[Capability]:
        """Yield the capabilities in the order of their list; at most as many as there is room for."""
        at = self.space[CAP_POINTER]
        for _ in range(HEADER // 4):
            if not at:
                return
            yield Capability(at, self.space[at])
            at = self.space[at + 1 & 0xFF]

    def capability(self, ident: int) -> int | None:
        """Return the place of the first capability with an id."""
        return next((one.at for one in self.capabilities() if one.id == ident), None)

    def structures(self, *kinds: int) -> list[Structure]:
        """Return the virtio structures of these types, or all, in the order of their list."""
        structures = []
        for one in self.capabilities():
            body = self.space[one.at : one.at + 20].ljust(20, b"\0")
            if one.id == CAP_VENDOR:
                size, kind, bar, ident, offset, length, multiplier = struct.unpack("<xxBBBBxxIII", body)
                if not kinds or kind in kinds:
                    structures.append(Structure(one.at, size, kind, bar, ident, offset, length, multiplier))
        return structures

    def structure(self, kind: Kind) -> Structure:
        """Return the first structure of a type. Raises PeerError if the function has none."""
        structures = self.structures(kind)
        if not structures:
            raise PeerError(f"has no capability of the {kind.name} structure")
        return structures[0]

    def need_structures(self, kind: Kind, name: str) -> list[Structure]:
        """Return the structures of a type. Raises Skipped, which says ``name``, if the function has none."""
        structures = self.structures(kind)
        if not structures:
            raise Skipped(f"the function has no {name}")
        return structures

    @property
    def vectors(self) -> int:
        """MSI-X vectors of the function."""
        return self.irqs.get(IrqType.MSIX, 0) if self.capability(CAP_MSIX) is not None else 0

    def need_msix(self) -> None:
        """Raise Skipped if the function has no MSI-X."""
        if not self.vectors:
            raise Skipped("the function has no MSI-X")

    async def set_irqs(self, kind: IrqType, first: int, fds: Iterable[int]) -> None:
        """Have interrupts notify eventfds, or none. Raises PeerError."""
        given = list(fds)
        flags = IrqSet.TRIGGER | (IrqSet.EVENTFD if given else IrqSet.NONE)
        body = SetIrqs(SetIrqs.SIZES[0], flags, kind, first, len(given)).emit()
        await self.ask(C.DEVICE_SET_IRQS, body, given)

    # Registers

    async def get(self, field: F) -> int:
        """Return a field of the common configuration. Raises PeerError."""
        return await self.get_part(field, 0, field.value[1])

    async def get_part(self, field: F, at: int, size: int) -> int:
        """Return ``size`` bytes of a field, from its byte ``at`` on. Raises PeerError."""
        common = self.structure(Kind.COMMON)
        data = await self.read(common.bar, common.offset + field.value[0] + at, size, f"read {field.name.lower()}")
        return int.from_bytes(data, "little")

    async def set(self, field: F, value: int) -> None:
        """Write a field of the common configuration. Raises PeerError."""
        await self.set_part(field, 0, field.value[1], value)

    async def set_part(self, field: F, at: int, size: int, value: int) -> None:
        """Write ``size`` bytes of a field, from its byte ``at`` on. Raises PeerError."""
        common = self.structure(Kind.COMMON)
        data = value.to_bytes(size, "little")
        await self.write(common.bar, common.offset + field.value[0] + at, data, f"write {field.name.lower()}")

    async def get_selected(self, index: int, field: F) -> int:
        """Return a field of a queue. Raises PeerError."""
        await self.set(F.QUEUE_SELECT, index)
        return await self.get(field)

    async def wait_for(self, field: F, mask: int, value: int, within: float) -> bool:
        """Return whether the bits ``mask`` of a field are ``value`` within so many seconds. Raises PeerError."""
        end = trio.current_time() + within
        while await self.get(field) & mask != value:
            if trio.current_time() > end:
                return False
            await trio.sleep(0.005)
        return True

    async def isr(self) -> int:
        """Read the ISR status, which clears it. Raises PeerError."""
        place = self.structure(Kind.ISR)
        return (await self.read(place.bar, place.offset, 1, "read ISR status"))[0]

    def config_calls(self) -> int:
        """Return the notifications of configuration changes since the last call."""
        return take_events(self.config_fd)

    # Bring-up

    async def read_features(self) -> int:
        features = 0
        for select in range(WORDS):
            await self.set(F.DEVICE_FEATURE_SELECT, select)
            features |= await self.get(F.DEVICE_FEATURE) << 32 * select
        return features

    async def negotiate(self, features: Iterable[int] = ()) -> None:
        await self.set_status(0)
        for status in (ACKNOWLEDGE, DRIVER):
            await self.set_status(status)
        await super().negotiate(features)

    async def write_features(self, features: int) -> int:
        """Write the features, set FEATURES_OK, and return the status that is then read. Raises PeerError."""
        await self.set_status(DRIVER)
        for select in range(max(WORDS, -(-features.bit_length() // 32))):
            await self.set(F.DRIVER_FEATURE_SELECT, select)
            await self.set(F.DRIVER_FEATURE, features >> 32 * select & 0xFFFF_FFFF)
        await self.set_status(FEATURES_OK)
        return await self.get(F.DEVICE_STATUS)

    async def share(self, parts: int = 1) -> None:
        """Share the memory as adjoining mappings, once. Raises PeerError."""
        if self._shared:
            return
        arena, size = self.arena, self.arena.size // parts
        flags = DmaFlag.READABLE | DmaFlag.WRITABLE
        for low in range(0, arena.size, size):
            region = DmaMap(DmaMap.FORM.size, flags, arena.offset + low, arena.base + low, size)
            await self.ask(C.DMA_MAP, region.emit(), [arena.fd])
        self._shared = True

    async def accept(self, parts: int = 1, *, msix: bool = True) -> None:
        """Share the memory and set the features; ``msix``: with MSI-X, if there is one. Raises PeerError."""
        self._msix = msix and bool(self.vectors)
        await self.share(parts)
        status = await self.write_features(self.features)
        if status & FEATURES_OK != FEATURES_OK:
            raise PeerError(f"has status {status:#x} after features {self.features:#x}, which it offered")
        if self._msix:
            await self.enable_msix()

    async def enable_msix(self) -> None:
        """Set up vector 0 for configuration changes, and turn MSI-X on. Raises PeerError."""
        at = self.capability(CAP_MSIX)
        assert at is not None
        await self.set_irqs(IrqType.MSIX, 0, [self.config_fd])
        await self.config_write(at + 2, 2, MSIX_ENABLE)
        await self.map_vector(F.CONFIG_MSIX_VECTOR, 0)

    async def map_vector(self, field: F, vector: int) -> None:
        """Give an event a vector. Raises PeerError if the device can't."""
        await self.set(field, vector)
        read = await self.get(field)
        if read != vector:
            raise PeerError(f"{field.name.lower()} is {read:#x} after {vector:#x} was written")

    def vector_of(self, index: int) -> int:
        """Return the vector that a queue has here: one of its own if there are enough."""
        return min(index + 1, self.vectors - 1)

    async def start(self, vring: Vring, base: int | None = None) -> None:
        if base is not None:
            raise Skipped("the rings of a PCI function begin at 0")
        await self.set_up(vring)
        await self.set(F.QUEUE_ENABLE, 1)

    async def set_up(self, vring: Vring) -> None:
        """Do all that a ring needs but queue_enable. Raises Skipped, PeerError."""
        ring = vring.ring
        most = await self.get_selected(vring.index, F.QUEUE_SIZE)
        if not most:
            raise PeerError(f"has no queue {vring.index}: its size is 0")
        if ring.num > most:
            raise Skipped(f"queue {vring.index} has at most {most} descriptors")
        await self.set(F.QUEUE_SIZE, ring.num)
        if self._msix:
            vector = self.vector_of(vring.index)
            await self.set_irqs(IrqType.MSIX, vector, [vring.call_fd])
            await self.map_vector(F.QUEUE_MSIX_VECTOR, vector)
        for field, addr in areas(ring):
            for at in (0, 4):
                await self.set_part(field, at, 4, addr >> 8 * at & 0xFFFF_FFFF)
        place = self.structure(Kind.NOTIFY)
        off = await self.get(F.QUEUE_NOTIFY_OFF)
        self.doorbells[vring.index] = place.bar, place.offset + off * place.multiplier

    async def driver_ok(self) -> None:
        await self.set_status(DRIVER_OK)

    async def status(self) -> int | None:
        return await self.get(F.DEVICE_STATUS)

    async def set_status(self, value: int) -> None:
        await self.set(F.DEVICE_STATUS, value)
        if value or await self.wait_for(F.DEVICE_STATUS, 0xFF, 0, self.patience):
            return
        raise PeerError(f"is not reset {self.patience:g} s after 0 was written to device_status")

    async def config_at(self, offset: int, size: int) -> bytes:
        place = self.need_structures(Kind.DEVICE, "device configuration")[0]
        if offset + size > place.length:
            raise Skipped(f"the device configuration has {place.length} bytes")
        return await self.read(place.bar, place.offset + offset, size, f"read device configuration {offset:#x}")

    async def write_config(self, offset: int, data: bytes) -> None:
        """Write bytes of the device configuration. Raises PeerError."""
        place = self.structure(Kind.DEVICE)
        await self.write(place.bar, place.offset + offset, data, f"write device configuration {offset:#x}")

    # Rings

    def make_vring(self, index: int, ring: SplitRing | PackedRing) -> Vring:
        return DoorbellVring(index, ring, front=self)

    def ring_doorbell(self, index: int) -> None:
        """Notify a queue."""
        if index in self.doorbells:
            self.post(*self.doorbells[index], index.to_bytes(2, "little"))

    async def failed(self, vring: Vring) -> bool:
        if not self.config_calls():
            return False
        status = await self.status()
        return status is not None and bool(status & NEEDS_RESET)

    def close(self) -> None:
        FunctionWire.close(self)
        os.close(self.config_fd)
        self.close_rings()


PciTrial = TrialOf[PciFront]


async def with_msix(trial: PciTrial) -> PciFront:
    """Return a running device that has MSI-X. Raises Skipped, PeerError."""
    front = await trial.up()
    front.need_msix()
    return front
