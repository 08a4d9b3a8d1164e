"""Transaction layer packets as values: a packet that exists is valid (PCI Express 2.2).

Constructors raise `MalformedTlp` for a packet that breaks a rule of the specification. Addresses and sizes are in
bytes, lengths in doublewords. Data is in the order of addresses, in whole doublewords.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from vnet.link.transaction.errors import MalformedTlp
from vnet.link.transaction.fields import (
    DOUBLEWORD,
    MESSAGES,
    PAGE,
    AddressType,
    Attribute,
    CompletionStatus,
    MessageCode,
    TlpKind,
)

__all__ = [
    "Completion",
    "ConfigRead",
    "ConfigWrite",
    "Header",
    "MemoryRead",
    "MemoryRequest",
    "MemoryWrite",
    "Message",
    "Tlp",
    "slot_power",
]

_ALL = 0xF
_UPWARD = frozenset({0b1111, 0b1110, 0b1100, 0b1000})
"""Enabled bytes of a first doubleword that adjoin the next one."""
_DOWNWARD = frozenset({0b1111, 0b0111, 0b0011, 0b0001})
_QUADWORD = 8


def _up_to(high: int, step: int = 1) -> Callable[[object, attrs.Attribute[int], int], None]:
    """Return a validator for 0 to ``high`` in multiples of ``step``."""

    def check(_: object, attribute: attrs.Attribute[int], value: int) -> None:
        if not 0 <= value <= high or value % step:
            unit = f" in multiples of {step}" if step > 1 else ""
            raise MalformedTlp(f"{attribute.name} = {value:#x}: must be 0 to {high:#x}{unit}")

    return check


def _field(high: int, step: int = 1, **options: Any) -> Any:
    return attrs.field(validator=_up_to(high, step), **options)


@attrs.frozen
class Header:
    """Fields that all packets have."""

    requester: int = _field(0xFFFF)
    """Requester ID: bus number in bits 15 to 8, then device and function, as in ``lspci``."""
    tag: int = _field(0x3FF, default=0)
    """Number of the transaction: 8 bits, or 10 if both ends have 10-bit tags."""
    traffic_class: int = _field(7, default=0)
    attributes: Attribute = Attribute.NONE
    poisoned: bool = False
    """The data is damaged (EP)."""
    digest: bool = False
    """The packet ends with an ECRC (TD)."""


def _check_data(data: bytes, most: int = PAGE) -> None:
    if len(data) % DOUBLEWORD or not 0 < len(data) <= most:
        raise MalformedTlp(f"{len(data)} bytes of data: must be 4 to {most}, in whole doublewords")


def _check_no_data(header: Header) -> None:
    if header.poisoned:
        raise MalformedTlp("poisoned (EP) without data")


@attrs.frozen(kw_only=True)
class MemoryRequest:
    """Fields of memory reads and writes; addresses below 4 GiB take 32 bits, others 64 (2.2.7)."""

    header: Header
    address: int = _field((1 << 64) - DOUBLEWORD, DOUBLEWORD)
    first: int = _field(_ALL, default=_ALL)
    """Enabled bytes of the first doubleword, bit 0 the one at the lowest address."""
    last: int = _field(_ALL, default=0)
    """Enabled bytes of the last doubleword; 0 if it is also the first."""
    address_type: AddressType = AddressType.UNTRANSLATED

    @property
    def wide(self) -> bool:
        """Whether the address takes 64 bits."""
        return self.address >> 32 != 0

    def check_extent(self, length: int) -> None:
        """Raise `MalformedTlp` unless ``length`` suits the address and the byte enables (2.2.5)."""
        if not 1 <= length <= PAGE // DOUBLEWORD:
            raise MalformedTlp(f"length = {length} doublewords: must be 1 to {PAGE // DOUBLEWORD}")
        if self.address % PAGE + length * DOUBLEWORD > PAGE:
            raise MalformedTlp(f"{length} doublewords at {self.address:#x} cross a boundary of 4 KiB")
        enables = f"byte enables {self.first:04b} and {self.last:04b}"
        if length == 1:
            if self.last:
                raise MalformedTlp(f"{enables}: a request of one doubleword has no last one")
            return
        if not (self.first and self.last):
            raise MalformedTlp(f"{enables}: both must enable a byte if there is more than one doubleword")
        gaps_allowed = length == 2 and self.address % _QUADWORD == 0
        if not gaps_allowed and not (self.first in _UPWARD and self.last in _DOWNWARD):
            raise MalformedTlp(f"{enables}: must have no gap in {length} doublewords at {self.address:#x}")


@attrs.frozen(kw_only=True)
class MemoryRead(MemoryRequest):
    """Request for ``length`` doublewords of memory; with no byte enabled, a flush of earlier writes."""

    length: int

    def __attrs_post_init__(self) -> None:
        _check_no_data(self.header)
        self.check_extent(self.length)

    @property
    def kind(self) -> TlpKind:
        return TlpKind.MRD

    @property
    def start(self) -> int:
        """Address of the first enabled byte; of the doubleword if none is enabled."""
        return self.address + ((self.first & -self.first).bit_length() or 1) - 1

    @property
    def size(self) -> int:
        """Bytes from the first enabled one to the last."""
        enabled = self.first if self.length == 1 else self.last
        return self.address + (self.length - 1) * DOUBLEWORD + enabled.bit_length() - self.start

    @property
    def byte_count(self) -> int:
        """Bytes that completions count; 1 if no byte is enabled (2.3.1.1)."""
        return self.size or 1


@attrs.frozen(kw_only=True)
class MemoryWrite(MemoryRequest):
    """Posted write of ``data``, of which the enabled bytes change memory."""

    data: bytes

    def __attrs_post_init__(self) -> None:
        _check_data(self.data)
        self.check_extent(len(self.data) // DOUBLEWORD)
        if self.address_type is AddressType.TRANSLATION_REQUEST:
            raise MalformedTlp("a write can't be a translation request")

    @property
    def kind(self) -> TlpKind:
        return TlpKind.MWR


@attrs.frozen(kw_only=True)
class _ConfigRequest:
    header: Header
    target: int = _field(0xFFFF)
    """Bus, device and function, as in `Header.requester`."""
    register: int = _field(PAGE - DOUBLEWORD, DOUBLEWORD)
    """Offset in configuration space."""
    config_type: int = _field(1, default=0)
    """0 for a function of the link's other end, 1 for one behind a bridge there."""
    enabled: int = _field(_ALL, default=_ALL)
    """Enabled bytes."""

    def __attrs_post_init__(self) -> None:
        if self.header.traffic_class or self.header.attributes:
            raise MalformedTlp("a configuration request must have traffic class 0 and no attributes")


@attrs.frozen(kw_only=True)
class ConfigRead(_ConfigRequest):
    """Read of one doubleword of configuration space (2.2.7)."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        _check_no_data(self.header)

    @property
    def kind(self) -> TlpKind:
        return TlpKind.CFG_RD


@attrs.frozen(kw_only=True)
class ConfigWrite(_ConfigRequest):
    """Write of one doubleword of configuration space: non-posted."""

    data: bytes

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        _check_data(self.data, DOUBLEWORD)

    @property
    def kind(self) -> TlpKind:
        return TlpKind.CFG_WR


@attrs.frozen(kw_only=True)
class Completion:
    """Answer to a non-posted request, or a part of it (2.2.9)."""

    header: Header
    """Its requester and tag are those of the request."""
    completer: int = _field(0xFFFF)
    status: CompletionStatus = CompletionStatus.SUCCESS
    byte_count: int = DOUBLEWORD
    """Bytes that are left of the request, those of this packet included: 1 to 4096."""
    lower_address: int = _field(0x7F, default=0)
    """Lowest 7 bits of the address of the first byte."""
    data: bytes = b""
    """From the doubleword of the first byte on; empty for a write, and for all but successful reads."""

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.byte_count <= PAGE:
            raise MalformedTlp(f"byte count = {self.byte_count}: must be 1 to {PAGE}")
        if not self.data:
            _check_no_data(self.header)
            return
        _check_data(self.data)
        if self.status is not CompletionStatus.SUCCESS:
            raise MalformedTlp(f"{len(self.data)} bytes of data with status {self.status.name}")
        if self.data_size + DOUBLEWORD <= len(self.data) - self.lower_address % DOUBLEWORD:
            raise MalformedTlp(f"{len(self.data)} bytes of data with a byte count of {self.byte_count}")

    @property
    def kind(self) -> TlpKind:
        return TlpKind.CPLD if self.data else TlpKind.CPL

    @property
    def data_size(self) -> int:
        """Bytes of the request that this packet carries."""
        return min(self.byte_count, max(0, len(self.data) - self.lower_address % DOUBLEWORD))


@attrs.frozen(kw_only=True)
class Message:
    """Message of a fixed form: interrupts, errors, power management, slot power (2.2.8)."""

    header: Header
    code: MessageCode
    data: bytes = b""

    def __attrs_post_init__(self) -> None:
        size = MESSAGES[self.code].size
        if len(self.data) != size:
            raise MalformedTlp(f"{self.code.name} with {len(self.data)} bytes of data: must have {size}")
        if not size:
            _check_no_data(self.header)
        if self.header.traffic_class:
            raise MalformedTlp(f"{self.code.name} with traffic class {self.header.traffic_class}: must be 0")

    @property
    def kind(self) -> TlpKind:
        return TlpKind.MSG


Tlp = MemoryRead | MemoryWrite | ConfigRead | ConfigWrite | Completion | Message


def slot_power(message: Message) -> float:
    """Return the limit of a SET_SLOT_POWER_LIMIT message in watts (6.9)."""
    value, scale = message.data[0], message.data[1] & 3
    return value * (1.0, 0.1, 0.01, 0.001)[scale]
