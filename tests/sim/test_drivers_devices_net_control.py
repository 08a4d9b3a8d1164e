"""The control queue of a network device: what its driver asks for is so, what it must not ask for is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import pytest
import trio
import trio.testing

from drivers.contracts.ports import ALL_OFFLOADS, ETH_HLEN, NO_OFFLOADS, Offloads, PortState
from drivers.devices.net.control import COMMAND_MAX, TABLE_MAX, MacTable, NetCommand, NetControl, emit
from drivers.devices.net.device.control import VhostNetControlFlow
from drivers.devices.net.driver.station import NetRequest
from drivers.devices.net.filter import Reception
from drivers.devices.net.layout import ANNOUNCE, LINK_UP, Duplex, NetConfigField, NetFeature, offload_features
from drivers.errors import CommandRefused, NeedsReset, TransportLost
from drivers.flow.pump import Need
from rings.features import mask
from rings.layout import NEXT, WRITE
from rings.status import Status
from rings.testing import Desc
from vnet.testing import (
    FRAME,
    OFFERED,
    HostileDriver,
    Options,
    Pair,
    bounded,
    hostile_driver,
    open_pair,
    unharmed,
    until,
)

F = NetFeature
WITH = Options(queue_size=16, control=True)
WITHOUT = Options(queue_size=16)
OWN, PEER, OTHER = (b"\x02\0\0\0\0" + bytes([last]) for last in (1, 2, 9))
GROUP, BROADCAST = b"\x01\0\x5e\0\0\x01", b"\xff" * 6
STATION = PortState()
"""An interface that wants only what is for it, and does not say which VLANs."""
QUIET = NetRequest(reception=Reception())
RARP = b"\x80\x35"


def frame(to: bytes, body: bytes = b"\x88\xb5 some bytes") -> bytes:
    return to + PEER + body


def tagged(vid: int) -> bytes:
    return frame(OWN, b"\x81\0" + vid.to_bytes(2, "big") + b"\x88\xb5 tagged")


FRAMES = {"own": frame(OWN), "other": frame(OTHER), "group": frame(GROUP), "broadcast": frame(BROADCAST)}
FRAMES |= {"vlan 5": tagged(5), "vlan 6": tagged(6)}


async def let_in(pair: Pair) -> set[str]:
    """Which of the `FRAMES` reach the driver's port; every other was dropped, and counted once."""
    await trio.testing.wait_all_tasks_blocked()
    before = sum(pair.plug.sent.drops.values())
    for each in FRAMES.values():
        assert pair.device_port.inject(each)
    await trio.testing.wait_all_tasks_blocked()
    names, got = {each: name for name, each in FRAMES.items()}, set()
    while pair.driver_port._outbound:
        got.add(names[pair.driver_port.receive_nowait()[1]])
    assert sum(pair.plug.sent.drops.values()) - before == len(FRAMES) - len(got)
    return got


def control(pair: Pair) -> tuple[int, int]:
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
        assert await let_in(pair) == set(FRAMES), "a port that is nobody's takes everything"
        pair.driver_port.want(STATION)
        for reception, wanted in RECEPTIONS:
            await pair.settings.change(NetRequest(reception=reception))
            everything = "vlan 5", "vlan 6"  # CTRL_VLAN was not agreed on
            assert await let_in(pair) == {*wanted.split(), *(everything if "own" in wanted else ())}
        assert control(pair)[1] == 0
        assert set(pair.plug.sent.drops) == {"filter_unicast", "filter_multicast", "filter_broadcast"}
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
        assert pair.plug.sent.drops["filter_vlan"] == 2
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
            assert (await pair.device_port.receive())[1][6:14] == mac + RARP, "and everybody is told"
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
async def test_a_device_that_keeps_its_address_is_asked_to_let_in_another_one() -> None:
    async with open_pair(attrs.evolve(WITH, features_off=("CTRL_MAC_ADDR",))) as pair, unharmed(pair):
        pair.driver_port.want(PortState(OTHER))
        await trio.testing.wait_all_tasks_blocked()
        assert pair.vhost.config[:6] == OWN
        assert await let_in(pair) >= {"own", "other"}
        pair.driver_port.want(PortState(promisc=True))


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-82", "NET-DRV-83", "NET-DEV-98")
async def test_a_driver_that_is_asked_announces_itself_then_acknowledges_once() -> None:
    async with open_pair(WITH) as pair, unharmed(pair):
        for _ in range(2):
            before = control(pair)[0]
            assert pair.plug.announce()
            assert pair.vhost.config[6] == LINK_UP | ANNOUNCE
            with trio.fail_after(1):
                announced = (await pair.device_port.receive())[1]
            assert announced[:14] == BROADCAST + OWN + RARP
            await until(lambda: pair.vhost.config[6] == LINK_UP)
            await trio.testing.wait_all_tasks_blocked()
            assert control(pair)[0] == before + 1
    async with open_pair(WITHOUT) as pair:
        assert not pair.plug.announce(), "there is nobody to ask"
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
        pair.plug.link_up = False  # the port starts anew, and only with what was left
        pair.plug.changed()
        await until(lambda: not pair.device_port.live)
        pair.plug.link_up = True
        pair.plug.changed()
        await until(lambda: pair.device_port.live)
        assert pair.device_port.offloads == Offloads(csum=True)
        await pair.settings.change(NetRequest())
        assert control(pair)[1] == 0


@pytest.mark.virtio("NET-DRV-77", "NET-DRV-78", "NET-DRV-79")
async def test_nothing_is_asked_for_that_was_not_agreed_on() -> None:
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


# What the device's owner changes


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-16")
@pytest.mark.parametrize("options", [WITH, WITHOUT], ids=["with", "without"])
async def test_a_network_that_goes_away_is_a_carrier_that_goes_and_nothing_passes(options: Options) -> None:
    async with open_pair(options) as pair, unharmed(pair):
        for _ in range(2):
            pair.plug.link_up = False
            pair.plug.changed()
            await until(lambda: not pair.driver_port.carrier and not pair.device_port.live)
            before = pair.plug.received.drops.get("link_down", 0)
            assert pair.driver_port.inject(FRAME)
            await until(lambda: pair.plug.received.drops.get("link_down", 0) == before + 1)  # noqa: B023
            assert pair.virtio.status & Status.DRIVER_OK, "it is no reset"
            pair.plug.link_up = True
            pair.plug.changed()
            await until(lambda: pair.driver_port.carrier and pair.device_port.carrier)
            await pair.transfer(1 << 14)
        assert pair.virtio.restarts == 0


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-6")
async def test_another_mtu_comes_with_a_reset_that_the_device_asks_for() -> None:
    async with open_pair(attrs.evolve(WITH, queue_size=32)) as pair, unharmed(pair):
        for mtu in (1400, 9000, 1500):
            config = pair.vhost.config
            pair.plug.mtu = mtu
            pair.plug.changed()
            assert pair.vhost.config == config, "not under a driver that has read it"
            await until(lambda: pair.driver_port.mtu == mtu == pair.device_port.mtu)  # noqa: B023
            await pair.world.wait_up()
            assert int.from_bytes(pair.vhost.config[10:12], "little") == mtu
            big = FRAME[:ETH_HLEN] + bytes(mtu)
            for source, sink in ((pair.driver_port, pair.device_port), (pair.device_port, pair.driver_port)):
                source.inject(big)
                with trio.fail_after(1):
                    assert (await sink.receive())[1] == big
        assert "the MTU changes from 9000 to 1500" in pair.vhost.failures
        async with hostile_driver(pair) as driver:
            pair.plug.mtu = 1480  # nobody has read it: it may change at once
            pair.plug.changed()
            assert driver.config(*NetConfigField.MTU.value) == 1480


async def test_a_device_that_changes_the_mtu_under_its_driver_is_brought_up_anew() -> None:
    async with open_pair(WITH) as pair, unharmed(pair):
        config = bytearray(pair.vhost.config)
        config[10:12] = (1400).to_bytes(2, "little")
        pair.vhost.set_config(bytes(config))
        await until(lambda: pair.virtio.restarts == 1)
        assert "the MTU changed from 1500 to 1400" in pair.virtio.failures[-1]
        await pair.world.wait_up()


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-21", "NET-DRV-22", "NET-DEV-13")
async def test_the_driver_reads_speed_and_duplex_and_takes_for_unknown_what_can_not_be() -> None:
    async with open_pair(WITHOUT) as pair, unharmed(pair):
        settings = pair.settings
        assert (settings.speed, settings.duplex) == (None, Duplex.UNKNOWN)
        for speed, duplex, wanted in (
            (25_000, 1, (25_000, Duplex.FULL)),
            (0, 0, (0, Duplex.HALF)),
            (0x7FFF_FFFF, 2, (0x7FFF_FFFF, Duplex.UNKNOWN)),
            (0x8000_0000, 0xFE, (None, Duplex.UNKNOWN)),
        ):
            config = pair.vhost.config[:12] + speed.to_bytes(4, "little") + bytes((duplex,))
            pair.vhost.set_config(config)
            await until(lambda: (settings.speed, settings.duplex) == wanted)  # noqa: B023
            full = {Duplex.FULL: True, Duplex.HALF: False}.get(wanted[1])
            assert (pair.driver_port.speed, pair.driver_port.full_duplex) == (wanted[0], full)


# A hostile driver


async def start(driver: HostileDriver, features: int = OFFERED) -> None:
    """Three queues, the third of them for commands."""
    await driver.negotiate(features)
    driver.map_vectors(3)
    driver.rings = [driver.set_up(queue) for queue in range(3)]
    driver.status |= Status.DRIVER_OK
    await trio.testing.wait_all_tasks_blocked()


async def ask(driver: HostileDriver, data: bytes, *sizes: int, room: int = 1) -> bytes:
    """Give a command in pieces of these ``sizes`` and the rest; what the device wrote in answer."""
    answer, descs, at = driver.put(b"\xee" * room), [], 0
    for size in (*sizes, len(data) - sum(sizes)):
        descs.append(Desc(driver.put(data[at : at + size]), size))
        at += size
    ring = driver.rings[2]
    index = ring.used_idx
    driver.send(*descs, Desc(answer, room, WRITE), head=0, queue=2)
    with bounded():
        await trio.testing.wait_all_tasks_blocked()
    assert ring.used_idx == index + 1 & 0xFFFF
    assert ring.elem(index % ring.num) == (0, 1)
    return driver.get(answer, room)


OK, ERR = b"\0", b"\1"
REFUSED = {
    "unknown class": b"\x0a\0\0",
    "nothing at all": b"",
    "class alone": b"\0",
    "switch that is neither": b"\0\0\2",
    "table that is cut": b"\1\0\2\0\0\0" + OWN,
    "table beyond all memory": b"\1\0\xff\xff\xff\xff" + OWN * 10,
    "table that is too large": emit(NetControl(NetCommand.MAC_TABLE_SET, MacTable()))[:2]
    + (TABLE_MAX + 1).to_bytes(4, "little")
    + OWN * (TABLE_MAX + 1)
    + bytes(4),
    "longer than any command": b"\1\0" + bytes(COMMAND_MAX),
    "much longer": b"\1\0" + bytes(100_000),
    "no pair": b"\4\0\0\0",
    "more pairs than there are": b"\4\0\2\0",
    "most pairs": b"\4\0\0\x80",
    "RSS": b"\4\1" + bytes(8) + b"\x28" + bytes(40),
    "RSS table beyond its command": b"\4\1\0\0\0\0\xff\xff" + bytes(4),
    "offloads that need another": b"\5\0" + mask({F.GUEST_TSO4}).to_bytes(8, "little"),
    "VLAN 4096": b"\2\0\0\x10",
    "group as an address": b"\1\1" + GROUP,
}


@pytest.mark.every_transport
@pytest.mark.hostile("N07")
async def test_a_command_that_can_not_be_is_refused_and_changes_nothing() -> None:
    async with open_pair(WITH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver)
        before = await let_in_by(driver)
        for data in REFUSED.values():
            config = pair.vhost.config
            assert await ask(driver, data) == ERR
            assert pair.vhost.config == config
            assert pair.device_port.offloads == ALL_OFFLOADS
        assert pair.plug.figures.control.refused == len(REFUSED)
        assert await let_in_by(driver) == before == {"own", "broadcast"}
        assert driver.status & Status.DRIVER_OK
        assert not driver.status & Status.NEEDS_RESET


async def let_in_by(driver: HostileDriver) -> set[str]:
    """Which of the `FRAMES` reach the hostile driver, with a buffer for each."""
    ring, names = driver.rings[0], {each: name for name, each in FRAMES.items()}
    start, got = ring.used_idx, set()
    rooms = [driver.alloc(2048) for _ in FRAMES]
    for head, room in enumerate(rooms):
        driver.send(Desc(room, 2048, WRITE), head=head, queue=0)
    for each in FRAMES.values():
        driver.pair.device_port.inject(each)
    with bounded():
        await trio.testing.wait_all_tasks_blocked()
    for i in range(start, ring.used_idx):
        head, size = ring.elem(i % ring.num)
        got.add(names[driver.get(rooms[head], size)[12:]])
    ring.avail_idx = ring.used_idx  # what is left is offered anew the next time
    return got


@pytest.mark.every_transport
@pytest.mark.hostile("N07", "R11")
async def test_a_good_command_is_carried_out_however_it_is_cut() -> None:
    async with open_pair(WITH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver)
        data = b"\1\1" + OTHER
        for sizes in ((), (1,), (2,), (1, 1), (2, 3), (0,), (2, 0), (8,)):
            assert await ask(driver, data, *sizes) == OK
            assert pair.vhost.config[:6] == OTHER
            assert await ask(driver, b"\1\1" + OWN) == OK
        assert await ask(driver, data, room=16) == OK + b"\xee" * 15, "nothing is written but the answer"


@pytest.mark.every_transport
@pytest.mark.hostile("N07")
@pytest.mark.parametrize("tail", [b"", b"\0\0\1"], ids=["empty", "whole command"])
async def test_a_command_whose_answer_has_no_place_latches_the_queue(tail: bytes) -> None:
    async with open_pair(WITH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver)
        driver.send(Desc(driver.put(tail), len(tail)), head=0, queue=2)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert driver.status & Status.NEEDS_RESET
        assert "there is no byte for the answer" in pair.vhost.failures[-1]
        driver.send(Desc(driver.put(FRAME), 0), head=0, queue=2)  # latched: nothing more is looked at
        await trio.testing.wait_all_tasks_blocked()
        assert driver.rings[2].used_idx == 0


@pytest.mark.every_transport
@pytest.mark.hostile("N07")
async def test_a_flood_of_commands_and_a_flood_of_strangers_hold_nobody_up() -> None:
    async with open_pair(WITH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver)
        answer, data = driver.put(b"\xee"), driver.put(b"\0\1\1")
        ring = driver.rings[2]
        for head in range(0, ring.num, 2):
            ring.write(head, Desc(data, 3, NEXT, head + 1))
            ring.write(head + 1, Desc(answer, 1, WRITE))
        room = driver.alloc(2048)
        driver.send(Desc(room, 2048, WRITE), head=0, queue=0)
        for turn in range(100):
            for head in range(0, ring.num, 2):
                ring.offer(head)
            driver.kick(2)
            for _ in range(100):
                pair.device_port.inject(FRAMES["other"])
            with bounded():
                await trio.testing.wait_all_tasks_blocked()
            assert ring.used_idx == (turn + 1) * (ring.num // 2) & 0xFFFF
        for _ in range(1000):
            pair.device_port.inject(FRAMES["other"])
        pair.device_port.inject(FRAMES["own"])
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert driver.rings[0].used_idx == 1
        assert driver.get(room, 12 + len(FRAMES["own"]))[12:] == FRAMES["own"]
        assert pair.plug.sent.drops["filter_unicast"] >= 1000


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-90", "NET-DEV-97")
async def test_every_life_begins_with_empty_tables_and_all_that_was_agreed_on() -> None:
    async with open_pair(WITH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        for _ in range(2):
            await start(driver)
            assert await let_in_by(driver) == {"own", "broadcast"}
            table = MacTable(frozenset({OTHER}), frozenset({GROUP}))
            bits = offload_features(Offloads(csum=True), from_driver=False)
            for command, value in (
                (NetCommand.MAC_TABLE_SET, table),
                (NetCommand.VLAN_ADD, 5),
                (NetCommand.NOBCAST, True),
                (NetCommand.GUEST_OFFLOADS_SET, bits),
            ):
                assert await ask(driver, emit(NetControl(command, value))) == OK
            assert await let_in_by(driver) == {"own", "other", "group", "vlan 5"}
            assert pair.device_port.offloads == Offloads(csum=True)
        await start(driver, OFFERED & ~mask({F.CTRL_RX, F.CTRL_VLAN}))
        assert await let_in_by(driver) == set(FRAMES), "a driver that can't say what it wants gets all"
        assert await ask(driver, b"\0\0\0") == ERR
        assert await ask(driver, b"\0\5\1") == OK
        assert await let_in_by(driver) == set(FRAMES) - {"broadcast"}


# Devices that do not do as they should


@contextmanager
def answering(answer: Callable[[VhostNetControlFlow], tuple[int, Need]]) -> Iterator[None]:
    """Every device's control queue does this instead."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VhostNetControlFlow, "move", answer)
        yield


def silence(flow: VhostNetControlFlow) -> tuple[int, Need]:
    """Take commands, and that is all."""
    while flow.queue.ring is not None and flow.queue.ring.getdesc() is not None:
        pass
    return 0, Need.QUEUE


async def test_a_device_that_does_not_answer_a_command_is_reset_and_whoever_asked_is_told() -> None:
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
    def move(flow: VhostNetControlFlow) -> tuple[int, Need]:
        ring = flow.queue.ring
        chain = ring.getdesc() if ring is not None else None
        if ring is None or chain is None:
            return 0, Need.QUEUE
        chain[2][0][0] = answer
        ring.complete(chain[0], 1)
        return 1, Need.TURN

    async with open_pair(WITH) as pair, unharmed(pair):
        with answering(move), pytest.raises(CommandRefused, match="the device refused it"):
            await pair.settings.change(NetRequest(mac=OTHER))
        assert pair.settings.request.mac is None
        assert pair.virtio.restarts == 0


async def test_an_answer_without_a_byte_is_a_refusal() -> None:
    def move(flow: VhostNetControlFlow) -> tuple[int, Need]:
        ring = flow.queue.ring
        chain = ring.getdesc() if ring is not None else None
        if ring is None or chain is None:
            return 0, Need.QUEUE
        chain[2][0][0] = 0
        ring.complete(chain[0], 0)
        return 1, Need.TURN

    async with open_pair(WITH) as pair, unharmed(pair):
        with answering(move), pytest.raises(CommandRefused, match="the device refused it"):
            await pair.settings.change(NetRequest(mac=OTHER))


async def test_a_reset_under_a_command_is_told_to_whoever_gave_it() -> None:
    async with open_pair(WITH) as pair, unharmed(pair):
        with answering(silence):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def ask_in_vain() -> None:
                    with pytest.raises(TransportLost, match="the device was reset before it answered MAC_ADDR_SET"):
                        await pair.settings.change(NetRequest(mac=OTHER))

                await trio.testing.wait_all_tasks_blocked()
                await pair.reset()
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
                    with trio.fail_after(1):
                        got, frame = await sink.receive()
                    assert (got[:10], frame) == (header[:10], big)
