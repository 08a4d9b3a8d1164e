"""Control commands at the network device: changes by its owner, and a hostile driver's commands."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing

from drivers.contracts.ports import ALL_OFFLOADS, ETH_HLEN, Offloads
from drivers.devices.net.control import COMMAND_MAX, TABLE_MAX, MacTable, NetCommand, NetControl, emit
from drivers.devices.net.layout import Duplex, NetConfigField, NetFeature, offload_features
from rings.features import mask
from rings.layout import NEXT, WRITE
from rings.status import Status
from rings.testing import Desc
from support.rigs.net_control import ERR, FRAMES, OK, OTHER, OWN, WITH, WITHOUT, ask, start
from vnet.testing import (
    FRAME,
    OFFERED,
    HostileDriver,
    NetPair,
    Options,
    bounded,
    hostile_driver,
    open_pair,
    unharmed,
    until,
)

F = NetFeature
GROUP, BROADCAST = b"\x01\0\x5e\0\0\x01", b"\xff" * 6

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
            before = pair.plug.figures.pairs[0].received.drops.get("link_down", 0)
            assert pair.driver_port.inject(FRAME)
            await until(lambda: pair.plug.figures.pairs[0].received.drops.get("link_down", 0) == before + 1)  # noqa: B023
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
            pair.plug.mtu = 1480  # it was not read yet: it may change at once
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
@pytest.mark.virtio("NET-DRV-21", "NET-DRV-22")
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


async def let_in_by(driver: HostileDriver[NetPair]) -> set[str]:
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
        assert "the chain has no byte for the answer" in pair.vhost.failures[-1]
        driver.send(Desc(driver.put(FRAME), 0), head=0, queue=2)  # latched: nothing more is looked at
        await trio.testing.wait_all_tasks_blocked()
        assert driver.rings[2].used_idx == 0


@pytest.mark.every_transport
@pytest.mark.hostile("N07")
async def test_a_flood_of_commands_and_a_flood_of_strangers_hold_up_no_traffic() -> None:
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
        assert pair.plug.figures.pairs[0].sent.drops["filter_unicast"] >= 1000


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
