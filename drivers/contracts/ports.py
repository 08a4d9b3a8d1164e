"""Interfaces of ports, the outer ends of devices, implemented by ``vnet.ports``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

import attrs

from drivers.contracts.liveness import Liveness
from drivers.flow.pump import Serve
from rings.memory import Addr

__all__ = [
    "ALL_OFFLOADS",
    "ETH_HLEN",
    "HEADER_SIZE",
    "NOT_PLAIN",
    "NO_FRAME",
    "NO_OFFLOADS",
    "FrameSlots",
    "KnownHeads",
    "Lifetime",
    "NativeQueue",
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
"""Bytes of the virtio_net_hdr in front of every frame of a packet port (VIRTIO 1.4 section 5.1.9)."""
ETH_HLEN = 14
KnownHeads = Mapping[bytes, tuple[int, int, bytes, int]]
"""Verdicts by head of a frame: minimum and maximum bytes of header and frame, the head to pass on, num_buffers."""
NO_FRAME, NOT_PLAIN = -1, -2
"""Reasons to stop of `NativeQueue.recv_chains` and `recv_slots`: no frame is pending; Python reads the next one."""


@attrs.frozen
class Offloads:
    """Checksum and segmentation work that a frame may leave to its receiver; TSO and USO need ``csum``."""

    csum: bool = False
    tso4: bool = False
    tso6: bool = False
    uso: bool = False
    ecn: bool = False
    """TCP segments of a connection that uses ECN; ignored without TSO."""

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
    """Address and receive settings of the interface behind a port, as its users configured them."""

    mac: bytes | None = None
    """6 bytes; None if the interface has no address or does not report it."""
    promisc: bool = False
    allmulti: bool = False
    vlans: frozenset[int] | None = None
    """VLANs in use on the interface; None if it does not report them."""


@attrs.frozen
class PortStatistics:
    """Counters of a port since it was opened. Received means from the outside towards the ring."""

    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int
    drops: Mapping[str, int]
    """Frames dropped by the port itself, in either direction, by cause."""


class PacketQueue(Protocol):
    """A source and sink of Ethernet frames, each behind a 12-byte virtio_net_hdr.

    The data methods are synchronous, never block and never keep a view passed to them.
    """

    def recv_into(self, segs: Sequence[memoryview], /) -> int:
        """Write the next frame with its header into ``segs``. Returns its bytes, or 0 if no frame is pending.

        ``num_buffers`` stays 0, and NEEDS_CSUM is the only flag set. A frame that does not fit is dropped and counted,
        and the next one is read. Raises PortGone.
        """

    def pending(self) -> bool:
        """Return whether a frame may be pending. Cheaper than allocating a large buffer for a frame in vain."""

    def send(self, head: bytes, rest: Sequence[memoryview], /) -> bool:
        """Send one frame. Returns False, having sent nothing, if it would block.

        ``head`` is a validated private copy of the 12-byte header and the 14-byte Ethernet header, with no flag but
        NEEDS_CSUM; ``rest`` is the remainder of the frame. A frame that the outside rejects is dropped and counted.
        Raises PortGone.
        """

    async def wait_readable(self, serve: Serve | None = None, /) -> None:
        """Wait until a frame may be pending; may return early. Raises PortGone.

        A port that can calls ``serve`` instead of waking the waiting task, as `Signal.wait` does.
        """

    async def wait_writable(self, serve: Serve | None = None, /) -> None:
        """Wait until `send` may succeed, like `wait_readable`."""


class FrameSlots(Protocol):
    """Equal-sized buffers of a driver, by slot."""

    @property
    def block(self) -> memoryview:
        """Memory of all buffers, from the first one on."""

    @property
    def addrs(self) -> Sequence[Addr]:
        """Address of each buffer."""

    @property
    def size(self) -> int:
        """Bytes of each buffer."""


class NativeQueue(PacketQueue, Protocol):
    """A queue that moves batches of plain frames in C: frames with known heads, in buffers that any frame fits.

    Its calls stop at the first frame that is not plain. They raise nothing: an error repeats when Python moves it.
    """

    native: bool
    """Whether to use these calls now; not while the frames of the queue are observed."""

    def send_each(
        self,
        view: memoryview,
        frames: Sequence[tuple[int, ...]],
        known: KnownHeads,
        exceptions: AbstractSet[bytes] | None = None,
        single: bool = False,
        pitch: int = 0,
        /,
    ) -> tuple[int, int]:
        """Send frames in ``view``. Returns their number, and bytes without headers.

        Each frame is (any, offset, bytes) with its header, or (slot, bytes) if slots are ``pitch`` bytes apart. Frames
        are not plain if their heads are among ``exceptions``, or, with ``single``, if they take several buffers.
        """

    def recv_chains(
        self, view: memoryview, chains: Sequence[tuple[int, int, int]], verdicts: Mapping[bytes, str] | None, /
    ) -> tuple[list[tuple[int, int]], int, int]:
        """Receive frames into chains of `rings.queue.Vringh.getplain`, with num_buffers 1.

        Only frames that the receive filter passes by ``verdicts`` are plain. Returns head and bytes of each, all bytes
        without headers, and why it stopped: `NO_FRAME`, `NOT_PLAIN`, or the argument of `judge_read` for a next chain.
        """

    def recv_slots(
        self, slots: FrameSlots, free: Sequence[int], limit: int, budget: int, /
    ) -> tuple[list[tuple[Addr, int, int]], int, int]:
        """Receive up to ``limit`` frames or ``budget`` bytes into free slots, the last one of ``free`` first.

        Returns (address, bytes, slot) of each, and the rest as `recv_chains`.
        """

    def judge_read(self, size: int, segs: Sequence[memoryview], /) -> int:
        """Continue as `recv_into` with the frame that is in ``segs`` already."""


class PacketPort(PacketQueue, Protocol):
    """A network interface with one or several queues of frames. The port itself is its first queue."""

    @property
    def queues(self) -> Sequence[PacketQueue]:
        """All queues of the port. Frames of a flow are received from the queue that last sent a frame of it, or from
        any one fixed queue if none did."""

    @property
    def caps(self) -> Offloads:
        """Supported offloads in both directions; they limit the features."""

    @property
    def live(self) -> bool:
        """Whether the port is started and not stopped."""

    @property
    def liveness(self) -> Liveness:
        """Whether the outside can use the interface, which may lag behind `start` and its carrier."""

    @property
    def lost(self) -> str:
        """Reason why the port is unusable for good; empty while it is usable, as far as known."""

    @property
    def state(self) -> PortState:
        """Last known state of the interface."""

    async def start(self, *, mac: bytes | None, offloads: Offloads, mtu: int | None) -> None:
        """Go live with this configuration; None keeps a setting.

        ``mac`` (6 bytes) is the interface's address, ``offloads`` are those that `recv_into` may use, and ``mtu`` is
        the largest packet without the Ethernet header.
        """

    def stop(self) -> None:
        """Receive nothing more until `start`, and turn the carrier off."""

    def set_carrier(self, up: bool) -> None:
        """Show the link state to the interface's users."""

    def set_link_mode(self, speed: int | None, full_duplex: bool | None) -> None:
        """Show the speed in Mbit/s and the duplex mode to the interface's users; None: unknown."""

    def set_queues(self, count: int) -> None:
        """Use only the first ``count`` queues. Raises PortGone."""

    def set_offloads(self, offloads: Offloads) -> None:
        """Set the offloads that `recv_into` may use, a subset of `caps`. Raises PortGone."""

    def set_mac(self, mac: bytes) -> None:
        """Set the interface's address. Raises PortGone."""

    def set_peer(self, mac: bytes) -> None:
        """Inform the port of the peer station's new address."""

    async def announce(self) -> None:
        """Receive frames that announce the interface's addresses to the stations of the other end. Raises PortGone."""

    async def wait_state(self, known: PortState) -> PortState:
        """Wait until `state` differs from ``known``, and return it. One task at a time. Raises PortGone."""

    def statistics(self) -> PortStatistics:
        """Return a frozen copy of the counters over all queues."""


@attrs.frozen
class Lifetime:
    """Wear of a store's flash memory (VIRTIO 1.4 section 5.2.6), in the values of eMMC; 0: unknown."""

    pre_eol: int
    """State of the reserved blocks: 1 normal, 2 four fifths used, 3 nine tenths used."""
    wear_a: int
    """Used life of the cells of type A in tenths, rounded up; 11: exceeded."""
    wear_b: int
    """Likewise, of the cells of type B."""

    @property
    def valid(self) -> bool:
        """Whether no value is reserved."""
        return 0 <= self.pre_eol <= 3 and 0 <= self.wear_a <= 11 and 0 <= self.wear_b <= 11


@attrs.frozen
class StoreInfo:
    """Size, block sizes and abilities of a store."""

    size: int
    """Bytes, a multiple of 512."""
    read_only: bool = False
    block_size: int = 512
    """Preferred unit of reads and writes in bytes: a power of two from 512 on."""
    physical_block: int = 4096
    """Unit in bytes that the store writes at once, a multiple of ``block_size``."""
    unmaps: bool = True
    """Whether blocks can be deallocated."""
    lifetime: Lifetime | None = None
    """Wear of the storage; None if it does not say."""


class SectorStore(Protocol):
    """Storage for the sectors of a disk. Offsets and sizes are bytes, multiples of 512 and never beyond its end.

    The async methods may use another thread, so callers pass private buffers, never memory of another host. They return
    only after the I/O has ended, even if cancelled. Every method raises OSError.
    """

    @property
    def info(self) -> StoreInfo: ...

    def preadv(self, segs: Sequence[memoryview], offset: int, /) -> int:
        """Fill ``segs`` as far as possible without blocking. Returns the bytes read: often all, maybe 0."""

    def pwritev(self, segs: Sequence[memoryview], offset: int, /) -> int:
        """Write as much as possible without blocking. Returns the bytes written, maybe 0."""

    async def read(self, into: memoryview, offset: int, /) -> None:
        """Fill ``into``, a private buffer, completely."""

    async def write(self, parts: Sequence[tuple[int, memoryview]], /) -> None:
        """Write private buffers, each at its offset, completely."""

    async def flush(self) -> None:
        """Wait until all earlier writes are on stable storage. After one failure, always fails."""

    async def discard(self, offset: int, size: int, /) -> None:
        """Discard the range; its contents are unspecified afterwards."""

    async def write_zeroes(self, offset: int, size: int, unmap: bool, /) -> None:
        """Zero the range; with ``unmap``, its blocks may be deallocated."""

    async def extents(self, offset: int, size: int, limit: int, /) -> Sequence[tuple[int, int, bool]]:
        """Return up to ``limit`` ranges from ``offset`` on, within the next ``size`` bytes, without gaps.

        Each is (offset, bytes, whether its blocks are allocated). Unallocated blocks read as zeroes.
        """

    async def erase(self, offset: int, size: int, /) -> None:
        """Overwrite the range in place, then discard it."""


class RpmsgEndpoint(Protocol):
    """One end of an rpmsg channel: a stream of messages to and from the endpoint that it is bound to.

    ``async for message in endpoint`` ends when the endpoint is closed. It does not end when the other side's endpoint
    goes: `send` waits until another one is bound. One task at a time may receive. Receiving and sending are
    checkpoints for cancellation, and let other tasks run every few messages at least.
    """

    lossy: bool
    """Whether a message is dropped and counted if the inbox is full, instead of delaying all messages behind it."""

    @property
    def name(self) -> str:
        """Name of the channel."""

    @property
    def addr(self) -> int:
        """Address of this endpoint."""

    @property
    def bound(self) -> bool:
        """Whether the other side's endpoint is known."""

    @property
    def max_payload(self) -> int:
        """Maximum bytes of a message."""

    async def send(self, data: bytes | bytearray | memoryview, *, timeout: float = ...) -> None:
        """Send a message to the bound endpoint, waiting up to ``timeout`` seconds for the endpoint and a buffer.

        Raises MessageTooLong, SendTimeout, trio.ClosedResourceError.
        """

    def send_nowait(self, data: bytes | bytearray | memoryview) -> None:
        """Send a message without waiting. Raises MessageTooLong, NotBound, NoBuffer, trio.ClosedResourceError."""

    async def receive(self) -> bytes:
        """Wait for the next message and return it. Raises trio.ClosedResourceError, trio.BusyResourceError."""

    def receive_nowait(self) -> bytes:
        """Return the next message. Raises trio.WouldBlock, trio.ClosedResourceError."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def close(self) -> None:
        """Close the endpoint and notify the other side. Messages already sent are delivered; the inbox is dropped."""
