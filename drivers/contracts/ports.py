"""What a device is plugged into. ``vnet.ports`` implements these; nothing here opens anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

import attrs

from drivers.flow.pump import Signal

__all__ = [
    "ALL_OFFLOADS",
    "ETH_HLEN",
    "HEADER_SIZE",
    "NO_OFFLOADS",
    "Offloads",
    "PacketPort",
    "PacketQueue",
    "PortState",
    "PortStatistics",
    "RpmsgEndpoint",
    "SectorStore",
    "StoreInfo",
]

HEADER_SIZE = 12
"""Bytes of the virtio_net_hdr in front of every frame a packet port handles (VIRTIO 1.4 section 5.1.9)."""
ETH_HLEN = 14


@attrs.frozen
class Offloads:
    """Which unfinished work a frame may carry in its virtio_net_hdr; TSO and USO need ``csum``."""

    csum: bool = False
    tso4: bool = False
    tso6: bool = False
    uso: bool = False
    ecn: bool = False
    """TCP segments of a connection that uses ECN; means nothing without TSO."""

    def __and__(self, other: Offloads) -> Offloads:
        return Offloads(*(a and b for a, b in zip(attrs.astuple(self), attrs.astuple(other), strict=True)))

    @property
    def gso(self) -> bool:
        """Whether frames may be larger than the MTU."""
        return self.tso4 or self.tso6 or self.uso


NO_OFFLOADS = Offloads()
ALL_OFFLOADS = Offloads(True, True, True, True, True)


@attrs.frozen
class PortState:
    """What the interface behind a port is called and wants to receive, as whoever uses it has set it up."""

    mac: bytes | None = None
    """6 bytes; None where it has none, or does not say."""
    promisc: bool = False
    allmulti: bool = False
    vlans: frozenset[int] | None = None
    """The VLANs that somebody there listens to; None where nobody says, so that it may be any."""


@attrs.frozen
class PortStatistics:
    """Figures of a port since it was opened. Received means: from the outside world, towards the ring."""

    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int
    drops: Mapping[str, int]
    """Frames the port itself dropped, in either direction, by cause."""


class PacketQueue(Protocol):
    """A place Ethernet frames come from and go to, each behind a 12-byte virtio_net_hdr.

    The data methods are synchronous, never block and never keep a view they were given.
    """

    def recv_into(self, segs: Sequence[memoryview], /) -> int:
        """Put the next frame, header first, into ``segs``; the number of bytes, or 0 where none waits.

        ``num_buffers`` is left 0, and of the flags only NEEDS_CSUM is handed up. A frame that does not fit is
        dropped and counted, and the next one is tried. Raises PortGone.
        """

    def pending(self) -> bool:
        """Whether `recv_into` may find a frame; it costs less than room for a large one that is not there."""

    def send(self, head: bytes, rest: Sequence[memoryview], /) -> bool:
        """Send one frame: ``head`` is a checked private copy of its 12-byte header and its 14-byte
        Ethernet header, ``rest`` what follows. False when it would block (nothing was taken). Of the
        flags only NEEDS_CSUM may be set.

        A frame the outside refuses is dropped and counted. Raises PortGone.
        """

    @property
    def source(self) -> Signal | None:
        """What `wait_readable` waits for, where it can be served in place; None where it can't."""

    async def wait_readable(self) -> None:
        """Return when `recv_into` may find a frame; may return early. Raises PortGone."""

    async def wait_writable(self) -> None:
        """Return when `send` may succeed; may return early. Raises PortGone."""


class PacketPort(PacketQueue, Protocol):
    """An interface: one or several queues of frames, and what is the same for all of them. It is its first queue."""

    @property
    def queues(self) -> Sequence[PacketQueue]:
        """All that it was opened with. Frames of one flow come from the queue that took the last one of it, and
        from one and the same as long as none did."""

    @property
    def caps(self) -> Offloads:
        """What this port can do, both as sender and as receiver; features are cut to it."""

    @property
    def live(self) -> bool:
        """Whether it was started, and not stopped since."""

    @property
    def running(self) -> bool:
        """Whether the outside can use it, which may be some time after it was started and has its carrier."""

    @property
    def lost(self) -> str:
        """Why it can't be used any more; empty while it can, as far as is known."""

    @property
    def state(self) -> PortState:
        """What its interface wants, as far as it is known by now."""

    async def start(self, *, mac: bytes | None, offloads: Offloads, mtu: int | None) -> None:
        """Go live: ``mac`` (6 bytes) is the interface's own address, ``offloads`` what `recv_into` may
        hand up from now on, ``mtu`` the largest packet without the Ethernet header. None leaves as is."""

    def stop(self) -> None:
        """Hand up nothing more until `start`; carrier off."""

    def set_carrier(self, up: bool) -> None:
        """Show the link state to whoever uses the interface."""

    def set_link_mode(self, speed: int | None, full_duplex: bool | None) -> None:
        """Show the speed, in Mbit/s, and the duplex mode to whoever uses the interface; None: unknown."""

    def set_queues(self, count: int) -> None:
        """Hand up frames from the first ``count`` queues only, and use no other any more. Raises PortGone."""

    def set_offloads(self, offloads: Offloads) -> None:
        """What `recv_into` may hand up from now on, of what it `caps`. Raises PortGone."""

    def set_mac(self, mac: bytes) -> None:
        """Give the interface another address. Raises PortGone."""

    def set_peer(self, mac: bytes) -> None:
        """The station at the other end has another address: for a port that has to know."""

    async def announce(self) -> None:
        """Hand up frames that tell everybody at the other end where the interface's addresses are. Raises PortGone."""

    async def wait_state(self, known: PortState) -> PortState:
        """The `state`, as soon as it is not ``known`` any more. One task at a time. Raises PortGone."""

    def statistics(self) -> PortStatistics:
        """A frozen copy of the counters, over all queues."""


@attrs.frozen
class StoreInfo:
    """What a store is, in bytes."""

    size: int
    """A multiple of 512."""
    read_only: bool = False
    block_size: int = 512
    """What reads and writes should be multiples of: a power of two from 512 on."""
    physical_block: int = 4096
    """What the store changes as a whole, a multiple of ``block_size``."""
    unmaps: bool = True
    """Whether blocks can be given up."""


class SectorStore(Protocol):
    """A place for the sectors of a disk. Offsets and sizes are bytes, multiples of 512 and never beyond its end.

    What may block is done by somebody else meanwhile, never on memory of another host: the caller hands in private
    buffers. Such a call ends only when the I/O has, also when it is cancelled. Every method raises OSError.
    """

    @property
    def info(self) -> StoreInfo: ...

    def preadv(self, segs: Sequence[memoryview], offset: int, /) -> int:
        """Fill ``segs`` with what can be had without waiting; the number of bytes, often all, maybe 0."""

    def pwritev(self, segs: Sequence[memoryview], offset: int, /) -> int:
        """Write what can be written without waiting; the number of bytes, maybe 0."""

    async def read(self, into: memoryview, offset: int, /) -> None:
        """Fill ``into``, a private buffer, completely."""

    async def write(self, parts: Sequence[tuple[int, memoryview]], /) -> None:
        """Write private buffers, each at its offset, completely."""

    async def flush(self) -> None:
        """Return when all that was written before is on stable storage. Once this failed it always fails."""

    async def discard(self, offset: int, size: int, /) -> None:
        """The range is of no use any more; what it reads as is not said."""

    async def write_zeroes(self, offset: int, size: int, unmap: bool, /) -> None:
        """The range reads as zeroes; its blocks may be given up with ``unmap``."""


class RpmsgEndpoint(Protocol):
    """One end of an rpmsg channel: a stream of messages to and from whatever endpoint of the other side it is bound to.

    ``async for message in endpoint`` ends when the endpoint is closed. The other side's comings and goings end
    nothing: `send` waits until there is somebody again. One task at a time may receive. Receiving and sending are
    checkpoints for cancellation each time, and let other tasks run every few messages at least.
    """

    lossy: bool
    """Whether a message that finds the inbox full is dropped and counted, rather than hold up all that is behind it."""

    @property
    def name(self) -> str:
        """The channel's."""

    @property
    def addr(self) -> int:
        """Its own address."""

    @property
    def bound(self) -> bool:
        """Whether it knows an endpoint of the other side."""

    @property
    def max_payload(self) -> int:
        """Bytes of the largest message that can be sent."""

    async def send(self, data: bytes | bytearray | memoryview, *, timeout: float = ...) -> None:
        """Send a message to the endpoint it is bound to, waiting ``timeout`` seconds at most for that and for a buffer.

        Raises MessageTooLong, SendTimeout, trio.ClosedResourceError.
        """

    def send_nowait(self, data: bytes | bytearray | memoryview) -> None:
        """Send it now. Raises MessageTooLong, NotBound, NoBuffer, trio.ClosedResourceError."""

    async def receive(self) -> bytes:
        """The next message. Raises trio.ClosedResourceError, trio.BusyResourceError."""

    def receive_nowait(self) -> bytes:
        """The next message. Raises trio.WouldBlock, trio.ClosedResourceError."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def close(self) -> None:
        """Take it away and tell the other side. What was sent before is sent; what nobody received is dropped."""
