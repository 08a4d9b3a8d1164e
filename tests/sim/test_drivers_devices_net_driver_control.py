"""Control commands of the network driver: what it requests is set, and devices that answer wrongly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import pytest
import trio
import trio.testing

from drivers.contracts.ports import ALL_OFFLOADS, ETH_HLEN, NO_OFFLOADS, Offloads, PortState
from drivers.devices.net.control import TABLE_MAX
from drivers.devices.net.device.control import VhostNetControlFlow
from drivers.devices.net.driver.station import NetRequest
from drivers.devices.net.filter import Reception
from drivers.devices.net.layout import ANNOUNCE, LINK_UP, NetFeature
from drivers.errors import CommandRefused, NeedsReset, TransportLost
from drivers.flow.pump import AGAIN, QUEUE, Wait
from drivers.questions.ask import QuestionFlow
from rings.queue import complete, getdesc
from support.rigs.net_control import FRAMES, OTHER, OWN, WITH, WITHOUT, frame
from vnet.testing import (
    FRAME,
    NetPair,
    bounded,
    hostile_driver,
    open_pair,
    unharmed,
    until,
)

F = NetFeature
GROUP, BROADCAST = b"\x01\0\x5e\0\0\x01", b"\xff" * 6
STATION = PortState()
"""An interface that wants only what is for it, and does not say which VLANs."""
RARP = b"\x80\x35"


async def let_in(pair: NetPair) -> set[str]:
    """Which of the `FRAMES` reach the driver's port; every other was dropped, and counted once."""
    await trio.testing.wait_all_tasks_blocked()
    before = sum(pair.plug.figures.pairs[0].sent.drops.values())
    for each in FRAMES.values():
        assert pair.device_port.inject(each)
    await trio.testing.wait_all_tasks_blocked()
    names, got = {each: name for name, each in FRAMES.items()}, set()
    while pair.driver_port._outbound:
        got.add(names[pair.driver_port.receive_nowait()[1]])
    assert sum(pair.plug.figures.pairs[0].sent.drops.values()) - before == len(FRAMES) - len(got)
    return got


@pytest.mark.virtio("NET-DRV-74", "NET-DRV-94")
async def test_no_command_is_sent_whose_feature_the_driver_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: set[int] = set()
    ask = QuestionFlow.ask

    async def spy(self: QuestionFlow, data: bytes, size: int, *, least: int | None = None) -> bytes:
        sent.add(data[0])
        return await ask(self, data, size, least=least)

    monkeypatch.setattr(QuestionFlow, "ask", spy)
    async with open_pair(attrs.evolve(WITH, pairs=2)) as pair:
        for request in (
            NetRequest(mac=OTHER, reception=Reception(promisc=True)),
            NetRequest(pairs=1, offloads=NO_OFFLOADS, reception=Reception(unicast=frozenset({OTHER}))),
        ):
            await pair.settings.change(request)
        with pytest.raises(CommandRefused):
            await pair.settings.change(NetRequest(table=(0, 1)))
    assert sent == {0, 1, 4, 5}, "receive modes, addresses, pairs and offloads"


def control(pair: NetPair) -> tuple[int, int]:
    """Commands that were carried out and refused, which both sides count alike."""
    figures = pair.plug.figures.control, pair.settings.figures.control
    assert len({(f.commands, f.refused, f.bytes) for f in figures}) == 1
    return figures[0].commands, figures[0].refused


# What the driver asks for


RECEPTIONS: list[tuple[Reception, str]] = [
    (Reception(), "own broadcast"),
    (Reception(promisc=True, nobcast=True), "own other group broadcast"),
    (Reception(allmulti=True), "own group broadcast"),
    (Reception(allmulti=True, nomulti=True), "own broadcast"),
    (Reception(alluni=True), "own other broadcast"),
    (Reception(alluni=True, nouni=True), "broadcast"),
    (Reception(nobcast=True, allmulti=True), "own group"),
    (Reception(unicast=frozenset({OTHER}), multicast=frozenset({GROUP})), "own other group broadcast"),
    (Reception(multicast=frozenset({BROADCAST})), "own broadcast"),
    (Reception(), "own broadcast"),
]


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-73", "NET-DEV-74", "NET-DEV-76", "NET-DEV-78", "NET-DEV-80", "NET-DEV-84", "NET-DEV-87")
@pytest.mark.virtio("NET-DEV-75", "NET-DEV-77", "NET-DEV-79", "NET-DEV-81", "NET-DEV-82", "NET-DEV-83", "NET-DEV-85")
@pytest.mark.virtio("NET-DEV-86", "NET-DEV-88", "NET-DEV-89", "NET-DEV-91", "NET-DEV-93", "NET-DRV-81", "NET-DEV-94")
async def test_the_device_lets_in_what_the_driver_asks_for_and_counts_the_rest_by_cause() -> None:
    async with open_pair(WITH) as pair, unharmed(pair):
        assert await let_in(pair) == set(FRAMES), "a port without a driver takes everything"
        pair.driver_port.want(STATION)
        for reception, wanted in RECEPTIONS:
            await pair.settings.change(NetRequest(reception=reception))
            everything = "vlan 5", "vlan 6"  # CTRL_VLAN was not agreed on
            assert await let_in(pair) == {*wanted.split(), *(everything if "own" in wanted else ())}
        assert control(pair)[1] == 0
        assert set(pair.plug.figures.pairs[0].sent.drops) == {"filter_unicast", "filter_multicast", "filter_broadcast"}
        await pair.reset()  # what was wished is so after a reset, too
        await until(lambda: control(pair)[0] > 0)
        assert await let_in(pair) == {"own", "broadcast", "vlan 5", "vlan 6"}
        pair.driver_port.want(PortState(promisc=True))
        assert await let_in(pair) == set(FRAMES)


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-95", "NET-DEV-96", "NET-DEV-97")
async def test_vlans_are_let_in_as_interface_and_wishes_name_them() -> None:
    async with open_pair(WITH) as pair, unharmed(pair):
        pair.driver_port.want(PortState(vlans=frozenset()))
        await pair.reset()
        await trio.testing.wait_all_tasks_blocked()
        assert pair.virtio.has(F.CTRL_VLAN)
        assert await let_in(pair) & {"vlan 5", "vlan 6"} == set()
        assert pair.plug.figures.pairs[0].sent.drops["filter_vlan"] == 2
        pair.driver_port.want(PortState(vlans=frozenset({5})))
        assert "vlan 5" in await let_in(pair)
        await pair.settings.change(NetRequest(reception=Reception(vlans=frozenset({6}))))
        assert await let_in(pair) & {"vlan 5", "vlan 6"} == {"vlan 5", "vlan 6"}
        pair.driver_port.want(PortState(vlans=frozenset()))
        assert await let_in(pair) & {"vlan 5", "vlan 6"} == {"vlan 6"}
        pair.driver_port.want(PortState(promisc=True))  # for unharmed: and without the feature again
        await pair.settings.change(NetRequest())
        await pair.reset()


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-90", "NET-DEV-92", "NET-DRV-80")
async def test_another_address_is_the_devices_until_its_reset_and_the_driver_asks_for_it_again() -> None:
    async with open_pair(WITH) as pair, unharmed(pair):
        pair.driver_port.want(STATION)
        for mac, how in ((OTHER, "wish"), (b"\x02\0\0\0\0\x0a", "interface")):
            if how == "wish":
                await pair.settings.change(NetRequest(mac=mac, reception=Reception()))
            else:
                pair.driver_port.want(PortState(mac))
                await trio.testing.wait_all_tasks_blocked()
            assert pair.vhost.config[:6] == mac == pair.driver_port.mac == pair.device_port.peer
            assert (await pair.device_port.receive())[1][6:14] == mac + RARP, "and each side is notified"
            assert pair.device_port.inject(frame(mac))
            with bounded():
                assert (await pair.driver_port.receive())[1] == frame(mac)
            await pair.reset()
            await trio.testing.wait_all_tasks_blocked()
            assert pair.vhost.config[:6] == mac == pair.driver_port.mac
            while pair.device_port._outbound:
                pair.device_port.receive_nowait()
        pair.driver_port.want(PortState(promisc=True))
        async with hostile_driver(pair):
            assert pair.vhost.config[:6] == OWN, "a reset takes back what a driver chose"
            assert pair.device_port.peer == OWN


@pytest.mark.every_transport
async def test_a_device_that_keeps_its_address_gets_a_filter_for_another_one() -> None:
    async with open_pair(attrs.evolve(WITH, features_off=("CTRL_MAC_ADDR",))) as pair, unharmed(pair):
        pair.driver_port.want(PortState(OTHER))
        await trio.testing.wait_all_tasks_blocked()
        assert pair.vhost.config[:6] == OWN
        assert await let_in(pair) >= {"own", "other"}
        pair.driver_port.want(PortState(promisc=True))


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-82", "NET-DRV-83", "NET-DEV-98")
async def test_a_driver_announces_itself_on_request_then_acknowledges_once() -> None:
    async with open_pair(WITH) as pair, unharmed(pair):
        for _ in range(2):
            before = control(pair)[0]
            assert pair.plug.announce()
            assert pair.vhost.config[6] == LINK_UP | ANNOUNCE
            with bounded():
                announced = (await pair.device_port.receive())[1]
            assert announced[:14] == BROADCAST + OWN + RARP
            await until(lambda: pair.vhost.config[6] == LINK_UP)
            await trio.testing.wait_all_tasks_blocked()
            assert control(pair)[0] == before + 1
    async with open_pair(WITHOUT) as pair:
        assert not pair.plug.announce(), "there is no device to ask"
        assert pair.vhost.config[6] == LINK_UP


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-111", "NET-DRV-97")
async def test_offloads_are_switched_while_it_runs_among_those_that_were_agreed_on() -> None:
    async with open_pair(attrs.evolve(WITH, features_off=("GUEST_ECN",))) as pair, unharmed(pair):
        agreed = attrs.evolve(ALL_OFFLOADS, ecn=False)
        assert pair.device_port.offloads == agreed
        for offloads in (NO_OFFLOADS, Offloads(csum=True), Offloads(csum=True, tso4=True), agreed):
            await pair.settings.change(NetRequest(offloads=offloads))
            assert pair.device_port.offloads == offloads
        with pytest.raises(CommandRefused, match="not negotiated: "):
            await pair.settings.change(NetRequest(offloads=ALL_OFFLOADS))
        await pair.settings.change(NetRequest(offloads=Offloads(csum=True)))
        pair.plug.link_up = False  # the port starts anew, and only with the rest
        pair.plug.changed()
        await until(lambda: not pair.device_port.live)
        pair.plug.link_up = True
        pair.plug.changed()
        await until(lambda: pair.device_port.live)
        assert pair.device_port.offloads == Offloads(csum=True)
        await pair.settings.change(NetRequest())
        assert control(pair)[1] == 0


@pytest.mark.virtio("NET-DRV-77", "NET-DRV-78", "NET-DRV-79")
async def test_no_command_is_sent_without_its_feature() -> None:
    refused = [
        (NetRequest(reception=Reception(promisc=True, allmulti=True)), "CTRL_RX"),
        (NetRequest(mac=OTHER), "CTRL_MAC_ADDR"),
        (NetRequest(reception=Reception(allmulti=True, nobcast=True)), "CTRL_RX_EXTRA"),
        (NetRequest(reception=Reception(allmulti=True, vlans=frozenset({5}))), "CTRL_VLAN"),
        (NetRequest(offloads=NO_OFFLOADS), "CTRL_GUEST_OFFLOADS"),
        (NetRequest(pairs=2), "the device has one queue pair"),
    ]
    off = "CTRL_RX", "CTRL_MAC_ADDR", "CTRL_RX_EXTRA", "CTRL_VLAN", "CTRL_GUEST_OFFLOADS"
    for options in (WITHOUT, attrs.evolve(WITH, features_off=off)):
        async with open_pair(options) as pair:
            before = pair.settings.request
            for request, why in refused:
                with pytest.raises(CommandRefused, match=why):
                    await pair.settings.change(request)
            assert pair.settings.request == before
            assert control(pair) == (0, 0)
            await pair.transfer(1 << 14)
    with pytest.raises(TransportLost, match="not up"):
        await pair.settings.change(NetRequest())


@pytest.mark.every_transport
async def test_wishes_that_the_device_refuses_are_not_kept_and_a_filter_is_opened_instead() -> None:
    async with open_pair(WITH) as pair, unharmed(pair):
        pair.driver_port.want(STATION)
        table = frozenset(bytes((2, 0, 0, 1, *divmod(i, 256))) for i in range(TABLE_MAX + 1))
        await pair.settings.change(NetRequest(reception=Reception(unicast=table)))
        assert await let_in(pair) == set(FRAMES), "more than a table holds: everything is let in"
        await pair.settings.change(NetRequest(reception=Reception(unicast=frozenset(list(table)[:TABLE_MAX]))))
        assert "other" not in await let_in(pair)
        with pytest.raises(CommandRefused, match="the device refused it"):
            await pair.settings.change(NetRequest(reception=Reception(unicast=frozenset({GROUP}))))
        assert control(pair)[1] == 1
        assert pair.settings.request.reception.unicast < table
        pair.driver_port.want(PortState(promisc=True))
        await pair.settings.change(NetRequest())


# Devices that do not do as they should


@contextmanager
def answering(answer: Callable[[VhostNetControlFlow], tuple[int, Wait]]) -> Iterator[None]:
    """Every device's control queue does this instead."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VhostNetControlFlow, "move", answer)
        yield


def silence(flow: VhostNetControlFlow) -> tuple[int, Wait]:
    """Take commands, and that is all."""
    while flow.queue.ring is not None and getdesc(flow.queue.ring) is not None:
        pass
    return 0, QUEUE


async def test_a_device_that_does_not_answer_a_command_is_reset_and_the_caller_gets_an_error() -> None:
    async with open_pair(WITH) as pair, unharmed(pair):
        with answering(silence):
            with pytest.raises(NeedsReset, match="does not answer MAC_ADDR_SET within 5 s"):
                await pair.settings.change(NetRequest(mac=OTHER))
            pair.driver_port.want(PortState(OTHER))
            await until(lambda: any("does not answer" in failure for failure in pair.virtio.failures), seconds=10)
            assert pair.device_port.inject(frame(OWN)), "frames pass all the while"
            with trio.fail_after(10):
                await pair.driver_port.receive()
        pair.driver_port.want(PortState(promisc=True))
        await until(lambda: pair.device.up, seconds=10)


@pytest.mark.parametrize("answer", [1, 2, 0x55, 0xFF])
async def test_any_answer_but_ok_is_a_refusal(answer: int) -> None:
    def move(flow: VhostNetControlFlow) -> tuple[int, Wait]:
        ring = flow.queue.ring
        chain = getdesc(ring) if ring is not None else None
        if ring is None or chain is None:
            return 0, QUEUE
        chain[2][0][0] = answer
        complete(ring, chain[0], 1)
        return 1, AGAIN

    async with open_pair(WITH) as pair, unharmed(pair):
        with answering(move), pytest.raises(CommandRefused, match="the device refused it"):
            await pair.settings.change(NetRequest(mac=OTHER))
        assert pair.settings.request.mac is None
        assert pair.virtio.restarts == 0


async def test_an_answer_without_a_byte_is_a_refusal() -> None:
    def move(flow: VhostNetControlFlow) -> tuple[int, Wait]:
        ring = flow.queue.ring
        chain = getdesc(ring) if ring is not None else None
        if ring is None or chain is None:
            return 0, QUEUE
        chain[2][0][0] = 0
        complete(ring, chain[0], 0)
        return 1, AGAIN

    async with open_pair(WITH) as pair, unharmed(pair):
        with answering(move), pytest.raises(CommandRefused, match="the device refused it"):
            await pair.settings.change(NetRequest(mac=OTHER))


async def test_a_reset_during_a_command_is_an_error_for_its_caller() -> None:
    async with open_pair(WITH) as pair, unharmed(pair):
        with answering(silence):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def ask_in_vain() -> None:
                    with pytest.raises(TransportLost, match="the device was reset before it answered MAC_ADDR_SET"):
                        await pair.settings.change(NetRequest(mac=OTHER))

                await trio.testing.wait_all_tasks_blocked()
                await pair.rc.virtio.rebind(pair.virtio)
        await pair.world.wait_up()


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-34", "NET-DEV-40", "NET-DEV-41", "NET-DRV-33")
async def test_segmented_frames_with_ecn_cross_marked_where_it_was_agreed_on() -> None:
    header = bytes.fromhex("01 81 3600 b405 2200 1000 0000")
    big = FRAME[:ETH_HLEN] + bytes(20_000)
    for off in ((), ("HOST_ECN", "GUEST_ECN")):
        async with open_pair(attrs.evolve(WITHOUT, features_off=off)) as pair, unharmed(pair):
            ends = pair.driver_port, pair.device_port
            for source, sink in (ends, ends[::-1]):
                source.inject(big, header)
                if off:
                    await until(lambda: source.statistics().drops == {"offload": 1})  # noqa: B023
                else:
                    with bounded():
                        got, frame = await sink.receive()
                    assert (got[:10], frame) == (header[:10], big)
