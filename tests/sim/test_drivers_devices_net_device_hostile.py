"""The network device against a hostile driver: each bad frame or buffer has its exact outcome."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from drivers.bus.binding import BindState
from drivers.devices.net.layout import TABLE, NetFeature
from rings.features import mask
from rings.layout import WRITE
from rings.memory import Addr
from rings.status import Status
from rings.testing import Desc
from support.rigs.frames import DROPPED, HEADER, NEEDS_CSUM, Build, cut, framed, virtio_net_hdr, whole
from support.rigs.net_hostile import LENGTH, SMALL, works
from vnet.testing import (
    FRAME,
    TWO_QUEUES,
    Options,
    bounded,
    hostile_driver,
    open_pair,
    unharmed,
    until,
)

F = NetFeature
OK = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK

# What the driver sends

ENOUGH: dict[str, Build] = {
    "header split over three": cut(HEADER + FRAME, 4, 4, 4),
    "header byte by byte": cut(HEADER + FRAME, *[1] * 12),
    "header and one byte": cut(HEADER + FRAME, 13),
    "header and Ethernet header": cut(HEADER + FRAME, 12, 14),
    "cut inside both headers": cut(HEADER + FRAME, 5, 10, 3),
    "an empty piece first": cut(HEADER + FRAME, 0),
    "empty pieces between": cut(HEADER + FRAME, 12, 0, 0, 14, 0),
    "an empty piece last": cut(HEADER + FRAME, LENGTH),
    "smallest frame": whole(framed(14)),
    "as large as the MTU": whole(framed(1514)),
    "as large, with a tag": whole(framed(1518)),
    "checksum up to the last byte": whole(framed(60, virtio_net_hdr(NEEDS_CSUM, start=52, offset=6))),
    "largest segmented frame": whole(framed(65550, virtio_net_hdr(NEEDS_CSUM, 1, 54, 1460, 34, 16))),
    "hdr_len of the whole frame": whole(framed(60, virtio_net_hdr(NEEDS_CSUM, 1, 60, 1, 34, 16))),
}


@pytest.mark.every_transport
@pytest.mark.hostile("N01", "R11")
@pytest.mark.virtio("SPLIT-DEV-1")
@pytest.mark.parametrize("build", ENOUGH.values(), ids=ENOUGH)
async def test_a_good_frame_passes_however_it_is_cut(build: Build) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        descs = build(driver)
        data = b"".join(driver.get(Addr(desc.addr), desc.size) for desc in descs)
        driver.send(*descs)
        with bounded():
            header, frame = await pair.device_port.receive()
            await trio.testing.wait_all_tasks_blocked()
        assert (header, frame) == (data[:12], data[12:])
        assert driver.rings[1].elem(0) == (0, 0)
        assert driver.rings[1].used_idx == 1
        assert pair.plug.figures.pairs[0].received.drops == {}


@pytest.mark.every_transport
@pytest.mark.hostile("N01", "N02", "N03", "N04", "N05")
@pytest.mark.parametrize(("row", "cause", "build"), DROPPED.values(), ids=[f"{v[0]} {k}" for k, v in DROPPED.items()])
async def test_a_bad_frame_is_dropped_counted_once_and_its_buffer_returned_once(
    row: str, cause: str, build: Build
) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        descs = build(driver)
        for turn in range(2):
            driver.send(*descs)
            with bounded():
                await trio.testing.wait_all_tasks_blocked()
            drops = pair.plug.figures.pairs[0].received.drops
            assert list(drops.values()) == [turn + 1]
            assert set(drops) <= set(cause.split())
            assert driver.rings[1].used_idx == turn + 1
            assert driver.rings[1].elem(turn) == (0, 0)
        assert not pair.device_port._outbound
        assert driver.status == OK
        await works(driver)


OFFLOADS_OFF = [(F.CSUM, "bad_csum"), (F.HOST_TSO4, "bad_gso")]


@pytest.mark.every_transport
@pytest.mark.hostile("N03", "N04")
@pytest.mark.parametrize(("bit", "cause"), OFFLOADS_OFF, ids=["CSUM", "HOST_TSO4"])
async def test_a_header_that_asks_for_what_was_not_agreed_on_is_a_bad_frame(bit: NetFeature, cause: str) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start(TABLE.prune(TWO_QUEUES & ~(1 << bit)))
        gso = (1, 54, 1460) if bit is F.HOST_TSO4 else (0, 0, 0)
        driver.send(*whole(framed(60, virtio_net_hdr(NEEDS_CSUM, *gso, 34, 16)))(driver))
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert pair.plug.figures.pairs[0].received.drops == {cause: 1}
        await works(driver)


@pytest.mark.every_transport
@pytest.mark.hostile("R14")
@pytest.mark.virtio("SPLIT-DEV-2", "SPLIT-DEV-3")
async def test_a_writable_part_in_what_the_driver_sends_is_not_touched_and_the_frame_dropped() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        room = driver.put(b"\xee" * 100)
        for descs in ([Desc(room, 100, WRITE)], [*whole(HEADER + FRAME)(driver), Desc(room, 100, WRITE)]):
            driver.send(*descs)
            with bounded():
                await trio.testing.wait_all_tasks_blocked()
        assert pair.plug.figures.pairs[0].received.drops == {"writable": 2}
        assert [driver.rings[1].elem(i) for i in range(2)] == [(0, 0), (0, 0)]
        assert driver.get(room, 100) == b"\xee" * 100
        await works(driver)


# What the driver offers to be filled


@pytest.mark.every_transport
@pytest.mark.hostile("N06")
@pytest.mark.parametrize("mergeable", [True, False])
async def test_a_readable_receive_buffer_comes_back_empty_and_untouched(mergeable: bool) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start(TWO_QUEUES if mergeable else TWO_QUEUES & ~mask({F.MRG_RXBUF}))
        room = driver.put(b"\xee" * 2000)
        good = driver.alloc(70_000)
        driver.send(Desc(room, 2000), head=0, queue=0)
        driver.send(Desc(room, 1000), Desc(room + 1000, 1000, WRITE), head=1, queue=0)
        driver.send(Desc(good, 70_000, WRITE), head=3, queue=0)
        pair.device_port.inject(FRAME)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert [driver.rings[0].elem(i) for i in range(3)] == [(0, 0), (1, 0), (3, LENGTH)]
        assert driver.get(room, 2000) == b"\xee" * 2000
        assert driver.get(good, LENGTH)[12:] == FRAME
        assert pair.plug.figures.pairs[0].sent.drops == {"writable": 2}
        await works(driver)


@pytest.mark.every_transport
@pytest.mark.hostile("N06")
@pytest.mark.parametrize("size", [1, 9, 11, 12, 13, 25, 30])
async def test_a_frame_that_its_buffer_can_not_hold_is_dropped_and_the_buffer_kept(size: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start(TWO_QUEUES & ~mask({F.MRG_RXBUF}))
        small = driver.put(b"\xee" * 64)
        driver.send(Desc(small, size, WRITE), head=0, queue=0)
        for _ in range(3):
            pair.device_port.inject(FRAME)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert pair.device_port.statistics().drops == {"too_long": 3}
        assert driver.rings[0].used_idx == 0
        assert driver.get(small, 64) == b"\xee" * 64
        assert driver.status == OK
        pair.device_port.inject(FRAME[:14])
        await trio.testing.wait_all_tasks_blocked()
        if size >= 26:
            assert driver.rings[0].elem(0) == (0, 26)
        await works(driver)


@pytest.mark.every_transport
@pytest.mark.hostile("N06")
@pytest.mark.parametrize("size", [0, 1, 4])
async def test_a_frame_that_no_number_of_merged_buffers_holds_is_dropped_and_all_are_kept(size: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        before = dict(pair.plug.figures.pairs[0].sent.drops)
        small = driver.put(b"\xee" * 64)
        for head in range(16):
            driver.send(Desc(small + size * head, size, WRITE), head=head, queue=0)
        pair.device_port.inject(FRAME * 3)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        if size:
            assert pair.plug.figures.pairs[0].sent.drops == {**before, "too_long": 1}
            assert driver.rings[0].used_idx == 0
            # They are the device's until used: a part of the frame may stand in them, and nothing behind them.
            assert driver.get(Addr(small + 16 * size), 64 - 16 * size) == b"\xee" * (64 - 16 * size)
        else:  # buffers without a byte are no receive buffers
            assert pair.plug.figures.pairs[0].sent.drops == {"writable": 16}
            assert driver.rings[0].used_idx == 16
            pair.device_port._inbound.clear()
        assert driver.status == OK
        pair.device_port._inbound.clear()
        await works(driver)


@pytest.mark.every_transport
@pytest.mark.hostile("N06")
@pytest.mark.virtio("NET-DEV-29", "NET-DEV-30")
async def test_num_buffers_is_right_even_where_the_header_itself_is_cut() -> None:
    async with open_pair(Options(queue_size=64)) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        base = driver.put(b"\xee" * 1024)
        for head in range(64):
            driver.send(Desc(base + 5 * head, 5, WRITE), head=head, queue=0)
        pair.device_port.inject(FRAME)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        count = -(-LENGTH // 5)
        assert driver.rings[0].used_idx == count
        assert driver.get(base, LENGTH) == virtio_net_hdr(count=count) + FRAME
        await works(driver)


# A port that goes away


@pytest.mark.every_transport
@pytest.mark.hostile("N08")
@pytest.mark.parametrize("end", ["driver", "device"])
async def test_a_port_that_is_taken_away_stops_its_end_cleanly_and_the_device_says_so(end: str) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair):
        port = pair.world.memory_port("net0", end)
        for _ in range(10):
            pair.driver_port.inject(FRAME)
            pair.device_port.inject(FRAME)
        port.unplug()
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert not port.live
        assert pair.virtio.restarts == 0
        if end == "device":
            assert pair.vhost.config[6] == 0
            assert not pair.driver_port.carrier
        else:
            await until(lambda: pair.rc.virtio.binding(pair.virtio).state is BindState.FAILED)
            assert not pair.vhost.status & Status.DRIVER_OK
            assert not pair.device_port.carrier
        assert "the memory port was unplugged" in pair.device.trouble()
        port._gone = False
        for memory_port in (pair.driver_port, pair.device_port):
            memory_port._inbound.clear()
            memory_port._outbound.clear()
