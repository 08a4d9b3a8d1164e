"""A port over a TUN interface: converts between IP packets and the ring's Ethernet frames."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence

import trio

from drivers.contracts.ports import ETH_HLEN, HEADER_SIZE, Offloads
from rings.chain import copy_out, skip
from vnet.ports.packet.base import NEEDS_CSUM, KnownHeaders
from vnet.ports.packet.neighbour import AGE_SECONDS, Neighbour
from vnet.ports.packet.packets import ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, MESSAGE_MAX, ethernet
from vnet.ports.packet.pytun_device import TunTapDevice
from vnet.ports.packet.tuntap import LEAD, TunTapPort

__all__ = ["TunPort"]

HEADER = struct.Struct("<BBHHHHH")
OFFSET_MAX = 0xFFFF
"""Largest offset in a virtio_net_hdr, in bytes."""
IP_AT = HEADER_SIZE + ETH_HLEN
IPV4_END = IP_AT + 20
IPV6_END = IP_AT + 40
IPV4_KEY, IPV6_KEY = struct.Struct("=10s2xB15xI"), struct.Struct("=10s2xB23x16s")
"""The fields that decide the front of a packet: the part of its virtio_net_hdr that the kernel fills, the byte
that starts with the IP version, and the destination."""
Key = tuple[bytes, int, int | bytes]
ETHERTYPES = {4: ETH_P_IP, 6: ETH_P_IPV6}


class TunPort(TunTapPort):
    """A port over a TUN interface; adds and strips the Ethernet header.

    Destination MACs are learnt from frames and resolved by ARP and neighbour discovery; ``peer_mac`` is the default
    station's, at the other end of the device, which gets packets that no other station answers for. The port answers
    ARP and neighbour solicitations for its interface's addresses. These frames do not reach the interface: received
    ones count as sent, its own as received.
    """

    FRONT = IP_AT

    def __init__(
        self,
        device: TunTapDevice,
        ifname: str,
        *,
        mac: bytes,
        peer_mac: bytes | None = None,
        lead: TunPort | None = None,
    ) -> None:
        super().__init__(device, ifname, lead)
        self._neighbour: Neighbour = Neighbour(mac, peer=peer_mac) if lead is None else lead._neighbour
        self._version = self._neighbour.version
        # Towards the ring: header and Ethernet header of a packet, by its `IPV4_KEY` or `IPV6_KEY`.
        self._fronts = KnownHeaders[Key]()
        # From the ring: the TUN's virtio_net_hdr, by the ring's virtio_net_hdr and Ethernet header.
        self._heads = KnownHeaders[bytes]()

    # Towards the ring

    def _front(self, seg: memoryview, size: int, segs: Sequence[memoryview]) -> bytes | None:
        # One call of a struct takes half as long as one slice.
        key, end = IPV4_KEY.unpack_from(seg, ETH_HLEN), IPV4_END
        if key[1] >> 4 == 6:
            key, end = IPV6_KEY.unpack_from(seg, ETH_HLEN), IPV6_END
        front = self._fronts.get(key) if size >= end else None
        return front or self._new_front(key, end, seg, size, segs)

    def _new_front(self, key: Key, end: int, seg: memoryview, size: int, segs: Sequence[memoryview]) -> bytes | None:
        """Return the front for a new ``key``, and cache it; the IP header is complete up to ``end``."""
        ethertype = ETHERTYPES.get(key[1] >> 4)
        if ethertype is None or size < end:
            self.drop("too_short" if ethertype else "ethertype")
            return None
        header = self._frame_header(key[0])
        if header is None:
            return None
        neighbour, now = self._neighbour, trio.current_time()
        due = neighbour.deadline
        to, known = neighbour.find(seg[IP_AT:LEAD].tobytes(), now)
        if not known:
            whole = b"".join((seg, *skip(segs, len(seg))))
            self.drop("no_neighbour", neighbour.hold(header, whole[IP_AT:size], now))
        self._refresh_all()
        if neighbour.deadline != due:  # the first queue's reader sends the requests
            self.lead._wake()
        if to is None:
            return None
        front = self._fronts[key] = header + ethernet(to, neighbour.mac, ethertype)
        return front

    def _frame_header(self, start: bytes) -> bytes | None:
        """Return `_agreed_header`, with offsets moved by the Ethernet header; None to drop the frame."""
        header = self._agreed_header(start)
        if header is None:
            return None
        flags, gso_type, hdr_len, gso_size, csum_start, *rest = HEADER.unpack(header)
        if flags & NEEDS_CSUM:
            csum_start += ETH_HLEN
            if csum_start > OFFSET_MAX:
                self.drop("bad_csum")
                return None
        if hdr_len:
            hdr_len = min(hdr_len + ETH_HLEN, OFFSET_MAX)
        return HEADER.pack(flags, gso_type, hdr_len, gso_size, csum_start, *rest)

    def _own_frame(self, segs: Sequence[memoryview]) -> int:
        if not self._live:
            return 0
        neighbour = self._neighbour
        self.drop("no_neighbour", neighbour.poll(trio.current_time()))
        size = self._hand_up(neighbour.outbox, segs) or self._hand_up(self._outbox, segs)
        self._refresh()
        return size

    def _deadline(self) -> float:
        if self.lead is not self:
            return math.inf
        if self._neighbour.outbox:
            return trio.current_time()
        deadline = super()._deadline()
        return deadline if self._neighbour.deadline is None else min(deadline, self._neighbour.deadline)

    # From the ring

    def send(self, head: bytes, rest: Sequence[memoryview], /) -> bool:
        out = self._heads.get(head) or self._inspect(head, rest)
        return out is None or self._write(out, rest)

    def _inspect(self, head: bytes, rest: Sequence[memoryview]) -> bytes | None:
        """Return the virtio_net_hdr for the TUN in place of ``head``; None if the frame is dropped or handled here."""
        neighbour = self._neighbour
        to, source = head[HEADER_SIZE : HEADER_SIZE + 6], head[HEADER_SIZE + 6 : HEADER_SIZE + 12]
        if to != neighbour.mac and not to[0] & 1:
            self.drop("not_for_us")
            return None
        ethertype = int.from_bytes(head[HEADER_SIZE + 12 :], "big")
        if ethertype not in (ETH_P_IP, ETH_P_IPV6, ETH_P_ARP):
            self.drop("ethertype")
            return None
        flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers = HEADER.unpack_from(head)
        if flags & NEEDS_CSUM:
            csum_start -= ETH_HLEN
            if csum_start < 0:
                self.drop("bad_csum")
                return None
        handled = neighbour.received(source, ethertype, copy_out(rest, MESSAGE_MAX + 1))
        self._refresh_all()
        if handled:
            self.tx_packets += 1
            self.tx_bytes += ETH_HLEN + sum(map(len, rest))
        if neighbour.outbox:
            self.lead._wake()
        if handled:
            return None
        hdr_len = max(0, hdr_len - ETH_HLEN)
        out = HEADER.pack(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers)
        # Frames to a group are inspected each time, because they can be solicitations. Later frames to our own MAC
        # from the same station bypass the inspection; the kernel answers unicast solicitations among them.
        if to == neighbour.mac:
            self._heads[head] = out
        return out

    # Common

    def stop(self) -> None:
        super().stop()
        self.drop("stopped", self._neighbour.reset())

    def set_peer(self, mac: bytes) -> None:
        self._neighbour.configure(mac)
        self._refresh_all()

    def _addresses_changed(self) -> None:
        self._neighbour.set_addresses(self.addresses, self.networks)
        self._refresh_all()

    def age(self) -> None:
        """Age the neighbour table: stations not seen lately are queried again before their next packet."""
        self._neighbour.age()
        for queue in self.queues:
            queue._heads.clear()  # so that the next frames refresh their senders' entries
        self._refresh_all()

    async def keep_aging(self) -> None:
        """Call `age` periodically until cancelled."""
        while True:
            await trio.sleep(AGE_SECONDS)
            self.age()

    async def start(self, *, mac: bytes | None, offloads: Offloads, mtu: int | None) -> None:
        self.drop("stopped", self._neighbour.reset())
        await super().start(mac=mac, offloads=offloads, mtu=mtu)

    def _take_mac(self, mac: bytes) -> None:
        self._neighbour.mac = mac

    def _own_mac(self) -> bytes:
        return self._neighbour.mac

    def _forget(self) -> None:
        self._fronts.clear()
        self._heads.clear()

    def _caches(self) -> tuple[Mapping[Key, bytes], Mapping[bytes, bytes]]:
        return self._fronts, self._heads

    def _refresh_all(self) -> None:
        """Refresh all queues, which share one neighbour table."""
        for queue in self.lead.queues:
            queue._refresh()

    def _refresh(self) -> None:
        neighbour = self._neighbour
        # The port's own frames use the first queue, which is always in use.
        own = self.lead is self and (neighbour.busy or self._outbox)
        self._plain = self._live and not (own or self._left)
        if neighbour.version != self._version:
            self._version = neighbour.version
            self._fronts.clear()
