"""virtio_net_hdr, seen from the other side of the ring."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing

from drivers.contracts.ports import HEADER_SIZE
from drivers.devices.net.device.merge import TakenChains
from drivers.devices.net.layout import TABLE, NetFeature
from drivers.testing import WrappedOps
from drivers.transports.pci.registers import Common
from rings.features import RingFeature, mask
from rings.layout import WRITE
from rings.memory import Addr, Memory
from rings.status import Status
from rings.testing import Access, Act, Desc, Watched
from support.rigs.net import FRAMES, PARTIAL, PLAIN, SMALL, cross, ends, start, virtio_net_hdr
from vnet.testing import (
    FRAME,
    TWO_QUEUES,
    HostileDriver,
    NetPair,
    Options,
    bounded,
    hostile_device,
    hostile_driver,
    open_pair,
    unharmed,
    until,
)

F = NetFeature
NEEDS_CSUM = 1
NONE, TCPV4, TCPV6, UDP_L4 = 0, 1, 4, 5
OUT, IN = "driver to device", "device to driver"
DIRECTIONS = (OUT, IN)


def received(driver: HostileDriver[NetPair]) -> list[bytes]:
    ring = driver.rings[0]
    return [
        bytes(driver.memory.view(ring.read(head).addr, size))  # type: ignore[arg-type]
        for head, size in map(ring.elem, range(ring.used_idx))
    ]


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-26", "NET-DEV-28", "NET-DEV-29", "NET-DEV-42")
@pytest.mark.parametrize("off", [0, mask({F.MRG_RXBUF}), TWO_QUEUES & ~mask({RingFeature.VERSION_1})])
async def test_num_buffers_is_one_where_one_buffer_holds_the_frame(off: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, TABLE.prune(TWO_QUEUES & ~off))
        for _ in range(3):
            pair.device_port.inject(FRAME)
        await trio.testing.wait_all_tasks_blocked()
        assert received(driver) == [virtio_net_hdr(count=1) + FRAME] * 3


@pytest.mark.virtio("NET-DEV-26", "NET-DEV-29", "NET-DEV-30", "NET-DEV-31")
@pytest.mark.parametrize("size", [26, 64, 100, 256, 1000])
@pytest.mark.parametrize("length", [14, 52, 53, 244, 245, 1000, 1400])
async def test_a_frame_over_many_buffers_fills_all_but_the_last_and_shows_at_once(size: int, length: int) -> None:
    async with open_pair(Options(queue_size=128)) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, size=size, count=100)
        seen: list[int] = []
        driver.function.request_irq(1, lambda: seen.append(driver.rings[0].used_idx))
        frame = (FRAME * 50)[:length]
        want = -(-(HEADER_SIZE + length) // size)
        pair.device_port.inject(frame)
        await trio.testing.wait_all_tasks_blocked()
        parts = received(driver)
        assert seen == [want] == [len(parts)]
        assert b"".join(parts) == virtio_net_hdr(count=want) + frame
        assert all(len(part) == size for part in parts[:-1])


async def test_frames_of_one_buffer_among_larger_ones_arrive_whole_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where frames fit one buffer each, though larger ones may come, buffers are taken for several at once."""
    gathered: list[int] = []

    class Watched(TakenChains):
        def gather(self, wanted: int, limit: int) -> int:
            gathered.append(wanted)
            return super().gather(wanted, limit)

    monkeypatch.setattr("drivers.devices.net.device.flows.TakenChains", Watched)
    async with open_pair(Options(queue_size=128)) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, size=100, count=128)
        small, large = [(FRAME * 3)[:80] + bytes([i]) for i in range(6)], (FRAME * 50)[:1000]
        for frame in small[:4]:
            pair.device_port.inject(frame)
        await trio.testing.wait_all_tasks_blocked()
        assert received(driver) == [virtio_net_hdr(count=1) + frame for frame in small[:4]]
        assert gathered == []
        for frame in (small[4], large, small[5]):
            pair.device_port.inject(frame)
        await trio.testing.wait_all_tasks_blocked()
        first, *parts, last = received(driver)[4:]
        assert first == virtio_net_hdr(count=1) + small[4]
        assert b"".join(parts) == virtio_net_hdr(count=11) + large
        assert last == virtio_net_hdr(count=1) + small[5]


async def test_no_buffers_are_taken_for_a_frame_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is known how many a frame needs: each costs time, also if it is given back."""
    left: list[int] = []

    class Watched(TakenChains):
        def give_back(self) -> None:
            left.append(len(self))
            super().give_back()

    monkeypatch.setattr("drivers.devices.net.device.flows.TakenChains", Watched)
    async with open_pair(Options(queue_size=128)) as pair, hostile_driver(pair) as driver:
        await start(driver, size=100, count=100)
        left.clear()
        for _ in range(3):
            pair.device_port.inject((FRAME * 50)[:1000])
            await trio.testing.wait_all_tasks_blocked()
        assert left == [0, 0, 0]
        assert len(received(driver)) == 3 * 11


@pytest.mark.every_transport
async def test_a_frame_waits_until_there_are_enough_buffers_and_none_is_lost_or_torn() -> None:
    async with open_pair(Options(queue_size=128)) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, size=100, count=3)
        sent = [(FRAME + bytes([i]) * 600)[: 200 + 50 * i] for i in range(8)]
        for frame in sent:
            pair.device_port.inject(frame)
        free = iter(range(3, 128))
        while driver.rings[0].avail_idx < 100:
            await trio.testing.wait_all_tasks_blocked()
            head = next(free)
            driver.send(Desc(driver.put(b"\xee" * 100), 100, WRITE), head=head, queue=0)
        await trio.testing.wait_all_tasks_blocked()
        data = b"".join(received(driver))
        parts = received(driver)
        got, at = [], 0
        while at < len(parts):
            count = parts[at][10]
            got.append(b"".join(parts[at : at + count])[HEADER_SIZE:])
            at += count
        assert got == sent
        assert data


async def test_a_frame_that_waits_for_buffers_ends_with_the_network_it_came_from() -> None:
    async with open_pair(Options(queue_size=128)) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, size=100, count=3)
        pair.device_port.inject((FRAME * 50)[:1000])
        await trio.testing.wait_all_tasks_blocked()
        for up in (False, True):
            pair.plug.link_up = up
            pair.plug.changed()
            await until(lambda: pair.device_port.live is up)  # noqa: B023
        assert pair.plug.figures.pairs[0].sent.drops == {"stopped": 1}
        for head in range(3, 20):
            driver.send(Desc(driver.put(b"\xee" * 100), 100, WRITE), head=head, queue=0)
        pair.device_port.inject(FRAME)
        await trio.testing.wait_all_tasks_blocked()
        assert received(driver) == [virtio_net_hdr(count=1) + FRAME]


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-25", "NET-DRV-26", "SPLIT-DRV-4")
async def test_the_driver_sends_a_twelve_byte_header_with_num_buffers_zero_in_one_descriptor() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_device(pair) as device:
        header, frame = PARTIAL["udp"].emit()
        pair.driver_port.inject(frame, header[:10] + b"\7\7")
        await trio.testing.wait_all_tasks_blocked()
        ring = device.rings[1]
        desc = ring.read(ring.entry(0))
        assert desc.flags == 0
        assert bytes(device.memory.view(desc.addr, desc.size)) == header + frame  # type: ignore[arg-type]


BUFFERS = {
    "GSO": ((), None, 1500, 65601),
    "GSO, merged": ((), 256, 1500, 256),
    "GSO without MRG_RXBUF": (("MRG_RXBUF",), 256, 1500, 65601),
    "plain": (("MRG_RXBUF", "GUEST_CSUM"), None, 1500, 1526),
    "plain, no MTU": (("MRG_RXBUF", "GUEST_CSUM", "MTU"), None, 9000, 1526),
    "plain, large MTU": (("MRG_RXBUF", "GUEST_CSUM"), None, 9000, 9026),
    "plain, small MTU": (("GUEST_CSUM",), None, 68, 1526),
    "smallest": ((), 64, 1500, 64),
}


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-18", "NET-DRV-60", "NET-DRV-61", "NET-DRV-62")
@pytest.mark.parametrize(("off", "rx_buffer", "mtu", "least"), BUFFERS.values(), ids=BUFFERS)
async def test_receive_buffers_are_as_large_as_the_features_ask(
    off: tuple[str, ...], rx_buffer: int | None, mtu: int, least: int
) -> None:
    options = Options(queue_size=16, features_off=off, rx_buffer=rx_buffer, mtu=mtu)
    async with open_pair(options) as pair, hostile_device(pair) as device:
        ring = device.rings[0]
        sizes = {ring.read(ring.entry(at)).size for at in range(16)}
        assert ring.avail_idx == 16
        assert min(sizes) >= least
        assert all(ring.read(at).flags == WRITE for at in range(16))


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-16", "NET-DEV-17", "NET-DEV-18", "NET-DEV-19")
@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        (virtio_net_hdr(flags=0xFE), virtio_net_hdr()),
        (virtio_net_hdr(flags=0x02), virtio_net_hdr()),
        (virtio_net_hdr(start=0xFFFF, offset=0xFFFF), virtio_net_hdr(start=0xFFFF, offset=0xFFFF)),
        (virtio_net_hdr(hdr_len=0xFFFF, gso_size=1), virtio_net_hdr(hdr_len=0xFFFF, gso_size=1)),
        (virtio_net_hdr(0xFF, start=14, offset=6), virtio_net_hdr(1, start=14, offset=6)),
        (virtio_net_hdr(1, TCPV4, 0, 1460, 14, 6), virtio_net_hdr(1, TCPV4, 0, 1460, 14, 6)),
        (virtio_net_hdr(1, TCPV4, 1, 1460, 14, 6), virtio_net_hdr(1, TCPV4, 1, 1460, 14, 6)),
    ],
)
async def test_unknown_flags_are_ignored_and_fields_without_their_flag_are_not_judged(
    sent: bytes, wanted: bytes
) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        driver.send(Desc(driver.put(sent + FRAME), 12 + len(FRAME)))
        with bounded():
            assert await pair.device_port.receive() == (wanted, FRAME)


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-63", "NET-DRV-65", "NET-DRV-66", "NET-DRV-67", "NET-DRV-68")
@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        (virtio_net_hdr(flags=0xFE, count=1), virtio_net_hdr(count=1)),
        (virtio_net_hdr(start=0xFFFF, offset=9, count=1), virtio_net_hdr(start=0xFFFF, offset=9, count=1)),
        (virtio_net_hdr(0xFF, start=14, offset=6, count=1), virtio_net_hdr(1, start=14, offset=6, count=1)),
        (virtio_net_hdr(1, TCPV4, 1, 1460, 14, 6, 1), virtio_net_hdr(1, TCPV4, 1, 1460, 14, 6, 1)),
        (virtio_net_hdr(1, TCPV4, 0, 1460, 14, 6, 1), virtio_net_hdr(1, TCPV4, 0, 1460, 14, 6, 1)),
    ],
)
async def test_the_driver_ignores_unknown_flags_and_believes_only_what_has_its_flag(sent: bytes, wanted: bytes) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_device(pair) as device:
        device.deliver(sent + FRAME)
        with bounded():
            header, frame = await pair.driver_port.receive()
        assert (header[:10], frame) == (wanted[:10], FRAME)


@pytest.mark.virtio("NET-DRV-59")
async def test_the_driver_puts_a_header_of_twelve_bytes_before_the_frame() -> None:
    async with open_pair(SMALL) as pair, hostile_device(pair) as device:
        pair.driver_port.inject(FRAME)
        with bounded():
            await pair.device_port.receive()
        ring = device.rings[1]
        sent = ring.read(ring.entry(ring.avail_idx - 1))
        assert bytes(device.memory.view(Addr(sent.addr), sent.size)) == bytes(12) + FRAME


NOT_AGREED = {
    "UFO": virtio_net_hdr(NEEDS_CSUM, 3, 42, 1472, 34, 6),
    "tunnel over IPv4": virtio_net_hdr(NEEDS_CSUM, 0x20 | TCPV4, 54, 1460, 34, 16),
    "tunnel with an outer checksum": virtio_net_hdr(NEEDS_CSUM | 8, 0x20 | TCPV4, 54, 1460, 34, 16),
    "tunnel over IPv6": virtio_net_hdr(NEEDS_CSUM, 0x40 | TCPV4, 54, 1460, 34, 16),
    "ECN of a datagram": virtio_net_hdr(NEEDS_CSUM, 0x80 | UDP_L4, 42, 1460, 34, 6),
}


@pytest.mark.virtio("NET-DRV-31", "NET-DRV-35", "NET-DRV-37", "NET-DRV-39")
@pytest.mark.virtio("NET-DEV-35", "NET-DEV-38", "NET-DEV-39", "NET-DEV-46", "NET-DEV-50")
@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_frames_that_need_an_unnegotiated_feature_never_get_into_a_ring(direction: str) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair):
        source, _ = ends(pair, direction)
        for header in NOT_AGREED.values():
            source.inject(bytes(FRAMES["tcp"]), header)
        await until(lambda: source.statistics().drops == {"offload": len(NOT_AGREED)})
        got = await cross(pair, direction, FRAME, virtio_net_hdr(0xFE & ~NEEDS_CSUM))
        assert got == (PLAIN, FRAME), "flags that were not negotiated are cleared"


class Ordered(Watched):
    """Looks at a buffer at the moment at which the used index moves."""

    def __init__(self, memory: Memory, index: int, buffer: Addr) -> None:
        super().__init__(memory)
        self._index, self._buffer = index, buffer
        self.seen: list[bytes] = []

    def tell(self, access: Access) -> None:
        super().tell(access)
        if access == Access(Act.STORE, self._index, 2):
            self.seen.append(bytes(self.memory.view(self._buffer, HEADER_SIZE + len(FRAME))))


@pytest.mark.virtio("SPLIT-DEV-13", "SPLIT-DEV-14")
async def test_a_received_frame_and_its_used_element_are_written_before_the_used_index() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair):
        ops = pair.vhost.ops
        async with hostile_driver(pair) as driver:
            # The same places as below: the lowest that are free.
            await driver.start()
            index, buffer = driver.rings[0].addrs.device + 2, driver.alloc(2000)
            watched: list[Ordered] = []

            def around(memory: Memory) -> Memory:
                watched.append(Ordered(memory, index, buffer))
                return watched[-1]

            await driver.negotiate()
            pair.vhost.ops = WrappedOps(ops, around)
            driver.map_vectors()
            for queue, ring in enumerate(driver.rings):
                ring.clear()
                driver.write(Common.QUEUE_SELECT, queue)
                fields = (Common.QUEUE_DESC, Common.QUEUE_DRIVER, Common.QUEUE_DEVICE)
                for field, area in zip(fields, attrs.astuple(ring.addrs), strict=True):
                    driver.write(field, area)
                driver.write(Common.QUEUE_ENABLE, 1)
            driver.status |= Status.DRIVER_OK
            driver.send(Desc(buffer, 2000, WRITE), queue=0)
            pair.device_port.inject(FRAME)
            await trio.testing.wait_all_tasks_blocked()
            assert watched[0].seen == [virtio_net_hdr(count=1) + FRAME]
            stores = [access.addr for access in watched[0].acts(Act.STORE) if access.addr >= index]
            assert stores.index(index + 2) < stores.index(index)
            pair.vhost.ops = ops


@pytest.mark.virtio("CLEANUP-DRV-1")
async def test_buffers_that_the_device_still_has_are_not_changed() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_device(pair) as device:
        ring = device.rings[0]
        for turn in range(40):
            used = ring.entry(ring.used_idx)
            before = {head: ring.read(head) for head in range(16) if head != used}
            entries = [ring.entry(ring.used_idx + i) for i in range(1, 16)]
            device.deliver(virtio_net_hdr(count=1) + FRAME + bytes([turn]))
            await pair.driver_port.receive()
            await trio.testing.wait_all_tasks_blocked()
            assert {head: ring.read(head) for head in before} == before
            assert [ring.entry(ring.used_idx + i) for i in range(15)] == entries
