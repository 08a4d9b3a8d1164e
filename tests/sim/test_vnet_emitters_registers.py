"""Events of links and platform regions: registers by name, configuration space, requests, interrupts."""

from __future__ import annotations

import attrs
import pytest
import trio

from drivers.contracts.events import ConfigAccessed, Event, InterruptSent, Notified, RegisterAccessed, TlpSent, Topic
from vnet.spec import FaultSpec, LinkSpec
from vnet.testing import FRAME, NetPair, Options, open_pair, over
from vnet.testing.pair import ENDPOINT, ROOT

TOPICS = (Topic.REGISTERS, Topic.TLPS, Topic.RINGS)


async def rebind(pair: NetPair) -> None:
    assert pair.device.virtio is not None
    await pair.device.driver_host.virtio.rebind(pair.device.virtio)
    await pair.world.wait_up()


async def events_of_a_bring_up(pair: NetPair) -> list[Event]:
    taken: list[Event] = []
    with pair.world.events.listen(taken.append, TOPICS):
        await rebind(pair)
    return taken


@pytest.mark.parametrize("transport", ["pci", "mmio", "epf_mailbox"])
async def test_a_bring_up_is_a_sequence_of_named_registers(transport: str) -> None:
    with over(transport):
        async with open_pair() as pair:
            taken = await events_of_a_bring_up(pair)
    accesses = [event for event in taken if isinstance(event, RegisterAccessed)]
    assert {(event.source.device, event.source.host, event.source.side) for event in accesses} == {
        ("net0", ROOT, "driver")
    }
    status = {"pci": "device_status", "mmio": "status", "epf_mailbox": "device_status"}[transport]
    written = [event.value for event in accesses if event.register == status and event.write]
    assert written == [0, *sorted(written)[1:]]
    assert written[-1] & 0xF == 0xF
    unnamed = [event for event in accesses if event.register.startswith(("BAR", "+"))]
    assert unnamed == []
    assert any(not event.write and event.value for event in accesses)


async def test_each_register_access_over_a_link_is_a_request_with_the_same_number_address_and_value() -> None:
    async with open_pair() as pair:
        taken = await events_of_a_bring_up(pair)
        [bar] = {bar.address for bar in pair.function.bars if bar.index == 0}
    requests = {event.request: event for event in taken if isinstance(event, TlpSent)}
    for event in taken:
        if isinstance(event, RegisterAccessed):
            assert event.request is not None
            tlp = requests[event.request]
            assert (tlp.kind, tlp.posted) == (("MWr", True) if event.write else ("MRd", False))
            assert (tlp.bar, tlp.offset, tlp.size, tlp.value) == (event.bar, event.offset, event.size, event.value)
            assert event.bar or tlp.addr == bar + event.offset
            assert (tlp.downstream, tlp.source) == (True, event.source)


async def test_an_enumeration_is_accesses_to_configuration_space() -> None:
    async with open_pair() as pair:
        taken: list[Event] = []
        with pair.world.events.listen(taken.append, TOPICS):
            pair.link.bring_down()
            pair.link.bring_up()
            await pair.world.wait_up()
        identity = pair.function.vendor_id | pair.function.device_id << 16
    accesses = [event for event in taken if isinstance(event, ConfigAccessed)]
    first = next(event for event in accesses if event.function == 0)
    assert (first.register, first.offset, first.size, first.write) == ("vendor_id", 0, 4, False)
    assert first.value == identity
    assert {"command", "bar0", "bar1"} <= {event.register for event in accesses if event.write}
    kinds = {event.kind: event.posted for event in taken if isinstance(event, TlpSent)}
    assert (kinds["CfgRd"], kinds["CfgWr"]) == (False, False)
    absent = [event for event in accesses if event.function]
    assert {event.value for event in absent} == {0xFFFF_FFFF}
    assert {event.source.device for event in absent} == {""}


@pytest.mark.every_transport
async def test_a_doorbell_names_its_queue_and_an_interrupt_its_vector() -> None:
    async with open_pair() as pair:
        taken: list[Event] = []
        with pair.world.events.listen(taken.append, TOPICS):
            for source, sink in ((pair.driver_port, pair.device_port), (pair.device_port, pair.driver_port)):
                source.inject(FRAME)
                await sink.receive()
        on_link = bool(pair.device.spec.link)
        transport = pair.device.spec.transport
    bells = [event for event in taken if isinstance(event, RegisterAccessed) and event.doorbell]
    if transport != "vhost_user":  # its notifications are eventfds
        kicks = [event for event in taken if isinstance(event, Notified) and event.kind == "kick"]
        sent = {(event.source.queue, event.published) for event in kicks if event.outcome == "sent"}
        assert {(bell.source.queue, bell.published) for bell in bells if bell.source.side == "driver"} == sent
        assert sent
    interrupts = [event for event in taken if isinstance(event, InterruptSent)]
    if on_link:
        [msi] = [event for event in interrupts if event.source.queue == "receiveq1"]
        assert (msi.kind, msi.source.side, msi.source.host) == ("MSI-X", "device", ENDPOINT)
        calls = [event for event in taken if isinstance(event, Notified) and event.kind == "call"]
        mine = [event for event in calls if event.source == attrs.evolve(msi.source, link="")]
        assert [event.published for event in mine if event.outcome == "sent"] == [msi.published]
        [tlp] = [event for event in taken if isinstance(event, TlpSent) and event.request == msi.request]
        assert (tlp.kind, tlp.downstream, tlp.size, tlp.bar) == ("MWr", False, 4, None)
    elif transport == "mmio":
        assert {event.kind for event in interrupts} == {"line"}
        assert [event.asserted for event in interrupts][:2] == [True, False]
    else:
        assert {event.kind for event in interrupts} <= {"MSI-X"}


async def test_an_intx_is_a_message_with_both_of_its_edges() -> None:
    async with open_pair() as pair:
        taken: list[Event] = []
        with pair.world.events.listen(taken.append, [Topic.TLPS]):
            pair.link.intx(0, True)
            pair.link.intx(0, False)
    messages = [event for event in taken if isinstance(event, TlpSent) and event.kind == "Msg"]
    assert [(event.posted, event.downstream, event.size, event.value) for event in messages] == [
        (True, False, 0, 1),
        (True, False, 0, 0),
    ]
    edges = [(event.kind, event.vector, event.asserted) for event in taken if isinstance(event, InterruptSent)]
    assert edges == [("INTx", None, True), ("INTx", None, False)]


async def test_a_lost_doorbell_was_sent_and_did_not_arrive() -> None:
    faults = FaultSpec(seed=1, lost_doorbells=1.0)
    async with open_pair(Options(link=LinkSpec(root=ROOT, endpoint=ENDPOINT, faults=faults))) as pair:
        taken: list[Event] = []
        with pair.world.events.listen(taken.append, (*TOPICS, Topic.LINKS)):
            pair.driver_port.inject(FRAME)
            with trio.fail_after(5):
                await pair.device_port.receive()  # a re-check has found it
    names = [type(event).__name__ for event in taken]
    assert names[:5] == ["ChainAdded", "Notified", "TlpSent", "RegisterAccessed", "FaultInjected"]
    kicks = [event.outcome for event in taken if isinstance(event, Notified) and event.kind == "kick"]
    assert kicks == ["sent", "lost"]
