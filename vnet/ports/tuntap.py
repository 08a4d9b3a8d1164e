"""What TUN and TAP have in common: a non-blocking descriptor that speaks virtio_net_hdr, and its errors."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import struct
from collections.abc import Sequence
from functools import partial

import trio

from drivers.errors import PortGone
from drivers.ports import ETH_HLEN, HEADER_SIZE, NO_OFFLOADS, Offloads
from drivers.pump import Signal
from rings.chain import skip
from vnet.ports.base import CountingPort, agreed, agreed_gso_types, scatter
from vnet.ports.device import TunTapDevice
from vnet.ports.netns import in_netns, refresh_interface
from vnet.ports.poller import Poller

__all__ = ["LEAD", "TunTapPort"]

TUNSETOFFLOAD = 0x400454D0
TUNSETCARRIER = 0x400454E2

TUN_F_CSUM = 1
OFFLOAD_FLAGS = {"csum": TUN_F_CSUM, "tso4": 2, "tso6": 4, "uso": 0x20 | 0x40}
"""TUN_F_USO4 and TUN_F_USO6 are only taken together; TUN_F_TSO_ECN is left out: the kernel then splits those."""

IOV_MAX = 1024
BURST_OF_DROPS = 64
"""After so many dropped frames in a row `recv_into` returns, so that the caller's task may yield."""
LEAD = HEADER_SIZE + ETH_HLEN + 40
"""Bytes of a frame that anybody here looks at: up to the end of an IPv6 header."""
STALE_FRAMES_MAX = 65536
"""A bound on what one start throws away; more than any interface queues."""

SEND_DROPS = {
    errno.EINVAL: "refused",
    errno.EIO: "interface_down",
    # Waiting for memory can't be waited for: the descriptor stays writable, so back-pressure would spin.
    errno.ENOBUFS: "no_memory",
    errno.ENOMEM: "no_memory",
}
GONE = {errno.EBADF, errno.EBADFD, errno.ENODEV, errno.ENXIO}


class TunTapPort(CountingPort):
    """One descriptor of /dev/net/tun; `TunPort` and `TapPort` say what the device carries.

    The virtio_net_hdr of a frame is read into private memory, and all that the device carries behind it
    straight to where the caller wants it, where a peer may change it: what is looked at there decides
    about nothing but the frame's own Ethernet header. What then goes before that, ``FRONT`` bytes, is
    nearly always what went before an earlier frame with the same virtio_net_hdr, so subclasses keep it.
    """

    FRONT = HEADER_SIZE
    """Bytes of a frame, its header included, that the device does not carry as they are."""

    def __init__(self, device: TunTapDevice, ifname: str, netns: str | None) -> None:
        super().__init__()
        self.ifname = ifname
        self.netns = netns
        self._device = device
        self._fd = device.fileno()
        self._poller: Poller | None = None
        self.source: Signal | None = None
        self._live = False
        self._lives = 0
        self._started = trio.Event()
        self._plain = False
        """Live, and nothing but the device has anything to hand up: one test on the data path."""
        self._gso_types: frozenset[int] = frozenset()
        self._header = memoryview(bytearray(HEADER_SIZE))
        # A byte behind the caller's room: where it is reached, the frame was longer.
        self._spill = memoryview(bytearray(1))
        self._caps = self._probe()
        self._set_offloads(NO_OFFLOADS)
        self.set_carrier(False)

    @property
    def caps(self) -> Offloads:
        return self._caps

    # Life

    def watch(self, poller: Poller) -> None:
        """Have ``poller`` tell when there is something to read, from now until `close`."""
        self._poller = poller
        self.source = poller.register(self._fd)

    @property
    def live(self) -> bool:
        return self._live

    async def start(self, *, mac: bytes | None, offloads: Offloads, mtu: int | None) -> None:
        """See `PacketPort.start`. The carrier is left to `set_carrier`. Raises PortGone."""
        self._set_offloads(offloads)
        addresses = await in_netns(self.netns, partial(refresh_interface, self.ifname, mtu))
        self._identify(mac, addresses)
        self._drop_stale()
        self._lives += 1
        self._live = True
        self._refresh()
        self._started.set()

    def stop(self) -> None:
        self._live = self._plain = False
        if self._fd >= 0 and self._started.is_set():
            self._started = trio.Event()
        self.set_carrier(False)

    def set_carrier(self, up: bool) -> None:
        try:
            fcntl.ioctl(self._fd, TUNSETCARRIER, struct.pack("i", up))
        except (OSError, ValueError) as error:
            # An interface that is gone shows nothing to anybody; whoever sends or receives is told.
            if isinstance(error, OSError) and error.errno not in GONE:
                raise

    def close(self) -> None:
        """Give the descriptor back, and with it the interface. Waiters return; every later use raises PortGone."""
        if self._fd >= 0:
            self._wake()
            if self._poller is not None:
                self._poller.unregister(self._fd)
            self._fd = -1
            self._device.close()
            self._started.set()

    # Data

    def recv_into(self, segs: Sequence[memoryview], /) -> int:
        drops = 0
        while drops < BURST_OF_DROPS:
            if not self._plain:
                size = self._own_frame(segs)
                if size or not self._live:
                    return size
            try:
                if len(segs) == 1 and len(segs[0]) > LEAD:
                    seg = segs[0]
                    room = len(seg)
                    size = os.readv(self._fd, (self._header, seg[self.FRONT :], self._spill))
                else:
                    seg, room, size = self._read_list(segs)
            except BlockingIOError:
                return 0
            except OSError as error:
                raise self._gone(error) from error
            size += self.FRONT - HEADER_SIZE
            if size > room:
                self.drop("too_long")
            elif front := self._front(seg, size, segs):
                seg[: self.FRONT] = front
                if seg is not segs[0]:
                    scatter(segs, bytes(seg[:size]))
                self.rx_packets += 1
                self.rx_bytes += size - HEADER_SIZE
                return size
            drops += 1
        return 0

    def _read_list(self, segs: Sequence[memoryview]) -> tuple[memoryview, int, int]:
        """Read into any list of segments: see `_front` for the first result, then their room, and the bytes read."""
        if segs and len(segs[0]) > LEAD:
            seg, tail = segs[0], segs[1 : IOV_MAX - 2]
        else:
            seg, tail = memoryview(bytearray(LEAD)), skip(segs, LEAD)[: IOV_MAX - 3]
        room = min(sum(map(len, segs)), len(seg) + sum(map(len, tail)))
        return seg, room, os.readv(self._fd, (self._header, seg[self.FRONT :], *tail, self._spill))

    def _write(self, out: bytes, rest: Sequence[memoryview], /) -> bool:
        """`send` for a frame whose first bytes are already what the device wants."""
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

    async def wait_readable(self) -> None:
        self._check()
        if not self._live:
            await self._started.wait()
            self._check()
        deadline = self._deadline()
        try:
            if deadline == math.inf:  # nearly always, and a scope costs a fifth of the wait
                await self._wait()
            else:
                with trio.CancelScope(deadline=deadline):
                    await self._wait()
        except trio.ClosedResourceError:
            pass  # woken

    async def _wait(self) -> None:
        if self.source is None:
            await trio.lowlevel.wait_readable(self._fd)
        else:
            await self.source.wait()

    async def wait_writable(self) -> None:
        self._check()
        try:
            await trio.lowlevel.wait_writable(self._fd)
        except trio.ClosedResourceError:
            pass  # woken, for the reader's sake

    def _wake(self) -> None:
        """Make waiters look again. Closing is what this call announces; here the descriptor stays open."""
        trio.lowlevel.notify_closing(self._fd)
        if self.source is not None:
            self.source.set()

    # For subclasses

    def _identify(self, mac: bytes | None, addresses: tuple[bytes, ...]) -> None:
        """Take on ``mac``; the interface has these IP ``addresses``."""
        raise NotImplementedError

    def _own_frame(self, segs: Sequence[memoryview]) -> int:
        """Hand up a frame of the port's own making, if there is one."""
        return 0

    def _deadline(self) -> float:
        """When `recv_into` has to be called even if the device has nothing."""
        return math.inf

    def _refresh(self) -> None:
        """Work out ``_plain`` anew."""
        self._plain = self._live

    def _front(self, seg: memoryview, size: int, segs: Sequence[memoryview]) -> bytes | None:
        """What goes before the part of a frame that was read into ``seg`` from `FRONT` on; None: don't hand it up.

        ``size`` counts header and frame. ``seg`` is the first of ``segs``, or a copy of their first `LEAD` bytes.
        """
        raise NotImplementedError

    def _agreed_header(self) -> bytearray | None:
        """The virtio_net_hdr just read, without flags that ask for nothing; None, and counted, if it asks too much."""
        header = bytearray(self._header)
        if agreed(header, self._gso_types):
            return header
        self.drop("offload")
        return None

    # Device

    def _check(self) -> None:
        if self._fd < 0:
            raise PortGone(f"{self.ifname} was closed")

    def _gone(self, error: OSError) -> Exception:
        """What to raise for an error of the descriptor; one that is unheard of is raised as it is."""
        if error.errno not in GONE:
            return error
        return PortGone(f"{self.ifname} is gone: {error.strerror}")

    def _accepts(self, flags: int) -> bool:
        try:
            fcntl.ioctl(self._fd, TUNSETOFFLOAD, flags)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise self._gone(error) from error
        return True

    def _probe(self) -> Offloads:
        """What this kernel takes, found by trying: each alone, on top of checksums, which all of them need."""
        return Offloads(**{name: self._accepts(TUN_F_CSUM | flags) for name, flags in OFFLOAD_FLAGS.items()})

    def _set_offloads(self, offloads: Offloads) -> None:
        """Raises ValueError for a set that the kernel does not take."""
        self._check()
        if not self._accepts(sum(flags for name, flags in OFFLOAD_FLAGS.items() if getattr(offloads, name))):
            raise ValueError(f"{self.ifname} can't do {offloads}")
        self._gso_types = agreed_gso_types(offloads)

    def _drop_stale(self) -> None:
        """Throw away what was queued for an earlier life, perhaps with offloads that are no longer agreed.

        What the kernel said to a new interface before anybody was there to listen is not counted.
        """
        for _ in range(STALE_FRAMES_MAX):
            try:
                os.readv(self._fd, (self._header,))
            except BlockingIOError:
                return
            except OSError as error:
                raise self._gone(error) from error
            if self._lives:
                self.drop("stale")
