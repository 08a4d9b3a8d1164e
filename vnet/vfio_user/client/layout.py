"""BARs, interrupts and doorbells of a server's function, which the client checks before it uses the function."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import TypeVar

import attrs

from drivers.carriers.framing import ProtocolError
from drivers.contracts.ipc import Handle, Notifier, Unusable
from rings.memory import ADDRESS_END
from vnet.linux.ipc import FileHandle, LocalIpc, notifiers
from vnet.linux.memory import HostMemory
from vnet.pcie.config_space import (
    CAP_MSIX,
    CAP_PCI_EXPRESS,
    CAPABILITIES,
    CAPABILITIES_END,
    CAPABILITIES_START,
    MSIX_CONTROL,
    MSIX_SIZE,
    SIZE,
)
from vnet.pcie.msix import ENTRY, pending_bytes
from vnet.vfio_user.accesses import RegionRead, RegionWrite
from vnet.vfio_user.client.channel import Channel
from vnet.vfio_user.constants import (
    CAPABILITIES as LIMITS,
)
from vnet.vfio_user.constants import (
    IO_EVENT,
    IO_VALUE,
    LINK_EVENTS,
    VERSION,
    Command,
    DeviceFlag,
    DmaFlag,
    IrqType,
    Region,
)
from vnet.vfio_user.payloads import (
    DeviceInfo,
    DmaMap,
    IoDoorbell,
    IrqInfo,
    Payload,
    Refused,
    RegionInfo,
    RegionIoFds,
    RegionIoFdsReply,
    Version,
)

__all__ = ["Doorbell", "FunctionLayout", "Msix", "negotiate"]

P = TypeVar("P", bound=Payload)
BAR_COUNT = 6
HEADER = 256
"""Bytes of the configuration space that every function has."""


@attrs.frozen
class Msix:
    """The MSI-X capability of a function, and the place of its table."""

    capability: int
    vectors: int
    bar: int
    table: int
    pending: int


@attrs.frozen
class Doorbell:
    """An eventfd that stands for writes of a register."""

    event: Notifier
    value: int | None
    """The only value that counts; None: any."""


@attrs.frozen(eq=False)
class FunctionLayout:
    """A function at the other end of a channel."""

    config: int
    """Bytes of its configuration space."""
    bars: tuple[int, ...]
    """Bytes of each BAR; 0 if the function has none."""
    msix: Msix | None
    express: int | None
    """Offset of the PCI Express capability."""
    intx: bool
    doorbells: Mapping[tuple[int, int, int], Doorbell]
    """Doorbells by BAR, offset and size of the register."""

    def close(self) -> None:
        for bell in self.doorbells.values():
            bell.event.close()


async def negotiate(channel: Channel, ipc: LocalIpc, memory: HostMemory) -> FunctionLayout:
    """Agree on a version, reset the function, share all of ``memory`` with it, and return what it has.

    Raises ProtocolError, TransportLost, Refused.
    """
    version = await _ask(channel, Version, Command.VERSION, Version(*VERSION, {**LIMITS, LINK_EVENTS: True}))
    if version.major != VERSION[0] or version.minor > VERSION[1]:
        raise ProtocolError(
            f"VERSION: the server has {version.major}.{version.minor}: must be {VERSION[0]}.{VERSION[1]}"
        )
    info = await _ask(channel, DeviceInfo, Command.DEVICE_GET_INFO, DeviceInfo(DeviceInfo.FORM.size, 0, 0, 0))
    if not info.flags & DeviceFlag.PCI or info.regions <= Region.CONFIG:
        raise ProtocolError(f"DEVICE_GET_INFO: flags {info.flags:#x}, {info.regions} regions: it is no PCI function")
    if info.flags & DeviceFlag.RESET:
        await channel.ask(Command.DEVICE_RESET)
    sizes = [await _region_size(channel, index) for index in (*range(BAR_COUNT), Region.CONFIG)]
    *bars, config = sizes
    if not HEADER <= config <= SIZE:
        raise ProtocolError(f"a configuration space of {config} bytes: must be {HEADER} to {SIZE}")
    image = await _ask(channel, RegionWrite, Command.REGION_READ, RegionRead(0, Region.CONFIG, HEADER))
    if len(image.data) != HEADER:
        raise ProtocolError(f"REGION_READ: {len(image.data)} bytes instead of {HEADER}")
    counts = [await _irq_count(channel, index, info.irqs) for index in (IrqType.INTX, IrqType.MSIX)]
    capabilities = dict(_capabilities(image.data))
    msix = _msix(image.data, capabilities.get(CAP_MSIX), bars, counts[1])
    handle = FileHandle.copy(memory.fd)
    try:
        both = DmaFlag.READABLE | DmaFlag.WRITABLE
        request = DmaMap(DmaMap.FORM.size, both, 0, memory.base, memory.size)
        await channel.ask(Command.DMA_MAP, request, (handle,))
    finally:
        handle.close()
    doorbells = await _doorbells(channel, ipc, bars)
    return FunctionLayout(config, tuple(bars), msix, capabilities.get(CAP_PCI_EXPRESS), bool(counts[0]), doorbells)


async def _ask(channel: Channel, kind: type[P], command: Command, payload: Payload) -> P:
    """Return the body of a reply; file descriptors that came with it are closed."""
    reply = await channel.ask(command, payload)
    for handle in reply.handles:
        handle.close()
    assert isinstance(reply.payload, kind)  # by the table of messages
    return reply.payload


async def _region_size(channel: Channel, index: int) -> int:
    request = RegionInfo(RegionInfo.FORM.size, 0, index, 0, 0, 0)
    info = await _ask(channel, RegionInfo, Command.DEVICE_GET_REGION_INFO, request)
    if info.index != index or info.size >= ADDRESS_END >> 1 or (index < BAR_COUNT and info.size & (info.size - 1)):
        raise ProtocolError(f"DEVICE_GET_REGION_INFO: region {info.index} of {info.size:#x} bytes, for region {index}")
    return info.size


async def _irq_count(channel: Channel, index: int, types: int) -> int:
    if index >= types:
        return 0
    info = await _ask(channel, IrqInfo, Command.DEVICE_GET_IRQ_INFO, IrqInfo(IrqInfo.FORM.size, 0, index, 0))
    if info.index != index:
        raise ProtocolError(f"DEVICE_GET_IRQ_INFO: type {info.index}, for type {index}")
    return info.count


def _capabilities(image: bytes) -> Iterator[tuple[int, int]]:
    """Yield the id and the offset of each capability, the last of an id first."""
    at, offsets = image[CAPABILITIES] & ~3, list[int]()
    while CAPABILITIES_START <= at < CAPABILITIES_END and at not in offsets:
        offsets.append(at)
        at = image[at + 1] & ~3
    yield from ((image[offset], offset) for offset in reversed(offsets))


def _msix(image: bytes, at: int | None, bars: list[int], interrupts: int) -> Msix | None:
    if at is None:
        return None
    if at + 12 > len(image):
        raise ProtocolError(f"MSI-X capability at {at:#x}: it is cut off")
    control, table, pending = struct.unpack_from("<HII", image, at + MSIX_CONTROL)
    vectors = (control & MSIX_SIZE) + 1
    ends = ((table, ENTRY * vectors), (pending, pending_bytes(vectors)))
    inside = all((where & 7) < BAR_COUNT and (where & ~7) + size <= bars[where & 7] for where, size in ends)
    if table & 7 != pending & 7:
        raise ProtocolError(
            f"MSI-X: the table is in BAR {table & 7}, the pending bits are in BAR {pending & 7}: must be one BAR"
        )
    if not inside or interrupts < vectors:
        raise ProtocolError(
            f"MSI-X: {vectors} vectors and {interrupts} interrupts, tables at {table:#x} and {pending:#x}"
        )
    return Msix(at, vectors, table & 7, table & ~7, pending & ~7)


async def _doorbells(channel: Channel, ipc: LocalIpc, bars: list[int]) -> dict[tuple[int, int, int], Doorbell]:
    """Return the doorbells of all BARs. A server that has none refuses the request, or returns none."""
    doorbells: dict[tuple[int, int, int], Doorbell] = {}
    try:
        for bar, size in enumerate(bars):
            if size:
                doorbells |= await _doorbells_of(channel, ipc, bar, size)
    except BaseException:
        for bell in doorbells.values():
            bell.event.close()
        raise
    return doorbells


async def _doorbells_of(channel: Channel, ipc: LocalIpc, bar: int, size: int) -> dict[tuple[int, int, int], Doorbell]:
    request = RegionIoFds(RegionIoFdsReply.SIZES[1], 0, bar)
    try:
        reply = await channel.ask(Command.DEVICE_GET_REGION_IO_FDS, request)
    except Refused:
        return {}
    assert isinstance(reply.payload, RegionIoFdsReply)  # by the table of messages
    try:
        _check_doorbells(reply.payload, reply.handles, bar, size)
        events = notifiers(ipc, reply.handles)
    except (ProtocolError, Unusable) as exc:
        for handle in reply.handles:
            handle.close()
        raise ProtocolError(f"DEVICE_GET_REGION_IO_FDS: {exc}") from None
    bells = {(bar, row.offset, row.size): row for row in reply.payload.doorbells if row.kind == IO_EVENT}
    used = {row.fd for row in bells.values()}
    for index, event in enumerate(events):
        if index not in used:
            event.close()
    return {place: Doorbell(events[row.fd], _value(row)) for place, row in bells.items()}


def _check_doorbells(reply: RegionIoFdsReply, handles: list[Handle], bar: int, size: int) -> None:
    if reply.index != bar:
        raise ProtocolError(f"region {reply.index}, for region {bar}")
    for row in reply.doorbells:
        if row.fd >= len(handles) or row.size not in (1, 2, 4, 8) or row.offset + row.size > size:
            raise ProtocolError(f"eventfd {row.fd} of {len(handles)} for {row.size} bytes at {row.offset:#x}")


def _value(row: IoDoorbell) -> int | None:
    return row.value if row.flags & IO_VALUE else None
