"""Address resolution for a TUN: ARP and neighbour discovery, without I/O and without a clock.

A TUN carries IP packets and a virtqueue Ethernet frames, so each packet needs the MAC of its destination. Implements
RFC 826 (ARP), RFC 5227 (probes), RFC 4861 and RFC 4862 (neighbour discovery).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import attrs

from vnet.ports.packet.packets import (
    ALL_NODES,
    ARP_REPLY,
    ARP_REQUEST,
    BROADCAST,
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    NEIGHBOUR_ADVERTISEMENT,
    NEIGHBOUR_SOLICITATION,
    OVERRIDE,
    SOLICITED,
    Arp,
    NeighbourMessage,
    destination,
    ethernet,
    group_mac,
    in_network,
    is_unicast,
    multicast_mac,
    solicited_node,
    source,
)

__all__ = ["AGE_SECONDS", "Neighbour"]

WAITING_PACKETS_MAX = 3
"""Maximum number of packets that wait for the MAC of one destination."""
TRIES = 3
RETRY_SECONDS = 1.0
QUESTIONS_MAX = 64
"""Maximum number of destinations in resolution at a time."""
STATIONS_MAX = 1024
AGE_SECONDS = 20.0
"""Interval of `Neighbour.age`: a silent station is queried again after one to two intervals."""
OUTBOX_FRAMES = 32
"""Maximum number of queued replies: a peer that sends requests faster than it receives gets no further replies."""

PLAIN_HEADER = bytes(12)
"""A virtio_net_hdr without offloads."""


@attrs.define
class Question:
    """Resolution of one destination's MAC."""

    sender: bytes
    """Our source address in the requests; empty without one."""
    deadline: float
    tries: int = 1
    packets: deque[tuple[bytes, bytes, bytes | None]] = attrs.field(factory=deque)
    """Waiting packets: 12-byte header, packet, and the MAC of the station it was sent to meanwhile, if any."""

    @property
    def unsent(self) -> int:
        """Number of waiting packets that were sent to no station."""
        return sum(sent_to is None for _, _, sent_to in self.packets)


class Neighbour:
    """Neighbour table of a TUN, with packets that wait for resolution.

    Stations are identified by IP address. ``peer`` is the MAC of the default station, at the other end of the device:
    it gets packets for addresses outside our networks, because a TUN does not report their next hop, and packets for
    our networks while no station answers. Times are seconds of any monotonic clock. ``outbox`` holds frames to send,
    each a 12-byte virtio_net_hdr and an Ethernet frame. ``deadline`` is the time of the next `poll`; ``version``
    changes whenever the destination MAC of a packet may change.
    """

    def __init__(self, mac: bytes, addresses: Iterable[bytes] = (), peer: bytes | None = None) -> None:
        self.mac = mac
        self.addresses = tuple(addresses)
        self.networks: tuple[tuple[bytes, int], ...] = ()
        """Networks of our addresses: an address in the network, and its prefix length."""
        self.peer = peer
        self.outbox: deque[bytes] = deque()
        self.deadline: float | None = None
        self.version = 0
        self._configured = peer
        self._certain = peer is not None
        """Whether the peer's MAC comes from ARP, neighbour discovery or configuration, and not just from a frame."""
        self._router: bytes | None = None
        """IP address of the default station."""
        self._recent: dict[bytes, bytes] = {}
        """MAC by IP address of the stations seen since the last `age`."""
        self._aged: dict[bytes, bytes] = {}
        """MAC by IP address of the stations seen before the last `age`: queried again before their next use."""
        self._questions: dict[bytes, Question] = {}
        self._talking: set[int] = set()
        """Address sizes of the families in which a station has sent ARP or neighbour discovery."""
        self._silent: set[bytes] = set()
        """Destinations without an answer since the last `age`: the default station gets their packets."""

    @property
    def busy(self) -> bool:
        """Whether a frame waits to be sent, or a deadline is pending."""
        return bool(self.outbox) or self.deadline is not None

    def configure(self, mac: bytes) -> None:
        """Set the default station's MAC, which its own messages can't change."""
        for known in (self._recent, self._aged):
            known.update({ip: mac for ip, old in known.items() if old == self.peer is not None})
        self._configured, self._certain = mac, True
        self._set_peer(mac)

    def set_addresses(self, addresses: Iterable[bytes], networks: Iterable[tuple[bytes, int]] = ()) -> None:
        """Set the addresses and networks of our interface."""
        self.addresses, self.networks = tuple(addresses), tuple(networks)
        self.version += 1

    def reset(self) -> int:
        """Clear the table and all waiting packets; return the number of dropped frames."""
        lost = len(self.outbox) + sum(question.unsent for question in self._questions.values())
        for table in (self.outbox, self._questions, self._recent, self._aged, self._talking, self._silent):
            table.clear()
        self.deadline = self._router = None
        self.peer, self._certain = self._configured, self._configured is not None
        self.version += 1
        return lost

    # Towards the stations

    def find(self, packet: bytes, now: float) -> tuple[bytes | None, bool]:
        """Return the MAC to send an IP packet to, if any, and whether it is resolved; if not, `hold` the packet.

        Reads the packet's addresses only.
        """
        to = destination(packet)
        group = group_mac(to, self.networks)
        if group is not None:
            return group, True
        if to not in self._recent and to not in self._aged:
            if self._is_local(to):
                return (None, False) if len(to) in self._talking else (self.peer, to in self._silent)
            if self._router not in self._recent and self._router not in self._aged:
                return self.peer, self.peer is not None
            assert self._router is not None
            to = self._router
        mac = self._recent.get(to)
        if mac is None:
            mac = self._aged[to]
            self._ask(to, packet, now)
        return mac, True

    def hold(self, header: bytes, packet: bytes, now: float) -> int:
        """Keep an IP ``packet`` with its 12-byte ``header`` until its destination is resolved.

        Returns the number of packets dropped to make room: the oldest first, because the newest is least stale.
        """
        question = self._ask(destination(packet), packet, now)
        sent_to, _ = self.find(packet, now)
        if question is None:
            return int(sent_to is None)
        unsent = question.unsent + (sent_to is None)
        question.packets.append((header, packet, sent_to))
        if len(question.packets) > WAITING_PACKETS_MAX:
            question.packets.popleft()
        return unsent - question.unsent

    def poll(self, now: float) -> int:
        """Repeat or give up requests that are due; return the number of packets dropped without an answer."""
        if self.deadline is None or now < self.deadline:
            return 0
        lost = 0
        for to, question in list(self._questions.items()):
            if question.deadline > now:
                continue
            if question.tries < TRIES:
                question.tries += 1
                question.deadline = now + RETRY_SECONDS
                self._post_question(to, question)
                continue
            del self._questions[to]
            self._aged.pop(to, None)
            self.version += 1
            lost += question.unsent
            if question.unsent < len(question.packets):
                self._silent.add(to)
        self._schedule()
        return lost

    def age(self) -> None:
        """Forget stations not seen since the call before last; query those not seen since the last call again."""
        self._recent, self._aged = {}, self._recent
        self._silent.clear()
        self.version += 1

    # From the stations

    def received(self, mac: bytes, ethertype: int, payload: bytes) -> bool:
        """Learn from a frame sent by ``mac``; return whether it is handled here: ARP and neighbour discovery.

        Malformed messages are handled by ignoring them; all other frames are for our interface. ``payload`` can be
        limited to its first `MESSAGE_MAX` bytes.
        """
        handled = True
        if ethertype == ETH_P_ARP:
            if (arp := Arp.parse(payload)) is not None:
                self._arp(arp)
        elif ethertype == ETH_P_IPV6 and NeighbourMessage.applies(payload):
            if (message := NeighbourMessage.parse(payload)) is not None:
                self._message(message, mac)
        else:
            handled = False
            version, size = (4, 20) if ethertype == ETH_P_IP else (6, 40)
            if len(payload) >= size and payload[0] >> 4 == version:
                self._learn(source(payload), mac, claimed=False)
        if self.peer is None and self._is_station(mac):
            self._set_peer(mac)
        return handled

    def _arp(self, arp: Arp) -> None:
        self._set_talking(4)
        request_to_us = arp.operation == ARP_REQUEST and arp.target in self.addresses
        reply_to_us = arp.operation == ARP_REPLY and arp.target_mac == self.mac
        # RFC 826: any packet updates a known station; a packet to us adds its sender.
        if request_to_us or reply_to_us or self._knows(arp.sender):
            self._learn_claim(arp.sender, arp.sender_mac)
        # A reply to a probe (from 0.0.0.0) keeps its sender from using our address (RFC 5227, section 2.1.1).
        if request_to_us and arp.sender not in self.addresses and is_unicast(arp.sender_mac):
            reply = Arp(ARP_REPLY, self.mac, arp.target, arp.sender_mac, arp.sender)
            self._post(arp.sender_mac, ETH_P_ARP, reply.emit())

    def _message(self, message: NeighbourMessage, mac: bytes) -> None:
        self._set_talking(16)
        if message.kind == NEIGHBOUR_ADVERTISEMENT:
            known = self._recent.get(message.target) or self._aged.get(message.target)
            claimed = message.mac or known
            # RFC 4861, section 7.2.5: an unsolicited advertisement updates known stations only.
            if claimed is not None and self._knows(message.target):
                if message.flags & OVERRIDE or known in (None, claimed):
                    self._learn_claim(message.target, claimed)
            elif message.mac is not None and message.destination in self.addresses:
                self._learn_claim(message.target, message.mac)
        elif message.target in self.addresses and message.source not in self.addresses:
            self._answer(message, message.mac or mac)

    def _answer(self, message: NeighbourMessage, mac: bytes) -> None:
        """Answer a solicitation for one of our addresses (RFC 4861, section 7.2.4)."""
        to, flags = message.source, SOLICITED | OVERRIDE
        if not any(message.source):
            # Duplicate address detection (RFC 4862, section 5.4.3): tell all nodes that the address is in use.
            to, mac, flags = ALL_NODES, multicast_mac(ALL_NODES), OVERRIDE
        elif is_unicast(mac):
            self._learn_claim(message.source, mac)
        else:
            return
        answer = NeighbourMessage(NEIGHBOUR_ADVERTISEMENT, message.target, to, message.target, self.mac, flags)
        self._post(mac, ETH_P_IPV6, answer.emit())

    # The table

    def _set_talking(self, family: int) -> None:
        """Note that stations use ARP or neighbour discovery: a station that does not answer does not exist."""
        if family not in self._talking:
            self._talking.add(family)
            self.version += 1

    def _is_station(self, mac: bytes) -> bool:
        return is_unicast(mac) and mac != self.mac

    def _is_local(self, address: bytes) -> bool:
        """Return whether the address is in one of our networks."""
        return any(in_network(address, network) for network in self.networks)

    def _knows(self, address: bytes) -> bool:
        return address in self._recent or address in self._aged or address in self._questions

    def _learn_claim(self, address: bytes, mac: bytes) -> None:
        """Learn a MAC that a station claims itself: it overrides a MAC learnt from frames, not a configured one."""
        if not self._is_station(mac) or not any(address) or address in self.addresses:
            return
        if self.peer is None or not self._certain:
            self._certain = True
            self._set_peer(mac)
        self._learn(address, mac, claimed=True)

    def _learn(self, address: bytes, mac: bytes, *, claimed: bool) -> None:
        """Learn the MAC of an address. Without ``claimed`` it comes from a frame, and overrides no recent entry."""
        known = self._recent.get(address)
        if known == mac or (known is not None and not claimed) or not self._is_station(mac):
            return
        if address in self.addresses or not any(address) or group_mac(address, self.networks) is not None:
            return
        if len(self._recent) >= STATIONS_MAX:
            self._recent, self._aged = {}, self._recent
        self._recent[address] = mac
        if self._aged.pop(address, known) != mac:
            self.version += 1
        if mac == self.peer and self._router is None and self._is_local(address):
            self._router = address
        self._release(address, mac)

    def _set_peer(self, mac: bytes) -> None:
        if mac != self.peer:
            self.peer = mac
            known = self._aged | self._recent
            self._router = next((ip for ip in known if known[ip] == mac and self._is_local(ip)), None)
            self.version += 1
            for to in [to for to in self._questions if not self._is_local(to)]:
                self._release(to, mac)

    def _release(self, to: bytes, mac: bytes) -> None:
        """Send the packets that wait for ``to``, except those already sent to this station."""
        question = self._questions.pop(to, None)
        ethertype = ETH_P_IP if len(to) == 4 else ETH_P_IPV6
        for header, packet, sent_to in question.packets if question is not None else ():
            if sent_to != mac:
                self.outbox.append(header + ethernet(mac, self.mac, ethertype) + packet)
        self._schedule()

    # Requests

    def _ask(self, to: bytes, packet: bytes, now: float) -> Question | None:
        """Start or continue resolution of ``to`` for ``packet``; return None if too many are under way."""
        question = self._questions.get(to)
        if question is None and len(self._questions) < QUESTIONS_MAX:
            sender = source(packet)
            if sender not in self.addresses:
                sender = next((a for a in self.addresses if len(a) == len(to)), sender)
            question = self._questions[to] = Question(sender, now + RETRY_SECONDS)
            self._schedule()
            self._post_question(to, question)
        return question

    def _post_question(self, to: bytes, question: Question) -> None:
        """Send a request: the first to the station itself if its MAC is known, others to all."""
        mac = self._aged.get(to) if question.tries == 1 else None
        if len(to) == 4:
            request = Arp(ARP_REQUEST, self.mac, question.sender, bytes(6), to)
            self._post(mac or BROADCAST, ETH_P_ARP, request.emit())
        else:
            group = solicited_node(to)
            solicitation = NeighbourMessage(NEIGHBOUR_SOLICITATION, question.sender, to if mac else group, to, self.mac)
            self._post(mac or multicast_mac(group), ETH_P_IPV6, solicitation.emit())

    def _schedule(self) -> None:
        self.deadline = min((question.deadline for question in self._questions.values()), default=None)

    def _post(self, to: bytes, ethertype: int, payload: bytes) -> None:
        if len(self.outbox) < OUTBOX_FRAMES:
            self.outbox.append(PLAIN_HEADER + ethernet(to, self.mac, ethertype) + payload)
