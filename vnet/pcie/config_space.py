"""A configuration space of 4096 bytes with a write rule per bit. No I/O.

Registers and capabilities follow the PCI Express Base Specification, chapter 7.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntFlag

import attrs

from drivers.contracts.hw import PciHeader, RegisterBlock
from vnet.link.base import all_ones
from vnet.views.pci import BarView, CapabilityView, ConfigView

__all__ = [
    "CAP_MSI",
    "CAP_MSIX",
    "CAP_PCI_EXPRESS",
    "CAP_VENDOR",
    "MemoryBar",
    "Capability",
    "PciCommand",
    "ConfigSpace",
    "capability_of",
    "capability_view",
    "msi_capability",
    "msix_capability",
    "pci_express_capability",
]

SIZE = 4096
COMMAND, STATUS, HEADER_TYPE, BARS, SUBSYSTEM, CAPABILITIES, INTERRUPT_PIN = 0x04, 0x06, 0x0E, 0x10, 0x2C, 0x34, 0x3D
CAPABILITIES_START, CAPABILITIES_END = 0x40, 0x100
STATUS_INTERRUPT, STATUS_CAPABILITIES = 0x08, 0x10
MULTI_FUNCTION, BRIDGE = 0x80, 0x01
MIN_BAR = 128
BAR_64BIT = 0x4

CAP_MSI, CAP_VENDOR, CAP_PCI_EXPRESS, CAP_MSIX = 0x05, 0x09, 0x10, 0x11
EXTENDED_START = 0x100
EXT_CAP_AER = 0x0001
EXTENDED_NAMES = {EXT_CAP_AER: "Advanced Error Reporting"}
CAP_NAMES = {0x01: "power management", CAP_MSI: "MSI", 0x09: "vendor specific", 0x10: "PCI Express", 0x11: "MSI-X"}
DEVICE_CAPS, DEVICE_CONTROL, DEVICE_STATUS = 0x04, 0x08, 0x0A
CAP_FLR, CONTROL_FLR, CONTROL_MAX_PAYLOAD = 1 << 28, 1 << 15, 0x00E0
CAP_SURPRISE_DOWN = 1 << 19
ROOT_PORT = 0x4
"""Type of a root port in the PCI Express capability."""
MSI_CONTROL, MSI_ADDRESS, MSI_DATA = 0x02, 0x04, 0x0C
MSI_ENABLE, MSI_CAPABLE, MSI_ENABLED, MSI_64BIT, MSI_MOST = 1 << 0, 0x7 << 1, 0x7 << 4, 1 << 7, 32
"""MSI_CAPABLE and MSI_ENABLED are binary logarithms of numbers of vectors."""
MSIX_CONTROL, MSIX_ENABLE, MSIX_FUNCTION_MASK, MSIX_SIZE = 0x02, 1 << 15, 1 << 14, 0x07FF


class PciCommand(IntFlag):
    """Command register bits of an endpoint without I/O space."""

    MEMORY = 1 << 1
    BUS_MASTER = 1 << 2
    PARITY = 1 << 6
    SERR = 1 << 8
    INTX_DISABLE = 1 << 10


# (offset, bytes, writable bits, bits cleared by writing 1)
WRITE_RULES = (
    (COMMAND, 2, sum(PciCommand), 0),
    (STATUS, 2, 0, 0xF900),  # the error bits
    (0x0C, 1, 0xFF, 0),  # cache line size: unused in PCI Express, but writable
    (0x3C, 1, 0xFF, 0),  # interrupt line: a scratch register for software
)


BRIDGE_WRITE_RULES = (
    (0x18, 3, 0xFF_FFFF, 0),  # bus numbers
    (0x1E, 2, 0, 0xF900),  # secondary status
    (0x3E, 2, 0x0002, 0),  # SERR# Enable of the bridge control register
)


@attrs.frozen
class Capability:
    """A capability; ``body`` follows its id and next bytes, ``writable`` and ``clearing`` are bit masks over it."""

    cap_id: int
    body: bytes
    writable: bytes = b""
    clearing: bytes = b""
    sticky: bytes = b""
    """Mask of the writable and the clearing bits that survive a reset of the function."""


@attrs.frozen
class MemoryBar:
    """A 64-bit memory BAR; ``address`` is 0 until software assigns one."""

    index: int
    address: int
    size: int

    def snapshot(self) -> BarView:
        return BarView(self.index, self.address, self.size)


def capability_view(offset: int, cap_id: int) -> CapabilityView:
    """Return the view of a capability, with its name."""
    names = CAP_NAMES if offset < EXTENDED_START else EXTENDED_NAMES
    return CapabilityView(offset, cap_id, names.get(cap_id, "unknown"))


def capability_of(cap_id: int, rows: Sequence[tuple[str, int, int, int, int]]) -> Capability:
    """Return a capability from the registers of its body: format, value, writable, clearing and sticky bits."""
    form = "<" + "".join(row[0] for row in rows)
    return Capability(cap_id, *(struct.pack(form, *(row[column] for row in rows)) for column in range(1, 5)))


def pci_express_capability(
    *, root_port: bool = False, flr: bool = True, generation: int = 3, lanes: int = 4, max_payload: int = 256
) -> Capability:
    """Return the capability (7.5.3) of an endpoint or a root port, with the width, rate and payload of its link."""
    link = generation | lanes << 4
    port = ROOT_PORT << 4 if root_port else 0
    payload = (max_payload // 128).bit_length() - 1
    zero = ("I", 0, 0, 0, 0)
    return capability_of(
        CAP_PCI_EXPRESS,
        (  # form, value, writable, clearing, sticky
            ("H", 0x0002 | port, 0, 0, 0),  # version 2
            ("I", 0x8000 | payload | (CAP_FLR if flr else 0), 0, 0, 0),  # role-based errors
            ("H", 0x2810, 0x79FF, 0, CONTROL_MAX_PAYLOAD),
            ("H", 0, 0, 0x000F, 0),
            ("I", link | (CAP_SURPRISE_DOWN if root_port else 0), 0, 0, 0),
            ("H", 0, 0x00CB, 0, 0),
            ("H", link, 0, 0, 0),
            *(zero for _ in range(4)),  # slot and root registers
            ("I", 0x1F, 0, 0, 0),  # completion timeout ranges A to D, and timeout disable
            ("I", 0, 0x1F, 0, 0),
            ("I", (2 << generation) - 2, 0, 0, 0),
            ("I", generation, 0xF, 0, 0),
            zero,
            zero,
        ),
    )


def msi_capability(vectors: int) -> Capability:
    """Return an MSI capability (7.7.1) with 64-bit addresses and without masks. Raises ValueError.

    ``vectors`` is a power of two.
    """
    if not 1 <= vectors <= MSI_MOST or vectors & (vectors - 1):
        raise ValueError(f"{vectors} MSI vectors: must be a power of two up to {MSI_MOST}")
    control = ("H", vectors.bit_length() - 1 << 1 | MSI_64BIT, MSI_ENABLE | MSI_ENABLED, 0, 0)
    return capability_of(CAP_MSI, (control, ("Q", 0, all_ones(8) & ~3, 0, 0), ("H", 0, 0xFFFF, 0, 0)))


def msix_capability(vectors: int, bar: int, table: int, pending: int) -> Capability:
    """Return an MSI-X capability (7.7.2); ``table`` and ``pending`` are offsets in ``bar``, multiples of 8.

    Raises ValueError.
    """
    if not 1 <= vectors <= 2048 or table % 8 or pending % 8:
        raise ValueError(f"{vectors} MSI-X vectors at {table:#x}, pending bits at {pending:#x}: not possible")
    control = ("H", vectors - 1, MSIX_ENABLE | MSIX_FUNCTION_MASK, 0, 0)
    return capability_of(CAP_MSIX, (control, ("I", table | bar, 0, 0, 0), ("I", pending | bar, 0, 0, 0)))


class ConfigSpace:
    """Configuration space of one function.

    Accesses are 1, 2 or 4 bytes at a multiple of their size; others read all-ones, or write nothing.
    """

    def __init__(self, header: PciHeader, *, bridge: bool = False) -> None:
        """``bridge``: the header is of type 1, without subsystem ids."""
        self._bytes = bytearray(SIZE)
        self._writable = bytearray(SIZE)
        self._clearing = bytearray(SIZE)
        self._sticky = bytearray(SIZE)
        self._traps: list[tuple[int, int, RegisterBlock]] = []
        self._bars: dict[int, int] = {}
        self._capabilities: dict[int, Capability] = {}
        self._next = CAPABILITIES_START
        self._link = CAPABILITIES
        self._flr_at = -1
        self._flr = False
        for offset, size, writable, clearing in (*WRITE_RULES, *(BRIDGE_WRITE_RULES if bridge else ())):
            self._writable[offset : offset + size] = writable.to_bytes(size, "little")
            self._clearing[offset : offset + size] = clearing.to_bytes(size, "little")
        self._set(0x00, 4, header.vendor_id | header.device_id << 16)
        self._set(0x08, 4, header.revision | header.class_code << 8)
        if bridge:
            self._set(HEADER_TYPE, 1, BRIDGE)
        else:
            self._set(SUBSYSTEM, 4, header.subsystem_vendor_id | header.subsystem_id << 16)
        self._set(INTERRUPT_PIN, 1, header.interrupt_pin)
        self._defaults = bytes(SIZE)

    def read(self, offset: int, size: int) -> int:
        if not _legal(offset, size):
            return all_ones(size)
        trap, whole = self._trap(offset, size)
        if trap is None:
            return self._get(offset, size)
        if whole:
            return trap[2].read(offset - trap[0], size) & all_ones(size)
        half = size // 2
        return self.read(offset, half) | self.read(offset + half, half) << 8 * half

    def write(self, offset: int, size: int, value: int) -> None:
        if not _legal(offset, size):
            return
        value &= all_ones(size)
        trap, whole = self._trap(offset, size)
        if trap is None:
            for at, byte in enumerate(value.to_bytes(size, "little"), offset):
                mask = self._writable[at]
                self._bytes[at] = (self._bytes[at] & ~mask | byte & mask) & ~(byte & self._clearing[at])
                self._flr |= at == self._flr_at and bool(byte & CONTROL_FLR >> 8)
        elif whole:
            trap[2].write(offset - trap[0], size, value)
        else:
            half = size // 2
            self.write(offset, half, value)
            self.write(offset + half, half, value >> 8 * half)

    def set_bar(self, bar: int, size: int) -> int:
        """Add a 64-bit memory BAR; return its size, rounded up to a power of two. Raises ValueError."""
        if not 0 <= bar <= 4 or size <= 0 or size > 1 << 62 or self._bars.keys() & {bar - 1, bar, bar + 1}:
            raise ValueError(f"there is no room for a 64-bit BAR {bar} of {size} bytes")
        size = max(MIN_BAR, 1 << (size - 1).bit_length())
        at = BARS + 4 * bar
        self._set(at, 8, BAR_64BIT)
        self._writable[at : at + 8] = (all_ones(8) & ~(size - 1)).to_bytes(8, "little")
        self._bars[bar] = size
        return size

    def add(self, capability: Capability, block: RegisterBlock | None = None) -> int:
        """Append a capability, with ``block`` handling accesses to its body if given; return its offset.

        Raises ValueError.
        """
        offset, start = self._next, self._next + 2
        end = start + len(capability.body)
        if end > CAPABILITIES_END:
            raise ValueError(f"capability {capability.cap_id:#x} of {len(capability.body)} bytes does not fit")
        self._set(self._link, 1, offset)
        self._set(offset, 2, capability.cap_id)
        self._bytes[STATUS] |= STATUS_CAPABILITIES
        self._lay(capability, start)
        if block is not None:
            self._traps.append((start, end, block))
        self._capabilities[offset] = capability
        if capability.cap_id == CAP_PCI_EXPRESS and self._get(offset + DEVICE_CAPS, 4) & CAP_FLR:
            self._flr_at = offset + DEVICE_CONTROL + 1
        self._link = offset + 1
        self._next = (end + 3) & ~3
        return offset

    def add_extended(self, capability: Capability, version: int) -> int:
        """Add the one extended capability, whose body is behind a header of four bytes; return its offset.

        Raises ValueError if there is one.
        """
        offset = EXTENDED_START
        if offset in self._capabilities:
            raise ValueError(f"no room for extended capability {capability.cap_id:#x}")
        self._set(offset, 4, capability.cap_id | version << 16)
        self._lay(capability, offset + 4)
        self._capabilities[offset] = capability
        return offset

    def _lay(self, capability: Capability, start: int) -> None:
        """Put the body of a capability in its place, with its rules."""
        for image, part in (
            (self._bytes, capability.body),
            (self._writable, capability.writable),
            (self._clearing, capability.clearing),
            (self._sticky, capability.sticky),
        ):
            image[start : start + len(part)] = part
        self._defaults = bytes(self._bytes)

    def reset(self) -> None:
        """Reset writable bits to their defaults, except the sticky ones: a function-level or a hot reset."""
        images = self._writable, self._sticky, self._clearing, self._defaults, self._bytes
        writable, sticky, clearing, defaults, now = (int.from_bytes(image, "little") for image in images)
        mask = (writable | clearing) & ~sticky
        self._bytes[:] = (now & ~mask | defaults & mask).to_bytes(SIZE, "little")  # 4 KiB at once: 200 times as fast
        self._flr = False

    def take_flr(self) -> bool:
        """Return whether software requested a function-level reset since the last call; the bit reads 0."""
        flr, self._flr = self._flr, False
        return flr

    def capability(self, cap_id: int) -> int | None:
        """Return the offset of the first capability with this id that is no extended one; None without one."""
        offsets = (at for at, c in self._capabilities.items() if c.cap_id == cap_id and at < EXTENDED_START)
        return next(offsets, None)

    @property
    def command(self) -> PciCommand:
        return PciCommand(self._get(COMMAND, 2))

    @property
    def msix_control(self) -> int:
        """Message control word of the MSI-X capability; 0 without one."""
        at = self.capability(CAP_MSIX)
        return 0 if at is None else self._get(at + MSIX_CONTROL, 2)

    @property
    def msi(self) -> tuple[int, int, int]:
        """Message control word, address and data of the MSI capability; zeros without one."""
        at = self.capability(CAP_MSI)
        if at is None:
            return 0, 0, 0
        return self._get(at + MSI_CONTROL, 2), self._get(at + MSI_ADDRESS, 8), self._get(at + MSI_DATA, 2)

    @property
    def bars(self) -> tuple[MemoryBar, ...]:
        return tuple(MemoryBar(i, self._get(BARS + 4 * i, 8) & -size, size) for i, size in sorted(self._bars.items()))

    def set_interrupt_status(self, pending: bool) -> None:
        """Set the interrupt status bit, which shows a pending INTx even if INTx is disabled."""
        self._bytes[STATUS] = self._bytes[STATUS] & ~STATUS_INTERRUPT | (STATUS_INTERRUPT if pending else 0)

    def set_multi_function(self, multi_function: bool) -> None:
        self._bytes[HEADER_TYPE] = MULTI_FUNCTION if multi_function else 0

    def peek(self, offset: int, size: int) -> int:
        """Return a register without an access."""
        return self._get(offset, size)

    def poke(self, offset: int, size: int, value: int) -> None:
        """Set a register as the hardware does, whatever software may write to it."""
        self._set(offset, size, value)

    def image(self) -> bytes:
        """Return all bytes without an access: trapped registers of a capability as they are after a reset."""
        return bytes(self._bytes)

    def snapshot(self) -> ConfigView:
        """Return identity, command bits, BARs and capabilities."""
        return ConfigView(
            self._get(0x00, 2),
            self._get(0x02, 2),
            self._get(0x09, 2) | self._bytes[0x0B] << 16,
            tuple(str(flag.name) for flag in self.command),
            tuple(bar.snapshot() for bar in self.bars),
            tuple(capability_view(at, c.cap_id) for at, c in self._capabilities.items()),
        )

    def _get(self, offset: int, size: int) -> int:
        return int.from_bytes(self._bytes[offset : offset + size], "little")

    def _set(self, offset: int, size: int, value: int) -> None:
        self._bytes[offset : offset + size] = value.to_bytes(size, "little")

    def _trap(self, offset: int, size: int) -> tuple[tuple[int, int, RegisterBlock] | None, bool]:
        for trap in self._traps:
            if offset < trap[1] and trap[0] < offset + size:
                return trap, trap[0] <= offset and offset + size <= trap[1]
        return None, False


def _legal(offset: int, size: int) -> bool:
    return size in (1, 2, 4) and offset % size == 0 and 0 <= offset <= SIZE - size
