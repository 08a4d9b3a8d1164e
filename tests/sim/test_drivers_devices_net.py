"""The network device: frames of every kind cross in both directions, and headers say what is true of them."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise

import attrs
import pytest
import trio
import trio.testing
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from drivers.contracts.ports import ETH_HLEN, HEADER_SIZE, NO_OFFLOADS, Offloads
from drivers.devices.net.device.merge import TakenChains
from drivers.devices.net.driver.flows import POSTED, POSTED_BYTES
from drivers.devices.net.layout import TABLE, NetFeature
from drivers.testing import WrappedOps
from drivers.transports.pci.registers import Common
from rings.features import RingFeature, bits, mask
from rings.layout import WRITE
from rings.memory import Addr, Memory
from rings.status import Status
from rings.testing import Access, Act, Desc, Watched
from vnet.ports.packet.memory import MemoryPort
from vnet.testing import (
    AGREED,
    FRAME,
    TWO_QUEUES,
    HostileDriver,
    Options,
    Pair,
    hostile_device,
    hostile_driver,
    open_pair,
    unharmed,
    until,
)

SMALL = Options(queue_size=16)
F = NetFeature
NEEDS_CSUM = 1
NONE, TCPV4, TCPV6, UDP_L4 = 0, 1, 4, 5
PLAIN = bytes(HEADER_SIZE)
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


def virtio_net_hdr(
    flags: int = 0, gso: int = 0, hdr_len: int = 0, gso_size: int = 0, start: int = 0, offset: int = 0, count: int = 0
) -> bytes:
    return struct.pack("<BBHHHHH", flags, gso, hdr_len, gso_size, start, offset, count)


def ends(pair: Pair, direction: str) -> tuple[MemoryPort, MemoryPort]:
    ports = pair.driver_port, pair.device_port
    return ports if direction == OUT else ports[::-1]


async def cross(pair: Pair, direction: str, frame: bytes, header: bytes = PLAIN) -> tuple[bytes, bytes]:
    """Send one frame and take what comes out at the other end. Raises trio.TooSlowError.

    What a header says of receive buffers means nothing to a port, and is not compared.
    """
    source, sink = ends(pair, direction)
    assert source.inject(frame, header)
    with trio.fail_after(1):
        got, frame = await sink.receive()
    return got[:10] + bytes(2), frame


# Frames made by scapy

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4 = IP(src="198.18.0.1", dst="198.18.0.2")
V6 = IPv6(src="2001:2::1", dst="2001:2::2")
BODY = random.Random(7).randbytes(3000)


def frames() -> Iterator[tuple[str, Packet]]:
    yield "arp", ETHER / ARP(psrc="198.18.0.1", pdst="198.18.0.2")
    yield "ping", ETHER / V4 / ICMP() / Raw(BODY[:56])
    yield "ping6", ETHER / V6 / ICMPv6EchoRequest(data=BODY[:56])
    yield "udp", ETHER / V4 / UDP(sport=1, dport=2) / Raw(BODY[:1000])
    yield "udp without checksum", ETHER / V4 / UDP(sport=1, dport=2, chksum=0) / Raw(BODY[:11])
    yield "udp with a wrong checksum", ETHER / V4 / UDP(sport=1, dport=2, chksum=0xBAD) / Raw(BODY[:11])
    yield "tcp", ETHER / V4 / TCP(sport=1, dport=2, flags="PA") / Raw(BODY[:1460])
    yield "tcp6", ETHER / V6 / TCP(sport=1, dport=2, flags="S", options=[("MSS", 1440), ("WScale", 7)])
    yield "ip options", ETHER / IP(dst="198.18.0.2", options=[IPOption_NOP()] * 8) / UDP() / Raw(BODY[:9])
    yield "vlan", ETHER / Dot1Q(vlan=5, prio=3) / V4 / UDP() / Raw(BODY[:1472])
    yield "two vlans", ETHER / Dot1AD(vlan=9) / Dot1Q(vlan=5) / V6 / UDP() / Raw(BODY[:64])
    yield "broadcast", Ether(dst="ff:ff:ff:ff:ff:ff") / V4 / UDP()
    yield "bare Ethernet header", Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", type=0x88B5)
    yield "802.3 length", ETHER / Raw(BODY[:40])
    yield "odd length", ETHER / Raw(BODY[:1])
    yield "garbage", Ether(BODY[:777])
    yield "IPv4 header that lies", ETHER / IP(ihl=15, len=9, version=7, chksum=1) / Raw(BODY[:30])
    for i, piece in enumerate(fragment(V4 / ICMP() / Raw(BODY), 1480)):
        yield f"fragment {i}", ETHER / piece
    for i, piece in enumerate(fragment6(V6 / IPv6ExtHdrFragment() / UDP() / Raw(BODY), 1280)):
        yield f"fragment6 {i}", ETHER / piece


FRAMES = dict(frames())


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-24", "NET-DRV-69", "NET-DEV-55", "NET-DRV-55", "NET-DEV-57")
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
async def test_frames_of_every_kind_cross_unchanged_and_nothing_is_claimed_of_them(
    options: Options, direction: str
) -> None:
    async with open_pair(options) as pair:
        for packet in FRAMES.values():
            frame = bytes(packet)
            assert await cross(pair, direction, frame) == (PLAIN, frame)
        assert pair.plug.received.drops == pair.settings.received.drops == {}
        counts = (pair.settings.sent, pair.plug.received) if direction == OUT else (
            pair.plug.sent,
            pair.settings.received,
        )  # fmt: skip
        assert {(t.packets, t.bytes) for t in counts} == {(len(FRAMES), sum(map(len, FRAMES.values())))}


@attrs.frozen
class Unfinished:
    """A packet that leaves work undone, and its header."""

    packet: Packet
    l4: type[Packet]
    gso: int = NONE
    mss: int = 0
    features: tuple[tuple[NetFeature, ...], tuple[NetFeature, ...]] = ((F.CSUM,), (F.GUEST_CSUM,))
    """What has to be agreed on: to the device, to the driver."""

    def emit(self) -> tuple[bytes, bytes]:
        """Header, and a frame whose checksum field holds the sum of the pseudo-header."""
        packet = self.packet.copy()
        layer = packet[self.l4]
        start = len(packet) - len(layer)
        offset = 16 if self.l4 is TCP else 6
        size = len(layer)
        layer.chksum = 0
        frame = bytearray(bytes(packet))
        addresses = frame[start - 8 : start] if packet.haslayer(IP) else frame[start - 32 : start]
        total = sum(struct.unpack(f">{len(addresses) // 2}H", addresses)) + (6 if self.l4 is TCP else 17) + size
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        frame[start + offset : start + offset + 2] = total.to_bytes(2, "big")
        header_end = start + (len(layer) - len(layer.payload))
        hdr_len = header_end if self.gso else 0
        return virtio_net_hdr(NEEDS_CSUM, self.gso, hdr_len, self.mss, start, offset), bytes(frame)


def finish(header: bytes, frame: bytes) -> bytes:
    """What completes the checksum: summed from csum_start to the end, put at csum_offset."""
    flags, _, _, _, start, offset, _ = struct.unpack("<BBHHHHH", header)
    assert flags == NEEDS_CSUM
    body = frame[start:] + bytes(len(frame[start:]) % 2)
    total = sum(struct.unpack(f">{len(body) // 2}H", body))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    at: int = start + offset
    done: bytes = frame[:at] + (~total & 0xFFFF).to_bytes(2, "big") + frame[at + 2 :]
    return done


BIG = random.Random(8).randbytes(60000)
PARTIAL = {
    "udp": Unfinished(ETHER / V4 / UDP(sport=1, dport=2) / Raw(BODY[:1000]), UDP),
    "tcp6": Unfinished(ETHER / V6 / TCP(sport=1, dport=2, flags="A") / Raw(BODY[:999]), TCP),
    "vlan": Unfinished(ETHER / Dot1Q(vlan=5) / V4 / TCP(flags="A") / Raw(BODY[:100]), TCP),
}
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
@pytest.mark.virtio("NET-DRV-43", "NET-DRV-44", "NET-DRV-45", "NET-DEV-43", "NET-DEV-44", "NET-DEV-45")
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
@pytest.mark.virtio("NET-DRV-27", "NET-DRV-28", "NET-DRV-29", "NET-DRV-30", "NET-DRV-32", "NET-DRV-46")
@pytest.mark.virtio("NET-DEV-32", "NET-DEV-33", "NET-DEV-34", "NET-DEV-36", "NET-DEV-37", "NET-DEV-51")
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("bit", SWITCHABLE, ids=TABLE.name)
async def test_without_a_feature_ordinary_frames_pass_and_no_header_asks_for_it(bit: int, direction: str) -> None:
    """What may not be left undone is not let in: the port is told so, and drops and counts it."""
    async with open_pair(Options(queue_size=16, control=True, features_off=(TABLE.name(bit),))) as pair, unharmed(pair):
        features = pair.virtio.features
        assert features == TABLE.prune(AGREED & ~(1 << bit))
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
async def test_what_a_port_can_not_do_is_not_agreed_on(caps: Offloads, end: str) -> None:
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


# Headers, seen from the other side of the ring


async def start(driver: HostileDriver, features: int | None = None, size: int = 2000, count: int = 8) -> list[int]:
    """Bring it up with ``count`` receive buffers of ``size`` bytes; their addresses."""
    await driver.start(features)
    addrs = [driver.put(b"\xee" * size) for _ in range(count)]
    for head, addr in enumerate(addrs):
        driver.rings[0].write(head, Desc(addr, size, WRITE))
    driver.rings[0].offer(*range(count))
    driver.kick(0)
    await trio.testing.wait_all_tasks_blocked()
    return [int(addr) for addr in addrs]


def received(driver: HostileDriver) -> list[bytes]:
    ring = driver.rings[0]
    return [
        bytes(driver.memory.view(ring.read(head).addr, size))  # type: ignore[arg-type]
        for head, size in map(ring.elem, range(ring.used_idx))
    ]


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-26", "NET-DEV-27", "NET-DEV-28", "NET-DEV-29", "NET-DEV-32")
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
    """Once it is known how many a frame needs: each costs time, also where it is given back."""
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
        assert pair.plug.sent.drops == {"stopped": 1}
        for head in range(3, 20):
            driver.send(Desc(driver.put(b"\xee" * 100), 100, WRITE), head=head, queue=0)
        pair.device_port.inject(FRAME)
        await trio.testing.wait_all_tasks_blocked()
        assert received(driver) == [virtio_net_hdr(count=1) + FRAME]


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-25", "NET-DRV-26", "SPLIT-DRV-4")
async def test_what_the_driver_sends_has_a_twelve_byte_header_with_num_buffers_zero_in_one_descriptor() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_device(pair) as device:
        header, frame = PARTIAL["udp"].emit()
        pair.driver_port.inject(frame, header[:10] + b"\7\7")
        await pair.device_port.receive()
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
@pytest.mark.virtio("NET-DEV-16", "NET-DEV-17", "NET-DEV-19")
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
        assert await pair.device_port.receive() == (wanted, FRAME)


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-65", "NET-DRV-67", "NET-DRV-68")
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
        header, frame = await pair.driver_port.receive()
        assert (header[:10], frame) == (wanted[:10], FRAME)


NOT_AGREED = {
    "UFO": virtio_net_hdr(NEEDS_CSUM, 3, 42, 1472, 34, 6),
    "tunnel over IPv4": virtio_net_hdr(NEEDS_CSUM, 0x20 | TCPV4, 54, 1460, 34, 16),
    "tunnel over IPv6": virtio_net_hdr(NEEDS_CSUM, 0x40 | TCPV4, 54, 1460, 34, 16),
    "ECN of a datagram": virtio_net_hdr(NEEDS_CSUM, 0x80 | UDP_L4, 42, 1460, 34, 6),
}


@pytest.mark.virtio("NET-DRV-31", "NET-DRV-35", "NET-DRV-39", "NET-DEV-35", "NET-DEV-38", "NET-DEV-39")
@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_what_there_is_no_feature_for_here_never_gets_into_a_ring(direction: str) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair):
        source, _ = ends(pair, direction)
        for header in NOT_AGREED.values():
            source.inject(bytes(FRAMES["tcp"]), header)
        await until(lambda: source.statistics().drops == {"offload": len(NOT_AGREED)})
        got = await cross(pair, direction, FRAME, virtio_net_hdr(0xFE & ~NEEDS_CSUM))
        assert got == (PLAIN, FRAME), "flags that nobody agreed on are cleared"


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
async def test_what_the_device_still_has_is_not_changed_under_it() -> None:
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


# Configuration


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-12", "NET-DRV-13", "NET-DRV-17")
async def test_the_driver_takes_mac_and_mtu_from_the_device() -> None:
    async with open_pair(Options(queue_size=16, mtu=4321)) as pair:
        assert pair.virtio.has(F.MAC)
        assert pair.virtio.has(F.MTU)
        assert (pair.driver_port.mac, pair.driver_port.mtu) == (pair.plug.mac, 4321)


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-14")
async def test_without_one_the_driver_makes_itself_a_local_unicast_address() -> None:
    async with open_pair(Options(queue_size=16, features_off=("MAC", "MTU"), devices=2)) as pair:
        macs = [pair.world.memory_port(name, "driver").mac for name in pair.world.devices]
        assert len(set(macs)) == 2
        for mac in macs:
            assert mac is not None
            assert mac[0] & 3 == 2
        assert pair.driver_port.mtu is None


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-15", "NET-DRV-16", "CFGCHG-DEV-1")
@pytest.mark.parametrize("off", [(), ("STATUS",)])
async def test_the_carrier_follows_the_status_field_where_there_is_one(off: tuple[str, ...]) -> None:
    async with open_pair(Options(queue_size=16, features_off=off)) as pair, unharmed(pair):
        assert pair.driver_port.carrier
        config = pair.vhost.config
        pair.vhost.set_config(config[:6] + b"\0\0" + config[8:])
        await trio.testing.wait_all_tasks_blocked()
        assert pair.driver_port.carrier == bool(off)
        pair.vhost.set_config(config)
        await trio.testing.wait_all_tasks_blocked()
        assert pair.driver_port.carrier


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-4", "NET-DEV-5", "NET-DEV-6")
@pytest.mark.parametrize("mtu", [68, 1280, 1500, 9000, 65521])
async def test_the_mtu_is_reported_and_does_not_change(mtu: int) -> None:
    options = Options(queue_size=4, mtu=mtu)
    async with open_pair(options) as pair, hostile_driver(pair) as driver:
        before = driver.config(10, 2)
        await driver.start()
        pair.vhost.fail("for once")
        await driver.start()
        assert before == driver.config(10, 2) == mtu


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-7", "NET-DEV-8", "NET-DRV-18", "NET-DRV-19")
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("mtu", "rx_buffer"), [(68, None), (1500, None), (1500, 256), (9000, None), (9000, 1000)])
async def test_frames_up_to_the_mtu_cross_and_larger_ones_are_dropped(
    mtu: int, rx_buffer: int | None, direction: str
) -> None:
    options = Options(queue_size=64, mtu=mtu, rx_buffer=rx_buffer)
    async with open_pair(options) as pair:
        tag = bytes(Ether() / Dot1Q(vlan=1, type=0x88B5))
        whole = FRAME[:ETH_HLEN] + BIG[:mtu]
        tagged = tag + BIG[:mtu]
        for frame in (whole, tagged):
            assert await cross(pair, direction, frame) == (PLAIN, frame)
        source, _ = ends(pair, direction)
        source.inject(tagged + b"!")
        await until(lambda: source.statistics().drops == {"too_long": 1})


# Under load


@pytest.mark.every_transport
@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
async def test_both_directions_carry_a_megabyte_at_once(options: Options) -> None:
    async with open_pair(options) as pair:
        await pair.transfer()
        sent = pair.settings.sent, pair.plug.sent
        got = pair.plug.received, pair.settings.received
        assert [(t.packets, t.bytes, t.drops) for t in sent] == [(t.packets, t.bytes, t.drops) for t in got]
        for queue in pair.virtio.queues:
            assert sum(queue.batches) <= sum(t.packets for t in got)


@pytest.mark.every_transport
async def test_a_burst_costs_few_notifications() -> None:
    async with open_pair() as pair:
        kicks = sum(queue.kicks for queue in pair.vhost.queues)
        for _ in range(1000):
            pair.driver_port.inject(FRAME)
        await until(lambda: pair.plug.received.packets == 1000)
        assert sum(queue.kicks for queue in pair.vhost.queues) - kicks < 50


@pytest.mark.every_transport
async def test_what_is_sent_goes_through_the_buffers_used_last(monkeypatch: pytest.MonkeyPatch) -> None:
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
