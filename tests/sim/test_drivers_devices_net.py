"""Frames of every kind cross a network device in both directions."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

import attrs
import pytest
import trio
import trio.testing
from scapy.layers.inet import TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from drivers.contracts.ports import ETH_HLEN, NO_OFFLOADS, Offloads
from drivers.devices.net.driver.flows import POSTED, POSTED_BYTES
from drivers.devices.net.layout import TABLE, NetFeature
from drivers.transports.pci.registers import Common
from rings.features import RingFeature, bits, mask
from rings.memory import Addr
from rings.testing import Desc
from support.rigs.net import BIG, ETHER, FRAMES, PARTIAL, PLAIN, SMALL, V4, V6, Unfinished, cross, ends
from vnet.testing import (
    AGREED,
    FRAME,
    Options,
    hostile_driver,
    open_pair,
    unharmed,
    until,
)
from vnet.testing.hostile import EXTRA

F = NetFeature
NEEDS_CSUM = 1
NONE, TCPV4, TCPV6, UDP_L4 = 0, 1, 4, 5
MERGED = Options(queue_size=64, rx_buffer=256)
OUT, IN = "driver to device", "device to driver"
DIRECTIONS = (OUT, IN)
LAYOUTS = {
    "buffers for any frame": Options(),
    "merged": MERGED,
    "merged, tiny": Options(queue_size=1024, rx_buffer=64, memory=192),
    "without MRG_RXBUF": Options(features_off=("MRG_RXBUF",)),
    "without EVENT_IDX": Options(features_off=("EVENT_IDX",)),
    "without INDIRECT_DESC": Options(features_off=("INDIRECT_DESC",)),
    "without either, merged": Options(features_off=("EVENT_IDX", "INDIRECT_DESC"), rx_buffer=300),
    "two descriptors": Options(queue_size=2),
    "jumbo": Options(mtu=9000, rx_buffer=1024),
}
ROOMY = {
    "buffers for any frame": SMALL,
    "merged": Options(queue_size=512, rx_buffer=256),
    "without MRG_RXBUF": Options(queue_size=16, features_off=("MRG_RXBUF",)),
    "without EVENT_IDX": Options(queue_size=16, features_off=("EVENT_IDX",)),
    "jumbo": Options(queue_size=128, mtu=9000, rx_buffer=1024),
}
"""Layouts in which a receive ring holds the largest frame."""

# Frames made by scapy


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-24", "NET-DRV-69")
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
async def test_frames_of_every_kind_cross_unchanged_and_nothing_is_claimed_of_them(
    options: Options, direction: str
) -> None:
    async with open_pair(options) as pair:
        for packet in FRAMES.values():
            frame = bytes(packet)
            assert await cross(pair, direction, frame) == (PLAIN, frame)
        assert pair.plug.figures.pairs[0].received.drops == pair.settings.figures.pairs[0].received.drops == {}
        counts = (pair.settings.figures.pairs[0].sent, pair.plug.figures.pairs[0].received) if direction == OUT else (
            pair.plug.figures.pairs[0].sent,
            pair.settings.figures.pairs[0].received,
        )  # fmt: skip
        assert {(t.packets, t.bytes) for t in counts} == {(len(FRAMES), sum(map(len, FRAMES.values())))}


def finish(header: bytes, frame: bytes) -> bytes:
    """Complete the checksum: sum from csum_start to the end, store at csum_offset."""
    flags, _, _, _, start, offset, _ = struct.unpack("<BBHHHHH", header)
    assert flags == NEEDS_CSUM
    body = frame[start:] + bytes(len(frame[start:]) % 2)
    total = sum(struct.unpack(f">{len(body) // 2}H", body))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    at: int = start + offset
    done: bytes = frame[:at] + (~total & 0xFFFF).to_bytes(2, "big") + frame[at + 2 :]
    return done


GSO = {
    "tso4": Unfinished(
        ETHER / V4 / TCP(sport=1, dport=2, flags="A") / Raw(BIG),
        TCP,
        TCPV4,
        1460,
        ((F.CSUM, F.HOST_TSO4), (F.GUEST_CSUM, F.GUEST_TSO4)),
    ),
    "tso6": Unfinished(
        ETHER / V6 / TCP(sport=1, dport=2, flags="A") / Raw(BIG[:30000]),
        TCP,
        TCPV6,
        1440,
        ((F.CSUM, F.HOST_TSO6), (F.GUEST_CSUM, F.GUEST_TSO6)),
    ),
    "uso4": Unfinished(
        ETHER / V4 / UDP(sport=1, dport=2) / Raw(BIG[:20000]),
        UDP,
        UDP_L4,
        1472,
        ((F.CSUM, F.HOST_USO), (F.GUEST_CSUM, F.GUEST_USO4, F.GUEST_USO6)),
    ),
    "uso6": Unfinished(
        ETHER / V6 / UDP(sport=1, dport=2) / Raw(BIG[:20000]),
        UDP,
        UDP_L4,
        1452,
        ((F.CSUM, F.HOST_USO), (F.GUEST_CSUM, F.GUEST_USO4, F.GUEST_USO6)),
    ),
}


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-44", "NET-DRV-45", "NET-DEV-44", "NET-DEV-45")
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("layout", ["buffers for any frame", "merged"])
@pytest.mark.parametrize("name", PARTIAL)
async def test_a_partial_checksum_crosses_as_such_and_can_be_completed(name: str, layout: str, direction: str) -> None:
    async with open_pair(LAYOUTS[layout]) as pair, unharmed(pair):
        header, frame = PARTIAL[name].emit()
        got = await cross(pair, direction, frame, header)
        assert got == (header, frame)
        whole = Ether(finish(*got))
        rebuilt = PARTIAL[name].packet.copy()
        assert bytes(whole) == bytes(rebuilt), "scapy computes the same checksum from scratch"


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-47", "NET-DRV-48", "NET-DRV-50", "NET-DEV-52", "NET-DEV-53", "NET-DEV-56")
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("options", ROOMY.values(), ids=ROOMY)
@pytest.mark.parametrize("name", GSO)
async def test_a_large_packet_crosses_whole_with_its_header(name: str, options: Options, direction: str) -> None:
    async with open_pair(options) as pair:
        header, frame = GSO[name].emit()
        flags, gso, hdr_len, gso_size, start, _, _ = struct.unpack("<BBHHHHH", header)
        assert (flags, gso_size) == (NEEDS_CSUM, GSO[name].mss)
        assert start < hdr_len
        for _ in range(3):
            assert await cross(pair, direction, frame, header) == (header, frame)
        assert gso == GSO[name].gso


UNFINISHED = {**PARTIAL, **GSO}
SWITCHABLE = [b for b in bits(AGREED) if b != RingFeature.VERSION_1]


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-28", "NET-DRV-29", "NET-DRV-30", "NET-DRV-32")
@pytest.mark.virtio("NET-DEV-33", "NET-DEV-34", "NET-DEV-36", "NET-DEV-37")
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("bit", SWITCHABLE, ids=TABLE.name)
async def test_without_a_feature_ordinary_frames_pass_and_no_header_asks_for_it(bit: int, direction: str) -> None:
    """The port drops and counts frames with offloads that were not agreed on."""
    async with open_pair(Options(queue_size=16, control=True, features_off=(TABLE.name(bit),))) as pair, unharmed(pair):
        features = pair.virtio.features
        assert features & ~EXTRA == TABLE.prune(AGREED & ~(1 << bit))
        source, sink = ends(pair, direction)
        dropped = 0
        for item in UNFINISHED.values():
            header, frame = item.emit()
            allowed = mask(item.features[direction == IN]) & ~features == 0
            if allowed:
                assert await cross(pair, direction, frame, header) == (header, frame)
            else:
                source.inject(frame, header)
                dropped += 1
                await until(lambda: sum(source.statistics().drops.values()) == dropped)  # noqa: B023
        plain = bytes(FRAMES["tcp"])
        assert await cross(pair, direction, plain) == (PLAIN, plain)
        assert source.statistics().drops == ({"offload": dropped} if dropped else {})
        assert sink.statistics().drops == {}


OFFLOAD_CAPS = {
    "none": NO_OFFLOADS,
    "csum": Offloads(csum=True),
    "tso4": Offloads(csum=True, tso4=True),
    "no uso": Offloads(csum=True, tso4=True, tso6=True),
}


@pytest.mark.every_transport
@pytest.mark.parametrize("end", ["driver", "device"])
@pytest.mark.parametrize("caps", OFFLOAD_CAPS.values(), ids=OFFLOAD_CAPS)
async def test_features_that_the_port_lacks_are_not_negotiated(caps: Offloads, end: str) -> None:
    """A port that can't finish a checksum must not get one, and what it never hands up need not be accepted."""
    changes = {"driver_caps": caps} if end == "driver" else {"device_caps": caps}
    async with open_pair(attrs.evolve(SMALL, **changes)) as pair, unharmed(pair):  # type: ignore[arg-type]
        for direction, bit_sets in ((OUT, 0), (IN, 1)):
            for name, able in (("tso4", caps.tso4), ("uso4", caps.uso)):
                item = GSO[name]
                agreed = mask(item.features[bit_sets]) & ~pair.virtio.features == 0
                if (direction == IN) == (end == "driver") or end == "device":
                    assert agreed == able
        assert await cross(pair, OUT, FRAME) == (PLAIN, FRAME)
        assert await cross(pair, IN, FRAME) == (PLAIN, FRAME)


# Under load


@pytest.mark.every_transport
@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
async def test_both_directions_carry_a_megabyte_at_once(options: Options) -> None:
    async with open_pair(options) as pair:
        await pair.transfer()
        sent = pair.settings.figures.pairs[0].sent, pair.plug.figures.pairs[0].sent
        got = pair.plug.figures.pairs[0].received, pair.settings.figures.pairs[0].received
        assert [(t.packets, t.bytes, t.drops) for t in sent] == [(t.packets, t.bytes, t.drops) for t in got]
        for queue in pair.virtio.queues:
            assert sum(queue.batches) <= sum(t.packets for t in got)


@pytest.mark.every_transport
async def test_a_burst_costs_few_notifications() -> None:
    async with open_pair() as pair:
        kicks = sum(queue.kicks for queue in pair.vhost.queues)
        for _ in range(1000):
            pair.driver_port.inject(FRAME)
        await until(lambda: pair.plug.figures.pairs[0].received.packets == 1000)
        assert sum(queue.kicks for queue in pair.vhost.queues) - kicks < 50


@pytest.mark.every_transport
async def test_frames_go_through_the_buffers_used_last(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_pair(Options(queue_size=256)) as pair:
        ring, used = pair.virtio.queues[1].ring, set[int]()
        add_each = ring.add_each

        def noted(buffers: Sequence[tuple[Addr, int, int]], writable: bool) -> None:
            used.update(addr for addr, _, _ in buffers)
            add_each(buffers, writable)

        monkeypatch.setattr(ring, "add_each", noted)
        for i in range(20):
            assert (await cross(pair, OUT, FRAME + bytes([i])))[1] == FRAME + bytes([i])
        assert len(used) == 1


@pytest.mark.every_transport
async def test_a_receive_ring_holds_fewer_buffers_while_frames_are_large() -> None:
    async with open_pair(Options(queue_size=256, memory=64)) as pair:
        ring = pair.virtio.queues[0].ring
        header, frame = GSO["tso4"].emit()
        assert ring.num_free == 0
        for _ in range(300):
            assert (await cross(pair, IN, frame, header))[1] == frame
        assert POSTED <= ring.num - ring.num_free <= POSTED_BYTES // len(frame)
        for i in range(150):
            assert (await cross(pair, IN, FRAME + bytes([i])))[1] == FRAME + bytes([i])
        assert ring.num_free == 0


@pytest.mark.every_transport
async def test_a_port_that_takes_nothing_stops_the_ring_and_loses_nothing() -> None:
    async with open_pair(Options(queue_size=16, capacity=32)) as pair, unharmed(pair):
        sent = [FRAME + bytes([i]) for i in range(200)]
        for direction in DIRECTIONS:
            source, sink = ends(pair, direction)
            waiting = list(sent)
            got: list[bytes] = []
            while len(got) < len(sent):
                while waiting and len(source._inbound) < 32:
                    source.inject(waiting.pop(0))
                await trio.testing.wait_all_tasks_blocked()
                assert len(sink._outbound) <= 32
                got.append(sink.receive_nowait()[1])
            assert got == sent
            assert source.statistics().drops == sink.statistics().drops == {}


async def test_queues_of_the_smallest_and_an_uneven_pair_of_sizes_work() -> None:
    async with open_pair(Options(queue_size=2)) as pair, hostile_driver(pair) as driver:
        await driver.start(num=1)
        for i in range(5):
            driver.send(Desc(driver.put(PLAIN + FRAME + bytes([i])), 13 + len(FRAME)))
            assert (await pair.device_port.receive())[1][-1] == i
        assert driver.read(Common.QUEUE_SIZE) == 1


def test_the_frames_of_this_file_are_of_many_lengths() -> None:
    lengths = sorted(len(bytes(packet)) for packet in FRAMES.values())
    assert lengths[0] == ETH_HLEN
    assert any(a % 2 != b % 2 for a, b in pairwise(lengths))
