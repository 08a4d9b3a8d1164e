"""The mediated design: two drivers, each with a device of its own, and one copy between their rings."""

from __future__ import annotations

import struct
from typing import Literal

import pytest
import trio
import trio.testing
from scapy.layers.inet import TCP, UDP
from scapy.layers.l2 import Ether

from drivers.contracts.ports import HEADER_SIZE
from rings.features import RingFeature
from support.rigs.mediated import CSUM, HEADER, OVER, Mediated, cross, drained, large, open_mediated
from support.topologies import TWO_HOSTS
from vnet.errors import ConfigError
from vnet.testing import FRAME
from vnet.topology import parse

BOTH = pytest.mark.parametrize("way", [0, 1], ids=["to the endpoint", "from the endpoint"])
NEEDS_CSUM = 1
MSS = 1400
TSO = ("HOST_TSO4", "HOST_TSO6", "HOST_USO", "GUEST_TSO4", "GUEST_TSO6", "GUEST_USO4", "GUEST_USO6")
LARGE = 2048
"""Bytes of a receive buffer, where large frames have to be spread over many."""

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
        # Batches of one: counted at the source and at the sink.
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


def payload(frame: bytes) -> bytes:
    """The payload of TCP or UDP, with scapy's checksum."""
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
def test_a_request_without_a_peer_at_its_other_end_is_refused_with_the_reason(device: str, why: str) -> None:
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
