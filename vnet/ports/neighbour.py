"""Who is at the other end of a TUN: ARP and neighbour discovery, without I/O and without a clock.

A TUN carries no Ethernet, yet a virtqueue does, so somebody has to know the MAC of the one peer and to
tell it ours. RFC 826 (ARP), RFC 5227 (probes), RFC 4861 (neighbour discovery) name what is done here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from vnet.ports.packets import (
    ARP_REPLY,
    ARP_REQUEST,
    BROADCAST,
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    NEIGHBOUR_ADVERTISEMENT,
    NEIGHBOUR_SOLICITATION,
    Arp,
    NeighbourMessage,
    destination,
    ethernet,
    is_unicast,
    multicast_mac,
    solicited_node,
    source,
)

__all__ = ["Neighbour"]

HELD_PACKETS = 3
TRIES = 3
RETRY_SECONDS = 1.0
OUTBOX_FRAMES = 32
"""Beyond this a peer asks faster than it reads: it gets no answer, and asks again."""

ANSWER_FLAGS = 0x60  # solicited, override

PLAIN_HEADER = bytes(12)
"""A virtio_net_hdr that asks for nothing."""


class Neighbour:
    """The one peer behind a TUN: its MAC, the packets that wait for it, and what we have to tell it.

    Times are seconds of any clock that only goes forward. ``outbox`` holds what is to be sent to the
    peer: 12 bytes of virtio_net_hdr and an Ethernet frame each. ``deadline`` is when `poll` is next due.
    """

    def __init__(self, mac: bytes, addresses: Iterable[bytes] = (), peer: bytes | None = None) -> None:
        self.mac = mac
        self.addresses = tuple(addresses)
        self.peer = peer
        self.outbox: deque[bytes] = deque()
        self.deadline: float | None = None
        self._configured = peer is not None
        self._held: deque[tuple[bytes, bytes]] = deque()
        self._tries = 0

    @property
    def busy(self) -> bool:
        """Whether something waits to be sent or for a time to come."""
        return bool(self.outbox) or self.deadline is not None

    def configure(self, mac: bytes) -> None:
        """The peer's MAC is this, whatever it says itself."""
        self._configured = True
        self._learn(mac)

    def reset(self) -> int:
        """Forget what was learnt and all that waits; how many frames that drops."""
        lost = len(self._held) + len(self.outbox)
        self._held.clear()
        self.outbox.clear()
        self.deadline = None
        self._tries = 0
        if not self._configured:
            self.peer = None
        return lost

    def hold(self, header: bytes, packet: bytes, now: float) -> int:
        """Keep an IP ``packet`` (behind its 12-byte ``header``) and ask for its destination.

        How many packets were dropped for it: the oldest gives way, since what is newest is least stale.
        """
        asked = {destination(held) for _, held in self._held}
        self._held.append((header, packet))
        lost = len(self._held) > HELD_PACKETS
        if lost:
            self._held.popleft()
        if self.deadline is None:
            self._tries, self.deadline = 1, now + RETRY_SECONDS
        if destination(packet) not in asked:
            self._ask(packet)
        return int(lost)

    def poll(self, now: float) -> int:
        """Do what is due: ask again, or give up; how many packets were dropped for want of an answer."""
        if self.deadline is None or now < self.deadline:
            return 0
        if self._tries >= TRIES:
            lost = len(self._held)
            self._held.clear()
            self.deadline = None
            return lost
        self._tries += 1
        self.deadline = now + RETRY_SECONDS
        for packet in {destination(packet): packet for _, packet in self._held}.values():
            self._ask(packet)
        return 0

    def received(self, mac: bytes, ethertype: int, payload: bytes) -> bool:
        """Learn from a frame that came from ``mac``, and take it where it is ARP or neighbour discovery.

        True where it was taken: ARP, a neighbour solicitation or advertisement; a malformed one is
        taken and ignored. False where it is for whoever is behind us.
        """
        if self.peer is None:
            self._learn(mac)
        if ethertype == ETH_P_ARP:
            arp = Arp.parse(payload)
            if arp is not None:
                self._arp(arp)
            return True
        if ethertype != ETH_P_IPV6 or not NeighbourMessage.applies(payload):
            return False
        message = NeighbourMessage.parse(payload)
        if message is not None:
            self._message(message, mac)
        return True

    def _arp(self, arp: Arp) -> None:
        if arp.operation == ARP_REPLY and arp.target_mac == self.mac:
            self._replace(arp.sender_mac)
        # A probe (sender 0.0.0.0) asks whether an address is free to take, not who has it.
        elif arp.operation == ARP_REQUEST and arp.target in self.addresses and any(arp.sender):
            if arp.sender in self.addresses or not is_unicast(arp.sender_mac):
                return
            self._replace(arp.sender_mac)
            reply = Arp(ARP_REPLY, self.mac, arp.target, arp.sender_mac, arp.sender)
            self._post(arp.sender_mac, ETH_P_ARP, reply.emit())

    def _message(self, message: NeighbourMessage, mac: bytes) -> None:
        if message.kind == NEIGHBOUR_ADVERTISEMENT:
            if message.mac is not None and message.destination in self.addresses:
                self._replace(message.mac)
        elif message.target in self.addresses and any(message.source):
            mac = message.mac or mac
            if message.source in self.addresses or not is_unicast(mac):
                return
            self._replace(mac)
            answer = NeighbourMessage(
                NEIGHBOUR_ADVERTISEMENT, message.target, message.source, message.target, self.mac, ANSWER_FLAGS
            )
            self._post(mac, ETH_P_IPV6, answer.emit())

    def _replace(self, mac: bytes) -> None:
        """The peer itself told its MAC: that overrules what was learnt, never what was configured."""
        if not self._configured and mac != self.peer:
            self._learn(mac)

    def _learn(self, mac: bytes) -> None:
        if not is_unicast(mac) or mac == self.mac:
            return
        self.peer = mac
        self.deadline = None
        while self._held:
            header, packet = self._held.popleft()
            ethertype = ETH_P_IP if packet[0] >> 4 == 4 else ETH_P_IPV6
            self.outbox.append(header + ethernet(mac, self.mac, ethertype) + packet)

    def _ask(self, packet: bytes) -> None:
        """Ask who has the destination of ``packet``, speaking from its source or from an address of ours."""
        target, sender = destination(packet), source(packet)
        if sender not in self.addresses:
            sender = next((a for a in self.addresses if len(a) == len(target)), sender)
        if len(target) == 4:
            request = Arp(ARP_REQUEST, self.mac, sender, bytes(6), target)
            self._post(BROADCAST, ETH_P_ARP, request.emit())
        else:
            group = solicited_node(target)
            solicitation = NeighbourMessage(NEIGHBOUR_SOLICITATION, sender, group, target, self.mac)
            self._post(multicast_mac(group), ETH_P_IPV6, solicitation.emit())

    def _post(self, to: bytes, ethertype: int, payload: bytes) -> None:
        if len(self.outbox) < OUTBOX_FRAMES:
            self.outbox.append(PLAIN_HEADER + ethernet(to, self.mac, ethertype) + payload)
