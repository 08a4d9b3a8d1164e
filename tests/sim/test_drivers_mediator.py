"""The mediated design: two drivers, each with a device of its own, and one copy between their rings."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Literal

import attrs
import pytest
import trio
import trio.testing
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from drivers.contracts.ports import ETH_HLEN, HEADER_SIZE
from drivers.mediator import Mediator, MediatorStatistics
from rings.features import RingFeature
from rings.layout import WRITE
from rings.status import Status
from rings.testing import Desc
from support.rigs.frames import DROPPED, Build
from support.topologies import TWO_HOSTS
from vnet.ends.base import EndsType
from vnet.ends.mediated import MediatorEnd
from vnet.ends.net.end import NetSpec, PortSpec, mediate_net, net_specs, open_net
from vnet.errors import ConfigError
from vnet.ports.packet.memory import MemoryPort
from vnet.ports.packet.open import PortConfig
from vnet.system.world import LOCAL, Device, open_world
from vnet.testing import FRAME, Options, Pair, bounded, hostile_driver, until
from vnet.topology import Topology, parse

BOTH = pytest.mark.parametrize("way", [0, 1], ids=["to the endpoint", "from the endpoint"])
OVER = pytest.mark.parametrize("transport", ["pci", "epf_mailbox", "ntb"], indirect=True)
NEEDS_CSUM = 1
MSS = 1400
HEADER = bytes(HEADER_SIZE)
TSO = ("HOST_TSO4", "HOST_TSO6", "HOST_USO", "GUEST_TSO4", "GUEST_TSO6", "GUEST_USO4", "GUEST_USO6")
CSUM = ("CSUM", "GUEST_CSUM", *TSO)
LARGE = 2048
"""Bytes of a receive buffer, where large frames have to be spread over many."""


@attrs.frozen
class Mediated(Options):
    """What differs from the usual mediated pair."""

    queue_size: int = 64
    local_features_off: tuple[str, ...] = ()
    rings: tuple[Literal["split", "packed"], Literal["split", "packed"]] = ("split", "split")
    """Of the other host's driver, and of the endpoint's own."""

    def topology(self) -> Topology:
        made = super().topology()
        devices = {
            name: attrs.evolve(
                spec,
                mode="mediated",
                local_features_off=self.local_features_off,
                ring=self.rings[0],
                local_ring=self.rings[1],
            )
            for name, spec in net_specs(made).items()
        }
        return attrs.evolve(made, devices=devices).check("test")


class MediatedPair(Pair):
    """A pair whose device has another driver behind it."""

    @property
    def local(self) -> Device:
        """The device of the endpoint's own driver."""
        return self.world.devices[f"net0{LOCAL}"]

    @property
    def mediator(self) -> Mediator:
        end = self.device.device_end
        assert isinstance(end, MediatorEnd)
        return end.settings

    @property
    def ports(self) -> tuple[MemoryPort, MemoryPort]:
        return self.driver_port, self.device_port

    def statistics(self, way: int) -> MediatorStatistics:
        return self.mediator.statistics[(self.device.name, self.local.name)[way]]


@asynccontextmanager
async def open_mediated(options: Mediated = Mediated()) -> AsyncIterator[MediatedPair]:
    @asynccontextmanager
    async def opener(spec: PortSpec, config: PortConfig) -> AsyncIterator[MemoryPort]:
        own = config.mac is not None and config.mac[-1] == 1
        yield MemoryPort(options.driver_caps if own else options.device_caps, capacity=options.capacity)

    ends = {"net": EndsType(NetSpec, partial(open_net, opener=opener), mediate_net)}
    async with open_world(options.topology(), "test", ends) as world:
        await world.wait_up()
        await trio.testing.wait_all_tasks_blocked()
        yield MediatedPair(world)


async def cross(pair: MediatedPair, way: int, frame: bytes = FRAME, header: bytes = HEADER) -> tuple[bytes, bytes]:
    """Send one frame, and what arrives of it, without num_buffers."""
    source, sink = pair.ports[way], pair.ports[1 - way]
    assert source.inject(frame, header)
    with bounded():
        head, came = await sink.receive()
    await trio.testing.wait_all_tasks_blocked()
    return head[:10] + bytes(2), came


async def drained(port: MemoryPort) -> list[tuple[bytes, bytes]]:
    await trio.testing.wait_all_tasks_blocked()
    frames = []
    while True:
        try:
            frames.append(port.receive_nowait())
        except trio.WouldBlock:
            return frames
        await trio.testing.wait_all_tasks_blocked()


# Frames


@OVER
@BOTH
async def test_frames_arrive_unchanged_and_each_byte_is_copied_once(way: int) -> None:
    async with open_mediated() as pair:
        frames = [FRAME + bytes([n]) * (n * 17 % 1400) for n in range(200)]
        for frame in frames:
            assert await cross(pair, way, frame) == (HEADER, frame)
        figures = pair.statistics(way)
        assert figures.buffers == len(frames)
        # Batches of one: counted where they came from, and where they went.
        source, sink = (pair.device.vhost, pair.local.vhost)[:: 1 - 2 * way]
        assert source.queues[1].batches[0] == sink.queues[0].batches[0] == len(frames)
        assert figures.copied_bytes == figures.payload_bytes == sum(HEADER_SIZE + len(frame) for frame in frames)
        assert not figures.drops


@OVER
async def test_a_megabyte_in_each_direction_at_once() -> None:
    async with open_mediated() as pair:
        await trio.testing.wait_all_tasks_blocked()
        before = pair.footprint()
        await pair.transfer()
        await trio.testing.wait_all_tasks_blocked()
        assert pair.footprint().within(before)
        for way in (0, 1):
            figures = pair.statistics(way)
            assert figures.copied_bytes == figures.payload_bytes > 1 << 20


@pytest.mark.parametrize("rings", [("packed", "split"), ("split", "packed"), ("packed", "packed")])
async def test_queues_may_be_of_another_format_on_either_side(
    rings: tuple[Literal["split", "packed"], Literal["split", "packed"]],
) -> None:
    async with open_mediated(Mediated(rings=rings, queue_size=8)) as pair:
        packed = [bool(device.vhost.features >> RingFeature.RING_PACKED & 1) for device in (pair.device, pair.local)]
        assert packed == [ring == "packed" for ring in rings]
        await pair.transfer(1 << 18)
        for way in (0, 1):
            figures = pair.statistics(way)
            assert figures.copied_bytes == figures.payload_bytes > 1 << 18


async def test_a_large_frame_crosses_as_it_is_where_both_sides_can_finish_it() -> None:
    async with open_mediated() as pair:
        header, frame = large("tso4")
        assert await cross(pair, 0, frame, header) == (header, frame)


# Features that one side alone has


def large(kind: str, size: int = 20_000) -> tuple[bytes, bytes]:
    """A GSO frame and its virtio_net_hdr."""
    v6 = kind.endswith("6")
    packet: Packet = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
    packet = packet / (IPv6(src="2001:2::1", dst="2001:2::2") if v6 else IP(src="198.18.0.1", dst="198.18.0.2"))
    start = ETH_HLEN + (40 if v6 else 20)
    tcp = kind.startswith("tso")
    packet = packet / (TCP(sport=1, dport=2, seq=1 << 31, flags="PA") if tcp else UDP(sport=1, dport=2))
    gso, field, hlen = (4 if v6 else 1, 16, 20) if tcp else (5, 6, 8)
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    return struct.pack("<BBHHHHH", NEEDS_CSUM, gso, start + hlen, MSS, start, field, 0), bytes(packet / data)


def payload(frame: bytes) -> bytes:
    """What TCP or UDP carries; its checksum is the one that scapy makes."""
    packet = Ether(frame)
    layer = TCP if TCP in packet else UDP
    again = packet.copy()
    del again[layer].chksum
    assert Ether(bytes(again))[layer].chksum == packet[layer].chksum
    return bytes(packet[layer].payload)


@BOTH
@pytest.mark.parametrize("off", ["features_off", "local_features_off"])
@pytest.mark.parametrize("kind", ["tso4", "tso6", "uso4", "uso6"])
async def test_a_large_frame_is_cut_for_a_side_that_takes_none(way: int, off: str, kind: str) -> None:
    """GSO in, segments with checksums out; in the other direction nothing large is sent to begin with."""
    names = [name for name in CSUM if name.startswith("GUEST")]
    async with open_mediated(Mediated(**{off: tuple(names)})) as pair:  # type: ignore[arg-type]
        header, frame = large(kind)
        source, sink = pair.ports[way], pair.ports[1 - way]
        source.inject(frame, header)
        came = await drained(sink)
        cuts = way == (off == "features_off")
        if not cuts:
            # To the side that has everything: whole.
            assert [(head[:10], body) for head, body in came] == [(header[:10], frame)]
            return
        assert len(came) == -(-20_000 // MSS)
        assert all(not head[0] and not head[1] for head, _ in came)
        assert b"".join(payload(body) for _, body in came) == frame[-20_000:]
        figures = pair.statistics(way)
        assert figures.buffers == len(came)
        assert figures.copied_bytes == figures.payload_bytes == sum(HEADER_SIZE + len(body) for _, body in came)


@BOTH
@pytest.mark.parametrize("off", ["features_off", "local_features_off"])
async def test_a_checksum_is_filled_in_for_a_side_that_checks_it(way: int, off: str) -> None:
    async with open_mediated(Mediated(**{off: CSUM})) as pair:  # type: ignore[arg-type]
        _, frame = large("tso4", 1000)
        header = struct.pack("<BBHHHHH", NEEDS_CSUM, 0, 0, 0, 34, 16, 0)
        pseudo = bytearray(frame)
        pseudo[50:52] = (sum(struct.unpack(">4H", frame[26:34])) + 6 + 1020).__mod__(0xFFFF).to_bytes(2, "big")
        cut = way == (off == "features_off")
        source = pair.ports[way]
        assert source.offloads.csum is cut, "the side without it sends nothing unfinished"
        if cut:
            head, came = await cross(pair, way, bytes(pseudo), header)
            assert (head, came) == (HEADER, frame)
        else:
            assert await cross(pair, way, frame) == (HEADER, frame)


@BOTH
@pytest.mark.parametrize("off", ["features_off", "local_features_off"])
async def test_segments_keep_their_checksum_undone_for_a_side_that_does_only_that(way: int, off: str) -> None:
    async with open_mediated(Mediated(**{off: TSO})) as pair:  # type: ignore[arg-type]
        if way != (off == "features_off"):
            return
        header, frame = large("tso6")
        pair.ports[way].inject(frame, header)
        came = await drained(pair.ports[1 - way])
        assert len(came) == -(-20_000 // MSS)
        assert all(head[:2] == bytes((NEEDS_CSUM, 0)) for head, _ in came)
        assert b"".join(body[74:] for _, body in came) == frame[-20_000:]


@BOTH
@pytest.mark.parametrize("off", ["features_off", "local_features_off"])
@pytest.mark.parametrize("rx_buffer", [None, LARGE])
async def test_mergeable_buffers_may_be_on_one_side_only(way: int, off: str, rx_buffer: int | None) -> None:
    async with open_mediated(Mediated(**{off: ("MRG_RXBUF",)}, rx_buffer=rx_buffer)) as pair:  # type: ignore[arg-type]
        header, frame = large("tso4")
        pair.ports[way].inject(frame, header)
        pair.ports[way].inject(FRAME)
        came = await drained(pair.ports[1 - way])
        assert [body for _, body in came] == [frame, FRAME]
        merged = rx_buffer is not None and (off == "features_off") is (way == 0)
        receiving = (pair.local if way == 0 else pair.device).vhost.queues[0]
        assert receiving.statistics().returned == (-(-(HEADER_SIZE + len(frame)) // LARGE) + 1 if merged else 2)
        assert not pair.statistics(way).drops


@BOTH
@pytest.mark.parametrize("off", ["features_off", "local_features_off"])
@pytest.mark.parametrize("feature", ["INDIRECT_DESC", "EVENT_IDX", "MTU", "STATUS"])
async def test_any_other_feature_may_be_on_one_side_only(way: int, off: str, feature: str) -> None:
    async with open_mediated(Mediated(**{off: (feature,)})) as pair:  # type: ignore[arg-type]
        agreed = [device.vhost.features for device in (pair.device, pair.local)]
        assert agreed[0] != agreed[1]
        header, frame = large("tso4")
        for _ in range(100):
            assert await cross(pair, way, FRAME) == (HEADER, FRAME)
        assert await cross(pair, way, frame, header) == (header, frame)


async def test_a_frame_that_takes_more_segments_than_there_are_buffers_is_delivered_whole_all_the_same() -> None:
    """It waits for buffers in the middle, and goes on where it was: no segment is lost, none comes twice."""
    names = tuple(name for name in CSUM if name.startswith("GUEST"))
    async with open_mediated(Mediated(queue_size=4, local_features_off=names)) as pair:
        header, frame = large("tso4", 60_000)
        for _ in range(3):
            pair.driver_port.inject(frame, header)
        came = [payload(body) for _, body in await drained(pair.device_port)]
        assert b"".join(came) == frame[-60_000:] * 3


# Resets


async def rebind(device: Device) -> None:
    bus, virtio = device.root.virtio, device.virtio
    assert virtio is not None
    await bus.rebind(virtio)


@OVER
@pytest.mark.parametrize("which", [0, 1], ids=["remote", "local"])
async def test_a_reset_of_one_side_is_a_link_that_goes_down_and_comes_up_for_the_other(which: int) -> None:
    async with open_mediated() as pair:
        devices, before = (pair.device, pair.local), pair.footprint()
        reset, other = devices[which], devices[1 - which]
        port = pair.ports[1 - which]
        assert port.carrier
        seen: list[bool] = []

        def set_carrier(up: bool) -> None:
            seen.append(up)
            port.carrier = up

        port.set_carrier = set_carrier  # type: ignore[method-assign]

        async def load() -> None:
            while True:
                for end in pair.ports:
                    end.inject(FRAME)
                    end._outbound.clear()  # it never is full
                await trio.sleep(0.0001)

        resets = other.vhost.resets
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            for _ in range(5):
                await trio.sleep(0.005)
                seen.clear()
                await rebind(reset)
                await pair.world.wait_up()
                await until(lambda: port.carrier and seen[-1:] == [True])
                assert False in seen
            nursery.cancel_scope.cancel()
        assert other.vhost.resets == resets, "the other side was not reset"
        await drained(pair.ports[0])
        await drained(pair.ports[1])
        for way in (0, 1):
            assert await cross(pair, way) == (HEADER, FRAME)
        assert pair.footprint().within(before)


@pytest.mark.parametrize("transport", ["pci", "epf_mailbox"], indirect=True)
async def test_a_link_that_goes_down_under_load_is_no_fault_of_the_other_side() -> None:
    async with open_mediated() as pair:

        async def load() -> None:
            while True:
                for end in pair.ports:
                    end.inject(FRAME)
                    end._outbound.clear()
                await trio.sleep(0.0001)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            for _ in range(5):
                await trio.sleep(0.005)
                pair.link.bring_down()
                await trio.sleep(0.005)
                assert not pair.device_port.carrier
                pair.link.bring_up()
                await pair.world.wait_up()
            nursery.cancel_scope.cancel()
        assert (pair.local.vhost.resets, list(pair.local.vhost.failures)) == (1, [])
        await pair.transfer()


# Hostile drivers


@OVER
@pytest.mark.parametrize("queue", [0, 1], ids=["receiveq", "transmitq"])
@pytest.mark.hostile("R01")
async def test_a_driver_that_breaks_its_ring_breaks_its_own_device_alone(queue: int) -> None:
    async with open_mediated() as pair:
        async with hostile_driver(pair) as driver:
            await driver.start()
            driver.rings[queue].offer(9999)
            driver.kick(queue)
            pair.device_port.inject(FRAME)  # looks at the receiveq
            await until(lambda: pair.vhost.status & Status.NEEDS_RESET)
            assert not pair.local.vhost.status & Status.NEEDS_RESET
            assert pair.local.vhost.resets == 1
            assert not pair.local.vhost.failures
        await drained(pair.device_port)
        for way in (0, 1):
            await drained(pair.ports[1 - way])
            assert await cross(pair, way) == (HEADER, FRAME)


async def test_buffers_that_no_driver_should_give_come_back_empty_and_hold_nothing_up() -> None:
    async with open_mediated() as pair, hostile_driver(pair) as driver:
        await driver.start()
        received = driver.alloc(4096)
        driver.send(Desc(driver.put(FRAME), len(FRAME)), head=0, queue=0)
        driver.send(Desc(received, 4096, WRITE), head=1, queue=0)
        driver.send(Desc(driver.alloc(64), 64, WRITE), head=0)
        driver.send(Desc(driver.put(HEADER + FRAME), HEADER_SIZE + len(FRAME)), head=1)
        with bounded():
            assert (await pair.device_port.receive())[1] == FRAME
        pair.device_port.inject(FRAME)
        await until(lambda: driver.rings[0].used_idx == 2)
        assert driver.get(received + HEADER_SIZE, len(FRAME)) == FRAME  # type: ignore[arg-type]
        assert pair.statistics(0).drops == {"writable": 1}
        assert not pair.vhost.status & Status.NEEDS_RESET


@pytest.mark.parametrize("start", [35, 4000, 65_000])
async def test_a_header_that_points_anywhere_costs_its_own_frame(start: int) -> None:
    """Also one that says the transport header is where the frame ends."""
    names = tuple(name for name in CSUM if name.startswith("GUEST"))
    async with open_mediated(Mediated(local_features_off=names)) as pair, hostile_driver(pair) as driver:
        await driver.start()
        _, frame = large("tso4", max(0, start + 2 - 54))
        bad = struct.pack("<BBHHHHH", NEEDS_CSUM, 1, 0, MSS, start, 0, 0) + frame[: start + 2]
        driver.send(Desc(driver.put(bad), len(bad)), head=0)
        driver.send(Desc(driver.put(HEADER + FRAME), HEADER_SIZE + len(FRAME)), head=1)
        with bounded():
            assert (await pair.device_port.receive())[1] == FRAME
        assert pair.statistics(0).drops == {"bad_gso": 1}


@pytest.mark.hostile("N01", "N02", "N03", "N04", "N05")
@pytest.mark.parametrize("off", [(), CSUM], ids=["to one that finishes frames", "to one that does not"])
@pytest.mark.parametrize(("row", "cause", "build"), DROPPED.values(), ids=[f"{v[0]} {k}" for k, v in DROPPED.items()])
async def test_a_bad_frame_is_dropped_and_counted_once_and_both_devices_go_on(
    row: str, cause: str, build: Build, off: tuple[str, ...]
) -> None:
    guest = tuple(name for name in off if name.startswith("GUEST"))
    async with open_mediated(Mediated(local_features_off=guest)) as pair, hostile_driver(pair) as driver:
        await driver.start()
        descs = build(driver)
        for turn in range(2):
            driver.send(*descs)
            with bounded():
                await trio.testing.wait_all_tasks_blocked()
            drops = pair.statistics(0).drops
            assert list(drops.values()) == [turn + 1]
            assert set(drops) <= set(cause.split())
            assert driver.rings[1].elem(turn) == (0, 0)
        driver.send(Desc(driver.put(HEADER + FRAME), HEADER_SIZE + len(FRAME)), head=8)
        with bounded():
            assert (await pair.device_port.receive())[1] == FRAME


# What can't be


@pytest.mark.parametrize(
    ("device", "why"),
    [
        (
            'transport = "mmio"\nhost = "rc"',
            "must be direct: transport mmio is within one host: there is nothing to mediate between",
        ),
        (
            'type = "blk"\nlink = "pcie0"',
            "must be direct: a blk device has no peer driver at its own end: use direct",
        ),
    ],
    ids=["mmio", "blk"],
)
def test_what_has_nobody_at_its_other_end_is_refused_with_the_reason(device: str, why: str) -> None:
    text = (
        TWO_HOSTS
        + f"""\
[devices.it]
mode = "mediated"
{device}
"""
    )
    with pytest.raises(ConfigError) as caught:
        parse(text, "test.toml")
    error = caught.value
    assert (error.file, error.path, error.value, error.why) == ("test.toml", "devices.it.mode", "mediated", why)


def test_a_local_feature_can_be_switched_off_in_mediated_mode_only() -> None:
    with pytest.raises(ConfigError, match="requires mode = 'mediated': only there is a local driver"):
        parse(
            '[hosts.rc]\n[devices.net0]\ntransport="mmio"\nhost="rc"\nlocal_features_off=["CSUM"]\n'
            'driver={kind="memory"}\ndevice={kind="memory"}',
            "test.toml",
        )
