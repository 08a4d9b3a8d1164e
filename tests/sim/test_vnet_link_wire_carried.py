"""Packets of a wire as events: with the fields of their headers, once as they leave and once as they arrive."""

from __future__ import annotations

from random import Random

import trio
from cocotbext.pcie.core.tlp import Tlp as Reference

from drivers.contracts.events import Event, Source, TlpCarried
from support.tlps import random_tlp
from vnet.link.transaction.codec import emit
from vnet.link.transaction.fields import MessageCode
from vnet.link.transaction.packets import Header, MemoryWrite, Message
from vnet.link.wire.carried import carried
from vnet.spec import LinkSpec, WireSpec
from vnet.testing import FRAME, Options, open_pair

PLACE = Source(link="link0")


def event_of(packet: bytes) -> TlpCarried:
    return carried(1.0, PLACE, packet, downstream=True, delivered=False, clock=5.0)


def test_events_have_the_fields_that_cocotbext_pcie_unpacks() -> None:
    for seed in range(300):
        packet = emit(random_tlp(Random(seed)))
        event, other = event_of(packet), Reference.unpack(packet)
        assert (event.requester, event.tag) == (int(other.requester_id), other.tag)
        assert (event.poisoned, event.size) == (other.ep, 4 * other.length)
        assert event.addr == (None if event.kind.startswith("Cpl") else other.address)
        assert bytes.fromhex(event.packet) == packet
        if event.completer is not None:
            assert event.completer == int(other.completer_id)


def test_messages_digests_and_broken_packets_are_named() -> None:
    message = event_of(emit(Message(header=Header(0x100), code=MessageCode.ERR_FATAL)))
    assert (message.kind, message.message, message.addr) == ("Msg", "ERR_FATAL", None)
    digest = emit(MemoryWrite(header=Header(0x100, digest=True), address=64, data=bytes(4)))
    assert event_of(digest[:-1] + b"\0").digest, "also a wrong one"
    broken = event_of(digest[:-4])
    assert broken.kind == "16 bytes: the header, its length and TD ask for 20"
    assert (broken.requester, broken.size) == (None, None)


async def test_each_packet_leaves_and_arrives_and_nothing_is_made_without_a_listener() -> None:
    taken: list[TlpCarried] = []

    def take(event: Event) -> None:
        if isinstance(event, TlpCarried):
            taken.append(event)

    async with open_pair(
        Options(link=LinkSpec(root="rc", endpoint="ep", wire=WireSpec(seed=1, bit_errors=0.05)))
    ) as pair:
        with pair.world.events.listen(take):
            pair.driver_port.inject(FRAME)
            await pair.device_port.receive()
            await trio.sleep(0.1)
        sent = [(event.downstream, event.packet) for event in taken if not event.delivered]
        arrived = [(event.downstream, event.packet) for event in taken if event.delivered]
        assert len(sent) > 10
        for downstream in (False, True):
            assert [packet for way, packet in sent if way is downstream] == [
                packet for way, packet in arrived if way is downstream
            ]
        assert {event.source for event in taken} == {PLACE}
        assert all(event.downstream for event in taken if event.kind == "CfgRd")
        count = len(taken)
        pair.driver_port.inject(FRAME)
        await pair.device_port.receive()
        assert len(taken) == count
