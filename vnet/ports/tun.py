"""A TUN interface: IP packets on its side, Ethernet frames on the ring's."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import trio

from drivers.ports import ETH_HLEN, HEADER_SIZE
from vnet.ports.base import NEEDS_CSUM, agreed, scatter, skip
from vnet.ports.neighbour import Neighbour
from vnet.ports.packets import ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, destination, ethernet, multicast_mac
from vnet.ports.tuntap import TunTapDevice, TunTapPort

__all__ = ["TunPort"]

HEADER = struct.Struct("<BBHHHHH")
IP_AT = HEADER_SIZE + ETH_HLEN
IPV4_HLEN = 20
IPV6_HLEN = 40
IPV4_DESTINATION = IP_AT + 16
IPV6_DESTINATION = IP_AT + 24
IPV4_GROUPS = 224
"""First byte of the lowest IPv4 multicast address; the limited broadcast is above it."""
IPV6_GROUPS = 0xFF
ETHERTYPES = {4: ETH_P_IP, 6: ETH_P_IPV6}
KNOWN_HEADS_MAX = 1024


class TunPort(TunTapPort):
    """Puts an Ethernet header before each packet of a TUN interface, and takes it off again.

    ``peer_mac`` is whom packets are for; where it is not given, it is learnt. ARP, neighbour solicitations
    and advertisements end here: the port answers for its interface's addresses, and counts them as sent,
    or received where it made them itself.
    """

    LEAD = IP_AT + IPV6_HLEN
    GAP = ETH_HLEN

    def __init__(
        self, device: TunTapDevice, ifname: str, netns: str | None, *, mac: bytes, peer_mac: bytes | None = None
    ) -> None:
        super().__init__(device, ifname, netns)
        self._neighbour = Neighbour(mac, peer=peer_mac)
        self._words = memoryview(self._lead).cast("H")
        # Ethernet headers of what goes to the peer, None while it is unknown; and the one that the lead holds.
        self._ipv4: bytes | None = None
        self._ipv6: bytes | None = None
        self._written: bytes | None = b""
        # The heads of frames that were found good, and what the TUN wants in place of each. Few are in
        # use at one time: they differ in lengths and offsets of the virtio_net_hdr only.
        self._known_heads: dict[bytes, bytes] = {}

    # Towards the ring

    def _complete(self, size: int, segs: Sequence[memoryview]) -> str | None:
        lead = self._lead
        if lead[0] or lead[1]:
            if not agreed(lead, self._gso_types):
                return "offload"
            words = self._words
            if lead[0]:
                words[3] += ETH_HLEN  # csum_start
            if words[1]:
                words[1] = min(words[1] + ETH_HLEN, 0xFFFF)  # hdr_len
        version = lead[IP_AT] >> 4
        if version == 4 and lead[IPV4_DESTINATION] < IPV4_GROUPS and size >= IP_AT + IPV4_HLEN:
            header = self._ipv4
        elif version == 6 and lead[IPV6_DESTINATION] != IPV6_GROUPS and size >= IP_AT + IPV6_HLEN:
            header = self._ipv6
        elif version not in ETHERTYPES:
            return "ethertype"
        elif size < IP_AT + (IPV4_HLEN if version == 4 else IPV6_HLEN):
            return "too_short"
        else:
            group = multicast_mac(destination(lead[IP_AT:]))
            header = ethernet(group, self._neighbour.mac, ETHERTYPES[version])
        if header is not self._written:
            if header is None:
                return self._hold(size, segs)
            lead[HEADER_SIZE:IP_AT] = self._written = header
        return None

    def _hold(self, size: int, segs: Sequence[memoryview]) -> str:
        """Keep a private copy of a packet whose receiver's MAC is not known yet."""
        rest = b"".join(skip(segs, self.LEAD))
        packet = (bytes(self._lead[IP_AT:]) + rest)[: size - IP_AT]
        header = bytes(self._lead[:HEADER_SIZE])
        self.drop("no_neighbour", self._neighbour.hold(header, packet, trio.current_time()))
        self._refresh()
        return ""

    def _own_frame(self, segs: Sequence[memoryview]) -> int:
        if not self._live:
            return 0
        neighbour = self._neighbour
        self.drop("no_neighbour", neighbour.poll(trio.current_time()))
        size = 0
        while neighbour.outbox and not size:
            frame = neighbour.outbox.popleft()
            if scatter(segs, frame):
                size = len(frame)
                self.rx_packets += 1
                self.rx_bytes += size - HEADER_SIZE
            else:
                self.drop("too_long")
        self._refresh()
        return size

    def _deadline(self) -> float:
        if self._neighbour.outbox:
            return trio.current_time()
        return super()._deadline() if self._neighbour.deadline is None else self._neighbour.deadline

    # From the ring

    def send(self, head: bytes, rest: Sequence[memoryview], /) -> bool:
        out = self._known_heads.get(head) or self._inspect(head, rest)
        return out is None or self._write(out, rest)

    def _inspect(self, head: bytes, rest: Sequence[memoryview]) -> bytes | None:
        """What the TUN gets in place of ``head``; None where the frame ends here."""
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
        taken = neighbour.received(source, ethertype, b"".join(rest) if ethertype != ETH_P_IP else b"")
        self._refresh()
        if taken:
            self.tx_packets += 1
            self.tx_bytes += ETH_HLEN + sum(map(len, rest))
        if neighbour.outbox:
            self._wake()
        if taken:
            return None
        hdr_len = max(0, hdr_len - ETH_HLEN)
        out = HEADER.pack(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers)
        # A group's frames are looked at each time: a solicitation may be among them. What comes to our own
        # MAC from one seen before may go by; the kernel answers what of it asks whether we are still there.
        if to == neighbour.mac:
            if len(self._known_heads) >= KNOWN_HEADS_MAX:
                self._known_heads.clear()
            self._known_heads[head] = out
        return out

    # Common

    def stop(self) -> None:
        super().stop()
        self.drop("stopped", self._neighbour.reset())

    def _identify(self, mac: bytes | None, addresses: tuple[bytes, ...]) -> None:
        neighbour = self._neighbour
        self.drop("stopped", neighbour.reset())
        neighbour.addresses = addresses
        if mac is not None:
            neighbour.mac = mac
        self._known_heads.clear()
        self._ipv4 = self._ipv6 = None

    def _refresh(self) -> None:
        neighbour = self._neighbour
        self._plain = self._live and not neighbour.busy
        peer = neighbour.peer
        if peer is None:
            self._ipv4 = self._ipv6 = None
        elif self._ipv4 is None or self._ipv4[:6] != peer:
            self._ipv4 = ethernet(peer, neighbour.mac, ETH_P_IP)
            self._ipv6 = ethernet(peer, neighbour.mac, ETH_P_IPV6)
