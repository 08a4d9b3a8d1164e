"""Shared parts of TUN and TAP ports: a non-blocking descriptor with virtio_net_hdr, and its errors."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import select
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import FileIO
from typing import Self

import attrs
import trio

from drivers.contracts.ports import ETH_HLEN, HEADER_SIZE, NO_OFFLOADS, Offloads, PortStatistics
from drivers.devices.net.vlan import TAGS_ROOM
from drivers.errors import PortGone
from drivers.flow.pump import Serve, Signal
from rings.chain import skip
from vnet.linux.poller import Poller
from vnet.linux.waits import wait_readable, wait_writable
from vnet.ports.packet.announce import announcements
from vnet.ports.packet.base import CountingPort, agreed_gso_types, scatter, uses_agreed_offloads
from vnet.ports.packet.native.port import NativePort
from vnet.ports.packet.pytun_device import TunTapDevice

__all__ = ["LEAD", "TunTapPort"]

TUNSETOFFLOAD = 0x400454D0
TUNSETCARRIER = 0x400454E2
TUNSETQUEUE = 0x400454D9
IFREQ_FLAGS = struct.Struct("16sH22x")
ATTACH, DETACH = 0x0200, 0x0400

TUN_F_CSUM, TUN_F_TSO4 = 1, 2
OFFLOAD_FLAGS = {"csum": TUN_F_CSUM, "tso4": TUN_F_TSO4, "tso6": 4, "uso": 0x20 | 0x40, "ecn": 8}
"""TUNSETOFFLOAD flags by offload. The kernel accepts USO4 and USO6 only together, TSO_ECN only with TSO4 or TSO6."""

IOV_MAX = 1024
BURST_OF_DROPS = 64
"""Consecutive dropped frames after which `recv_into` returns, so that the caller's task can yield."""
PLAIN_HEADER = bytes(HEADER_SIZE)
LARGEST = HEADER_SIZE + ETH_HLEN + TAGS_ROOM + 0xFFFF
"""Maximum bytes of header and frame that an interface delivers."""
LEAD = HEADER_SIZE + ETH_HLEN + 40
"""Bytes of header and frame that ports inspect: up to the end of an IPv6 header."""
STALE_FRAMES_MAX = 65536
"""Maximum number of stale frames that a start discards; more than any interface queues."""

SEND_DROPS = {
    errno.EINVAL: "refused",
    errno.EIO: "interface_down",
    # A wait for memory is impossible: the descriptor stays writable, so back-pressure would spin.
    errno.ENOBUFS: "no_memory",
    errno.ENOMEM: "no_memory",
}


def _read_closed(_: memoryview) -> int:
    """Fail as a read from a closed descriptor does."""
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class TunTapPort(NativePort):
    """A descriptor of /dev/net/tun: one queue of an interface. Base class of `TunPort` and `TapPort`.

    An interface with several queues has one object per queue. The first is the port, and the ``lead`` of the others.
    The kernel selects the queue of a received packet: the one to which the last packet of its flow was written.

    A frame is read directly into the caller's buffer, where a peer can change it. Its virtio_net_hdr is copied from
    there once, and a checked replacement written over it; what a peer changes is in the frame that it gets anyway.
    The first ``FRONT`` bytes of a frame are nearly always those of an earlier frame with the same virtio_net_hdr, so
    subclasses cache them.
    """

    FRONT = HEADER_SIZE
    """Bytes of header and frame that the port writes itself. The virtio_net_hdr that the device delivers ends there."""

    def __init__(self, device: TunTapDevice, ifname: str, lead: Self | None = None) -> None:
        super().__init__(ifname)
        self.lead = lead or self
        self.queues: list[Self] = [self]
        self._attached = 1
        self._outbox: deque[bytes] = deque()
        """The port's own frames, each with its virtio_net_hdr."""
        self._device = device
        self._fd = device.fileno()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._poller: Poller | None = None
        self._arrival: Signal | None = None
        self._live = False
        self._starts = 0
        self._started = trio.Event()
        self._plain = False
        """Whether the port is live and has no own frames to hand up: one test on the data path."""
        self._gso_types: frozenset[int] = frozenset()
        self._limit = math.inf
        """Maximum size of header and frame without VLAN tags and GSO; the interface's MTU can be larger meanwhile."""
        # Reads into one buffer, which takes half as long as a list of buffers. Returns None if there is no frame.
        self._read: Callable[[memoryview], int | None] = FileIO(self._fd, closefd=False).readinto
        # One byte behind the caller's buffer, which is written only if the frame is too long.
        self._spill = memoryview(bytearray(1))
        if lead is not None:
            self._caps = lead.caps
            lead.queues.append(self)
            lead._attached += 1
            return
        self._caps = self._probe()
        self._set_offloads(NO_OFFLOADS)
        self.set_carrier(False)

    @property
    def caps(self) -> Offloads:
        return self._caps

    # Start and stop

    def watch(self, poller: Poller) -> None:
        """Let ``poller`` watch for frames until `close`."""
        for queue in self.queues:
            queue._poller = poller
            queue._arrival = poller.register(queue._fd, queue.uncarried_bytes)

    @property
    def live(self) -> bool:
        return self._live

    async def start(self, *, mac: bytes | None, offloads: Offloads, mtu: int | None) -> None:
        """Implement `PacketPort.start`. `set_carrier` turns the carrier on. Raises PortGone."""
        await trio.lowlevel.checkpoint()
        self._set_offloads(offloads)
        if mtu is not None:
            self._set_mtu(mtu)
        for queue in self.queues:
            queue._limit = math.inf if mtu is None else HEADER_SIZE + ETH_HLEN + mtu
        self._refresh_interface()
        if mac is not None:
            self.set_mac(mac)
        for queue in self.queues[: self._attached]:
            queue._begin()
        self._update_liveness()

    def _begin(self) -> None:
        """Set this queue live."""
        self._forget()
        self._drop_stale()
        self._starts += 1
        self._live = True
        self._refresh()
        self._started.set()

    def _end(self) -> None:
        self._live = self._plain = False
        self.drop("stopped", self._left > 0)
        self._left = 0
        if self._fd >= 0 and self._started.is_set():
            self._started = trio.Event()

    def stop(self) -> None:
        for queue in self.queues:
            queue._end()
        self._update_liveness()
        self.drop("stopped", len(self._outbox))
        self._outbox.clear()
        with suppress(PortGone):  # the interface stays up, and what the kernel sends there is stale at the next start
            self.set_carrier(False)

    def set_queues(self, count: int) -> None:
        """Detach the last queues first, and attach the first ones first, so that the kernel's order stays ours."""
        while self._attached > count:
            queue = self.queues[self._attached - 1]
            if queue._live:
                queue._end()
                queue._drop_stale("stopped")
            queue._steer(DETACH)
            self._attached -= 1
        while self._attached < count:
            queue = self.queues[self._attached]
            queue._steer(ATTACH)
            self._attached += 1
            if self._live:
                queue._begin()

    def _steer(self, flag: int) -> None:
        try:
            fcntl.ioctl(self._fd, TUNSETQUEUE, IFREQ_FLAGS.pack(b"", flag))
        except OSError as error:
            raise self._gone(error) from error

    def set_offloads(self, offloads: Offloads) -> None:
        self._set_offloads(offloads)
        for queue in self.queues:
            queue._forget()

    def set_mac(self, mac: bytes) -> None:
        self._take_mac(mac)
        self._set_state(attrs.evolve(self.state, mac=mac))
        self._refresh_interface()  # earlier netlink messages have the old address
        for queue in self.queues:
            queue._forget()

    def set_peer(self, mac: bytes) -> None:
        """Do nothing; `TunPort` uses the peer's address."""

    async def announce(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        self._refresh_interface()
        self._outbox.extend(PLAIN_HEADER + frame for frame in announcements(self._own_mac(), self.addresses))
        self._refresh()
        self._wake()

    def statistics(self) -> PortStatistics:
        return CountingPort.total(self.queues)

    def set_carrier(self, up: bool) -> None:
        try:
            fcntl.ioctl(self._fd, TUNSETCARRIER, struct.pack("i", up))
        except (OSError, ValueError) as error:
            # A deleted interface has no carrier; the next `send` or `recv_into` raises PortGone.
            if isinstance(error, OSError) and error.errno not in (errno.EBADF, errno.EBADFD):
                raise self._gone(error) from error

    def close(self) -> None:
        """Close the descriptors, which deletes the interface. Waiters return; every later use raises PortGone."""
        if self._fd < 0:
            return
        for queue in self.queues:
            queue._leave()
        self._close_devices([queue._device.close for queue in self.queues])

    def _leave(self) -> None:
        """Stop using the descriptor."""
        self._wake()
        if self._poller is not None:
            self._poller.unregister(self._fd)
        self._fd = -1
        self._read = _read_closed
        self._started.set()

    # Data

    def recv_into(self, segs: Sequence[memoryview], /) -> int:
        at = self.FRONT - HEADER_SIZE
        drops = 0
        while drops < BURST_OF_DROPS:
            if not self._plain:
                if self._left:
                    left, self._left = self._left, 0
                    return self.judge_read(left, segs)
                size = self._own_frame(segs)
                if size or not self._live:
                    return size
            try:
                if segs and (room := len(segs[0])) > LARGEST:
                    seg = segs[0]
                    read = self._read(seg[at:])
                else:
                    seg, room, read = self._read_list(segs)
            except BlockingIOError:
                return 0
            except OSError as error:
                raise self._gone(error) from error
            if read is None:
                return 0
            size = at + read
            if size > room or (size > self._limit and not seg[at + 1] and size > self._limit + self._tags(seg)):
                self.drop("too_long")  # GSO frames and VLAN tags are allowed beyond the MTU
            elif front := self._front(seg, size, segs):
                seg[: self.FRONT] = front
                if seg is not segs[0]:
                    scatter(segs, bytes(seg[:size]))
                self.rx_packets += 1
                self.rx_bytes += size - HEADER_SIZE
                return size
            drops += 1
        return 0

    def judge_read(self, size: int, segs: Sequence[memoryview], /) -> int:
        read = self._read

        def first(_: memoryview) -> int:
            self._read = read
            return size

        self._read = first
        self._plain = True  # the port's own frames wait: their buffer has this one
        try:
            return self.recv_into(segs)
        finally:
            self._refresh()

    def fileno(self) -> int:
        """Return the descriptor; -1 once closed."""
        return self._fd

    @property
    def serves(self) -> bool:
        """Whether a flow waits for a frame, and lets the poller serve it."""
        return self._arrival is not None and self._arrival.serves

    def arrive(self) -> None:
        """Let the flow that waits for a frame look for one."""
        if self._arrival is not None:
            self._arrival.set()

    def pending(self) -> bool:
        try:
            return not self._plain or bool(self._poll.poll(0))
        except OSError:  # the kernel lacks memory for the call: a read finds out
            return True

    def _read_list(self, segs: Sequence[memoryview]) -> tuple[memoryview, int, int]:
        """Read into any list of segments; return ``seg`` as for `_front`, the segments' size, and the bytes read.

        Raises BlockingIOError if there is no frame.
        """
        at = self.FRONT - HEADER_SIZE
        if segs and len(segs[0]) > LEAD:
            seg, tail = segs[0], segs[1 : IOV_MAX - 1]
            room = len(seg) + sum(map(len, tail))
        else:
            seg, tail = memoryview(bytearray(LEAD)), skip(segs, LEAD)[: IOV_MAX - 2]
            room = min(sum(map(len, segs)), LEAD + sum(map(len, tail)))
        return seg, room, os.readv(self._fd, (seg[at:], *tail, self._spill))

    def _write(self, out: bytes, rest: Sequence[memoryview], /) -> bool:
        """Implement `send`; ``out`` replaces the frame's head for the device."""
        try:
            size = os.writev(self._fd, (out, *rest))
        except BlockingIOError:
            return False
        except OSError as error:
            return self._refused(error, out, rest)
        self.tx_packets += 1
        self.tx_bytes += size + self.FRONT - 2 * HEADER_SIZE
        return True

    def _refused(self, error: OSError, out: bytes, rest: Sequence[memoryview]) -> bool:
        if error.errno == errno.EINVAL and len(rest) >= IOV_MAX:
            return self._write(out, (memoryview(b"".join(rest)),))
        if error.errno not in SEND_DROPS:
            raise self._gone(error) from error
        self.drop(SEND_DROPS[error.errno])
        return True

    # Waiting

    async def wait_readable(self, serve: Serve | None = None, /) -> None:
        self._check()
        if not self._live:
            await self._started.wait()
            self._check()
        deadline = self._deadline()
        try:
            if deadline == math.inf:  # the usual case: a cancel scope would cost a fifth of the wait
                await self._wait(serve)
            else:
                with trio.CancelScope(deadline=deadline):
                    await self._wait(serve)
        except trio.ClosedResourceError:
            pass  # woken by `_wake`

    async def _wait(self, serve: Serve | None) -> None:
        if self._arrival is None:
            await wait_readable(self._fd)
        else:
            await self._arrival.wait(serve)

    async def wait_writable(self, serve: Serve | None = None, /) -> None:
        self._check()
        try:
            await wait_writable(self._fd)
        except trio.ClosedResourceError:
            pass  # `_wake` wakes writers, too

    def _wake(self) -> None:
        """Make waiters check again. `notify_closing` is meant for closing, but the descriptor stays open here."""
        trio.lowlevel.notify_closing(self._fd)
        self.arrive()

    # For subclasses

    def _take_mac(self, mac: bytes) -> None:
        """Set our MAC. Raises PortGone."""
        raise NotImplementedError

    def _own_mac(self) -> bytes:
        raise NotImplementedError

    def _forget(self) -> None:
        """Clear cached headers after a change of addresses or offloads."""
        raise NotImplementedError

    def _own_frame(self, segs: Sequence[memoryview]) -> int:
        """Hand up one of the port's own frames; return its size, 0 without one."""
        size = self._hand_up(self._outbox, segs) if self._live else 0
        self._refresh()
        return size

    def _hand_up(self, frames: deque[bytes], segs: Sequence[memoryview]) -> int:
        """Copy the first of ``frames`` that fits into ``segs``; return its size, 0 without one."""
        while frames:
            frame = frames.popleft()
            if scatter(segs, frame):
                self.rx_packets += 1
                self.rx_bytes += len(frame) - HEADER_SIZE
                return len(frame)
            self.drop("too_long")
        return 0

    def _deadline(self) -> float:
        """Return the time at which `recv_into` has own frames to hand up."""
        return trio.current_time() if self._outbox else math.inf

    def _refresh(self) -> None:
        """Update ``_plain``."""
        self._plain = self._live and not (self._outbox or self._left)

    def _tags(self, seg: memoryview) -> int:
        """Return the size of the VLAN tags of the frame in ``seg``, in bytes."""
        return 0

    def _front(self, seg: memoryview, size: int, segs: Sequence[memoryview]) -> bytes | None:
        """Return the first `FRONT` bytes of the frame that was read into ``seg``; None to drop the frame.

        They start with a virtio_net_hdr in place of the one that ends at `FRONT`. ``size`` counts header and frame.
        ``seg`` is the first of ``segs``, or their first `LEAD` bytes.
        """
        raise NotImplementedError

    def _agreed_header(self, start: bytes) -> bytearray | None:
        """Return the virtio_net_hdr with these first 10 bytes, the kernel's; None, and count a drop, if it uses
        offloads not negotiated.
        """
        header = bytearray(start + bytes(HEADER_SIZE - len(start)))
        if uses_agreed_offloads(header, self._gso_types):
            return header
        self.drop("offload")
        return None

    # Device

    def _check(self) -> None:
        if self._fd < 0:
            raise PortGone(f"{self.ifname} was closed")
        super()._check()

    def _accepts(self, flags: int) -> bool:
        try:
            fcntl.ioctl(self._fd, TUNSETOFFLOAD, flags)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise self._gone(error) from error
        return True

    def _probe(self) -> Offloads:
        """Return the kernel's offloads, by trying each one together with checksums, which all others need."""
        if not self._accepts(TUN_F_CSUM):
            return NO_OFFLOADS
        return Offloads(
            **{
                name: self._accepts(TUN_F_CSUM | flags | (TUN_F_TSO4 if name == "ecn" else 0))
                for name, flags in OFFLOAD_FLAGS.items()
            }
        )

    def _set_offloads(self, offloads: Offloads) -> None:
        """Set the kernel's offloads. Raises ValueError if the kernel does not support them, PortGone."""
        self._check()
        requested = attrs.evolve(offloads, ecn=offloads.ecn and (offloads.tso4 or offloads.tso6))
        if not self._accepts(sum(flags for name, flags in OFFLOAD_FLAGS.items() if getattr(requested, name))):
            if requested & self._caps == requested:
                raise PortGone(f"{self.ifname} can't be used: the kernel refuses offloads that it supported before")
            raise ValueError(f"{self.ifname} does not support {offloads}")
        for queue in self.queues:
            queue._gso_types = agreed_gso_types(requested)

    def _drop_stale(self, cause: str = "stale") -> None:
        """Discard frames queued before this start, whose offloads may no longer be negotiated.

        Frames before the first start, such as the kernel's own on a new interface, are not counted as drops.
        """
        for _ in range(STALE_FRAMES_MAX):
            try:
                os.read(self._fd, HEADER_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                raise self._gone(error) from error
            if self._starts:
                self.drop(cause)
