"""Records of the data path: frames, chains, notifications, register accesses, requests on links.

Fields of the same name have the same meaning in all records, and join them:

``frame``: number of a frame. It stays with the frame from the port where it enters to the port where it leaves, through
all records of the chain that holds its first byte.

``chain``: number of a chain in its queue. Both sides count the chains of a ring from 0, so that the driver's nth chain
is the device's nth chain; device, queue and number name a chain until its ring stops.

``published``: how many chains of the queue the notifying side has shown to the other one so far, which joins a
notification to its doorbell or interrupt, and to its chains: a kick announces the chains with smaller numbers, down to
the count of the kick before; so does a call, if the device completes chains in order.

``request``: number of a request on a link, which joins its records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import attrs

from drivers.contracts.events.base import HEX, Event, Source, Topic

__all__ = [
    "Buffer",
    "ChainAbandoned",
    "ChainAdded",
    "ChainCompleted",
    "ChainEvent",
    "ChainReturned",
    "ChainTaken",
    "ConfigAccessed",
    "DmaMoved",
    "FrameEvent",
    "FrameReceived",
    "FrameSent",
    "FrameSink",
    "FrameWriter",
    "InterruptSent",
    "Notified",
    "RegisterAccessed",
    "TlpCarried",
    "TlpSent",
]


# Frames


@attrs.frozen
class FrameEvent(Event):
    """A frame at a port; its source has the side and the queue that it goes to or comes from."""

    topic = Topic.FRAMES
    frame: int
    chain: int | None
    """None if the frame was copied on its way, if its buffers cannot be joined to a chain, or if no sink takes rings or
    tlps."""
    header: bytes
    """virtio_net_hdr between port and queue, 12 bytes (VIRTIO 1.4 section 5.1.9)."""
    size: int
    """Bytes of the Ethernet frame."""
    pieces: Sequence[memoryview] = attrs.field(eq=False, repr=False)
    """The Ethernet frame. These views are valid only during the call of the sink, which may not write to them."""

    def data(self, limit: int | None = None) -> bytes:
        """Return a copy of the frame, or of its first ``limit`` bytes; only during the call of the sink."""
        parts, left = [], self.size if limit is None else min(limit, self.size)
        for piece in self.pieces:
            if not left:
                break
            part = bytes(piece[:left])
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


@attrs.frozen
class FrameReceived(FrameEvent):
    """A frame entered through a port, towards the queue."""


@attrs.frozen
class FrameSent(FrameEvent):
    """A frame left through a port."""


class FrameWriter(Protocol):
    """Takes the frames of one kind and place, without records. Never raises and never waits."""

    def __call__(self, time: float, frame: int, chain: int | None, size: int, segs: Sequence[memoryview], /) -> None:
        """Take a frame, whose fields are those of a `FrameEvent`.

        ``segs`` have its virtio_net_hdr, its ``size`` bytes, and perhaps more. They are valid only during the call.
        """


@runtime_checkable
class FrameSink(Protocol):
    """A sink that also takes frames without records, which saves more time than the rest of a frame costs it."""

    def frame_writer(self, kind: type[FrameEvent], source: Source, /) -> FrameWriter | None:
        """Return the function that takes the frames of a kind and place; None if the sink ignores them."""


# Rings


@attrs.frozen
class Buffer:
    """One piece of a chain's buffers: what one descriptor describes."""

    addr: int = attrs.field(metadata=HEX)
    """Address on the bus between the two sides."""
    size: int
    """Bytes."""
    writable: bool
    """Whether the device writes to it; else it reads from it."""


@attrs.frozen
class ChainEvent(Event):
    """A chain changed hands."""

    topic = Topic.RINGS
    chain: int
    head: int
    """Index of its first descriptor (split), its buffer id (packed)."""
    frame: int | None
    """Frame that starts in the chain, once it is known."""


@attrs.frozen
class ChainAdded(ChainEvent):
    """The driver put a chain into the ring; the device sees it with the next kick, or without one if suppressed."""

    buffers: Sequence[Buffer]
    indirect: bool
    """Whether the descriptors are in an indirect table."""


@attrs.frozen
class ChainTaken(ChainEvent):
    """The device took a chain out of the ring. Its buffers are what the device read in the descriptors."""

    buffers: Sequence[Buffer]
    indirect: bool


@attrs.frozen
class ChainAbandoned(ChainEvent):
    """The device put a chain back unused; it takes it again later."""


@attrs.frozen
class ChainCompleted(ChainEvent):
    """The device marked a chain as used; the driver sees it with the next call, or without one if suppressed."""

    written: int
    """Bytes that the device claims to have written."""


@attrs.frozen
class ChainReturned(ChainEvent):
    """The driver took a used chain out of the ring: it is finished."""

    written: int


@attrs.frozen
class Notified(Event):
    """A side published chains and notified the other one, or did not because that suppressed it; or the other side
    handled a notification.
    """

    topic = Topic.RINGS
    kind: Literal["kick", "call"]
    """A kick goes to the device, a call to the driver."""
    outcome: Literal["sent", "suppressed", "arrived", "lost"]
    """A notification that was sent arrives, or is lost by the link."""
    published: int | None
    """None for a notification that arrived: it does not tell."""


# Registers and configuration


@attrs.frozen
class RegisterAccessed(Event):
    """A driver read or wrote a register of a device. A write is reported before it takes effect."""

    topic = Topic.REGISTERS
    write: bool
    register: str
    """Name of the register, such as device_status; or its BAR and offset, if it has no name."""
    bar: int
    """0 for a platform device, which has one region."""
    offset: int = attrs.field(metadata=HEX)
    size: int
    """Bytes."""
    value: int = attrs.field(metadata=HEX)
    doorbell: bool
    """Whether it is a write that notifies the device."""
    published: int | None
    """Only for a doorbell whose queue is known."""
    request: int | None
    """The request that carried the access over a link; None within a host."""


@attrs.frozen
class ConfigAccessed(Event):
    """The root complex accessed the configuration space of a function. A write is reported before it takes effect."""

    topic = Topic.REGISTERS
    write: bool
    register: str
    """Name of the register, such as command; or its offset, if it has no name."""
    function: int
    """Number of the function at the endpoint."""
    offset: int = attrs.field(metadata=HEX)
    size: int
    value: int = attrs.field(metadata=HEX)
    request: int


# Links


@attrs.frozen
class TlpSent(Event):
    """A request crossed a link, with its completion if it has one. A write is reported before it takes effect.

    Accesses of a device to the other host's memory are `DmaMoved`, which stands for all their requests.
    """

    topic = Topic.TLPS
    request: int
    kind: Literal["MRd", "MWr", "CfgRd", "CfgWr", "Msg"]
    posted: bool
    """Whether it has no completion: memory writes and messages."""
    downstream: bool
    """Whether it goes from the root complex to the endpoint."""
    function: int
    """Function of the endpoint that sent it or that it is for."""
    addr: int = attrs.field(metadata=HEX)
    """Address on the link; offset in configuration space for CfgRd and CfgWr, 0 for a message."""
    bar: int | None
    """BAR that holds the address, of a request that goes downstream."""
    offset: int | None = attrs.field(metadata=HEX)
    """Offset in that BAR."""
    size: int
    """Bytes of data; 0 for a message."""
    value: int = attrs.field(metadata=HEX)
    """Data written or read; for a message, 1 asserts INTx and 0 deasserts it."""


@attrs.frozen
class TlpCarried(Event):
    """A transaction layer packet left a port of a wire for the first time, or was delivered at the other one.

    Fields that a packet of its kind does not have are None, or empty.
    """

    topic = Topic.TLPS
    kind: str
    """As in the specification: MRd, MWr, CfgRd, CfgWr, Cpl, CplD or Msg; else the reason why the packet is none."""
    downstream: bool
    """Whether it goes from the root complex to the endpoint."""
    delivered: bool
    clock_ns: float
    """Time on the clock of the wire, which runs while packets are under way, in nanoseconds."""
    requester: int | None = attrs.field(metadata=HEX)
    """Bus, device and function."""
    tag: int | None
    addr: int | None = attrs.field(metadata=HEX)
    """Address on the link; offset in configuration space for CfgRd and CfgWr."""
    size: int | None
    """Bytes of data in whole doublewords; those that a read asks for."""
    completer: int | None = attrs.field(metadata=HEX)
    """Function that answers, or that a configuration request is for."""
    status: str
    """Status of a completion."""
    message: str
    """Code of a message, such as ERR_COR."""
    poisoned: bool
    digest: bool
    packet: str
    """All bytes, in hexadecimal."""


@attrs.frozen
class DmaMoved(Event):
    """A device accessed buffers of a chain in the driver's memory: with each frame that it sends, and with each chain
    that it completes. A request that goes to no port counts as read whole.
    """

    topic = Topic.TLPS
    write: bool
    addr: int = attrs.field(metadata=HEX)
    """Address of the first byte on the bus between the two sides."""
    size: int
    """Bytes really moved, not those of the buffers; they may lie in several buffers."""
    chain: int
    frame: int | None


@attrs.frozen
class InterruptSent(Event):
    """A device sent an interrupt to the driver's host."""

    topic = Topic.TLPS
    kind: Literal["MSI-X", "INTx", "line"]
    """A line is that of a platform device."""
    vector: int | None
    """MSI-X vector of the function; None for other kinds."""
    asserted: bool
    """False for the end of an INTx or a line."""
    published: int | None
    """Only for an MSI-X vector of a single queue."""
    request: int | None
    """The request that carried it over a link; None within a host."""
