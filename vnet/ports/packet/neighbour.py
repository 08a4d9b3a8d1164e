"""The stations at the other end of a TUN: ARP and neighbour discovery, without I/O and without a clock.

A TUN carries no Ethernet, yet a virtqueue does, so each packet needs the MAC of the station that it is for. RFC 826
(ARP), RFC 5227 (probes), RFC 4861 and RFC 4862 (neighbour discovery) say what is done here.
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

HELD_PACKETS = 3
"""Packets that wait for the MAC of one destination."""
TRIES = 3
RETRY_SECONDS = 1.0
QUESTIONS_MAX = 64
"""Destinations that are asked for at a time."""
STATIONS_MAX = 1024
AGE_SECONDS = 20.0
"""Interval of `Neighbour.age`: a station that says nothing is asked again after one to two of them."""
OUTBOX_FRAMES = 32
"""Beyond this a peer asks faster than it reads: it gets no answer, and asks again."""

PLAIN_HEADER = bytes(12)
"""A virtio_net_hdr that asks for nothing."""


@attrs.define
class Question:
    """A destination whose MAC is asked for."""

    sender: bytes
    """Our address that asks; empty if there is none."""
    deadline: float
    tries: int = 1
    held: deque[tuple[bytes, bytes, bytes | None]] = attrs.field(factory=deque)
    """Packets that wait: the 12-byte header, the packet, and the MAC that it was sent to for want of a better one."""

    @property
    def unsent(self) -> int:
        """How many packets wait that were sent to no station."""
        return sum(sent_to is None for _, _, sent_to in self.held)


class Neighbour:
    """The stations behind a TUN, the packets that wait for one, and what we have to tell them.

    A station is known by its IP address. ``peer`` is the default station, at the other end of the device: it gets
    packets for addresses beyond our networks, whose next hop a TUN does not tell, and packets for our networks as long
    as no station answers. Times are seconds of any clock that only goes forward. ``outbox`` holds what is to be sent:
    12 bytes of virtio_net_hdr and an Ethernet frame each. ``deadline`` is when `poll` is next due, ``version`` changes
    whenever a packet may have to go to another station than before.
    """

    def __init__(self, mac: bytes, addresses: Iterable[bytes] = (), peer: bytes | None = None) -> None:
        self.mac = mac
        self.addresses = tuple(addresses)
        self.networks: tuple[tuple[bytes, int], ...] = ()
        """The networks of our addresses, each an address in it and the bits of its prefix."""
        self.peer = peer
        self.outbox: deque[bytes] = deque()
        self.deadline: float | None = None
        self.version = 0
        self._configured = peer
        self._certain = peer is not None
        """Whether the peer told its MAC itself, or the configuration did; not a mere frame."""
        self._router: bytes | None = None
        """The IP address of the default station."""
        self._recent: dict[bytes, bytes] = {}
        """MAC by IP address, of the stations heard of since the last `age`."""
        self._aged: dict[bytes, bytes] = {}
        """Likewise, before then: to be asked again as soon as they are needed."""
        self._questions: dict[bytes, Question] = {}
        self._talking: set[int] = set()
        """Families, by the size of their addresses, in which some station has sent ARP or neighbour discovery."""
        self._silent: set[bytes] = set()
        """Destinations that did not answer since the last `age`, and get packets by way of the default station."""

    @property
    def busy(self) -> bool:
        """Whether something waits to be sent or for a time to come."""
        return bool(self.outbox) or self.deadline is not None

    def configure(self, mac: bytes) -> None:
        """The default station has this MAC, whatever it says itself."""
        for known in (self._recent, self._aged):
            known.update({ip: mac for ip, old in known.items() if old == self.peer is not None})
        self._configured, self._certain = mac, True
        self._set_peer(mac)

    def move(self, addresses: Iterable[bytes], networks: Iterable[tuple[bytes, int]] = ()) -> None:
        """Our interface has these addresses and networks now."""
        self.addresses, self.networks = tuple(addresses), tuple(networks)
        self.version += 1

    def reset(self) -> int:
        """Forget what was learnt and all that waits; how many frames that drops."""
        lost = len(self.outbox) + sum(question.unsent for question in self._questions.values())
        for things in (self.outbox, self._questions, self._recent, self._aged, self._talking, self._silent):
            things.clear()
        self.deadline = self._router = None
        self.peer, self._certain = self._configured, self._configured is not None
        self.version += 1
        return lost

    # Towards the stations

    def find(self, packet: bytes, now: float) -> tuple[bytes | None, bool]:
        """The MAC to send an IP packet to now, if there is one, and whether it is its destination's.

        If it is not, `hold` the packet. Only the packet's addresses are looked at.
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
        """Keep an IP ``packet`` (behind its 12-byte ``header``) and ask for its destination.

        How many packets were dropped for it: the oldest gives way, since what is newest is least stale.
        """
        question = self._ask(destination(packet), packet, now)
        sent_to, _ = self.find(packet, now)
        if question is None:
            return int(sent_to is None)
        before = question.unsent + (sent_to is None)
        question.held.append((header, packet, sent_to))
        if len(question.held) > HELD_PACKETS:
            question.held.popleft()
        return before - question.unsent

    def poll(self, now: float) -> int:
        """Do what is due: ask again, or give up; how many packets were dropped for want of an answer."""
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
            if question.unsent < len(question.held):
                self._silent.add(to)
        self._schedule()
        return lost

    def age(self) -> None:
        """Forget stations that were not heard of since the last call but one; those heard of before have to answer."""
        self._recent, self._aged = {}, self._recent
        self._silent.clear()
        self.version += 1

    # From the stations

    def received(self, mac: bytes, ethertype: int, payload: bytes) -> bool:
        """Learn from a frame that came from ``mac``, and take it if it is ARP or neighbour discovery.

        True if it was taken: ARP, a neighbour solicitation or advertisement; a malformed one is taken and ignored.
        False if it is for our interface. ``payload`` may be no more than its first `MESSAGE_MAX` bytes.
        """
        taken = True
        if ethertype == ETH_P_ARP:
            if (arp := Arp.parse(payload)) is not None:
                self._arp(arp)
        elif ethertype == ETH_P_IPV6 and NeighbourMessage.applies(payload):
            if (message := NeighbourMessage.parse(payload)) is not None:
                self._message(message, mac)
        else:
            taken = False
            version, size = (4, 20) if ethertype == ETH_P_IP else (6, 40)
            if len(payload) >= size and payload[0] >> 4 == version:
                self._learn(source(payload), mac, told=False)
        if self.peer is None and self._is_station(mac):
            self._set_peer(mac)
        return taken

    def _arp(self, arp: Arp) -> None:
        self._heard(4)
        asks_us = arp.operation == ARP_REQUEST and arp.target in self.addresses
        answers_us = arp.operation == ARP_REPLY and arp.target_mac == self.mac
        # RFC 826: any packet tells of stations that are known; one to us adds its sender to them.
        if asks_us or answers_us or self._knows(arp.sender):
            self._told(arp.sender, arp.sender_mac)
        # A probe, from 0.0.0.0, is answered too: so its sender does not take our address (RFC 5227, section 2.1.1).
        if asks_us and arp.sender not in self.addresses and is_unicast(arp.sender_mac):
            reply = Arp(ARP_REPLY, self.mac, arp.target, arp.sender_mac, arp.sender)
            self._post(arp.sender_mac, ETH_P_ARP, reply.emit())

    def _message(self, message: NeighbourMessage, mac: bytes) -> None:
        self._heard(16)
        if message.kind == NEIGHBOUR_ADVERTISEMENT:
            known = self._recent.get(message.target) or self._aged.get(message.target)
            told = message.mac or known
            # RFC 4861, section 7.2.5: one that nobody asked for tells of known stations only.
            if told is not None and self._knows(message.target):
                if message.flags & OVERRIDE or known in (None, told):
                    self._told(message.target, told)
            elif message.mac is not None and message.destination in self.addresses:
                self._told(message.target, message.mac)
        elif message.target in self.addresses and message.source not in self.addresses:
            self._answer(message, message.mac or mac)

    def _answer(self, message: NeighbourMessage, mac: bytes) -> None:
        """Answer a solicitation for one of our addresses (RFC 4861, section 7.2.4)."""
        to, flags = message.source, SOLICITED | OVERRIDE
        if not any(message.source):
            # Duplicate address detection (RFC 4862, section 5.4.3): all nodes hear that the address is taken.
            to, mac, flags = ALL_NODES, multicast_mac(ALL_NODES), OVERRIDE
        elif is_unicast(mac):
            self._told(message.source, mac)
        else:
            return
        answer = NeighbourMessage(NEIGHBOUR_ADVERTISEMENT, message.target, to, message.target, self.mac, flags)
        self._post(mac, ETH_P_IPV6, answer.emit())

    # What is known

    def _heard(self, family: int) -> None:
        """A station sent ARP or neighbour discovery: stations that do not answer are not there."""
        if family not in self._talking:
            self._talking.add(family)
            self.version += 1

    def _is_station(self, mac: bytes) -> bool:
        return is_unicast(mac) and mac != self.mac

    def _is_local(self, address: bytes) -> bool:
        """Whether a station with this address has to be on the link."""
        return any(in_network(address, network) for network in self.networks)

    def _knows(self, address: bytes) -> bool:
        return address in self._recent or address in self._aged or address in self._questions

    def _told(self, address: bytes, mac: bytes) -> None:
        """A station told its MAC itself: that overrules what was learnt from frames, never what was configured."""
        if not self._is_station(mac) or not any(address) or address in self.addresses:
            return
        if self.peer is None or not self._certain:
            self._certain = True
            self._set_peer(mac)
        self._learn(address, mac, told=True)

    def _learn(self, address: bytes, mac: bytes, *, told: bool) -> None:
        """The station with this address has this MAC. A frame overrules nothing that is recent."""
        known = self._recent.get(address)
        if known == mac or (known is not None and not told) or not self._is_station(mac):
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
        """Send what waits for the destination ``to``, unless that station was sent it before."""
        question = self._questions.pop(to, None)
        ethertype = ETH_P_IP if len(to) == 4 else ETH_P_IPV6
        for header, packet, sent_to in question.held if question is not None else ():
            if sent_to != mac:
                self.outbox.append(header + ethernet(mac, self.mac, ethertype) + packet)
        self._schedule()

    # Questions

    def _ask(self, to: bytes, packet: bytes, now: float) -> Question | None:
        """Ask who has the address ``to``, on behalf of ``packet``; None if too many are asked for already."""
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
        """Speak to the station itself at first, if its MAC was known before."""
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
