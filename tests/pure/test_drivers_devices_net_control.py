"""Commands of a network device's control queue, from and to bytes, and the filter that they set up."""

from __future__ import annotations

import itertools
import random

import pytest

from drivers.contracts.ports import Offloads
from drivers.devices.net.coalescing import Coalescing, QueueCoalescing
from drivers.devices.net.control import COMMAND_MAX, TABLE_MAX, MacTable, NetCommand, NetControl, changes, emit, parse
from drivers.devices.net.filter import KNOWN_MAX, FrameFilter, Reception
from drivers.devices.net.header import HeaderRules
from drivers.devices.net.layout import (
    CONTROLLED,
    SUPPORTED,
    TABLE,
    Duplex,
    NetConfig,
    NetFeature,
    device_offloads,
    pairs_of,
    queue_names,
)
from drivers.devices.net.statistics import QueueTypes
from drivers.devices.net.steering import HashConfig, RssConfig
from rings.features import bits, mask

F = NetFeature
OWN, OTHER, GROUP = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x09", b"\x01\0\x5e\0\0\x01"
BROADCAST = b"\xff" * 6
PEER = b"\x02\0\0\0\0\x02"

COMMANDS = [
    *(NetControl(command, on) for command in list(NetCommand)[:6] for on in (False, True)),
    NetControl(NetCommand.MAC_TABLE_SET, MacTable()),
    NetControl(NetCommand.MAC_TABLE_SET, MacTable(frozenset({OWN, OTHER}), frozenset({GROUP, BROADCAST}))),
    NetControl(
        NetCommand.MAC_TABLE_SET, MacTable(frozenset(bytes((2, 0, 0, 0, *divmod(i, 256))) for i in range(TABLE_MAX)))
    ),
    NetControl(NetCommand.MAC_ADDR_SET, OTHER),
    NetControl(NetCommand.VLAN_ADD, 0),
    NetControl(NetCommand.VLAN_DEL, 4095),
    NetControl(NetCommand.ANNOUNCE_ACK),
    NetControl(NetCommand.VQ_PAIRS_SET, 1),
    NetControl(NetCommand.VQ_PAIRS_SET, 0x8000),
    NetControl(NetCommand.RSS_CONFIG, RssConfig(HashConfig(1, bytes(40)), (0, 2, 1, 1), 3, 4)),
    NetControl(NetCommand.RSS_CONFIG, RssConfig(HashConfig(0x1FF, b""), (0,) * 128, 0x7FFF, 0xFFFF)),
    NetControl(NetCommand.HASH_CONFIG, HashConfig(0x1FF, bytes(range(40)))),
    NetControl(NetCommand.HASH_CONFIG, HashConfig(0, b"")),
    NetControl(NetCommand.GUEST_OFFLOADS_SET, 0),
    NetControl(NetCommand.GUEST_OFFLOADS_SET, mask({1, 7, 8, 9, 54, 55})),
    *(
        NetControl(command, Coalescing(packets, usecs))
        for command in (NetCommand.COAL_TX_SET, NetCommand.COAL_RX_SET)
        for packets, usecs in ((0, 0), (16, 50), (0xFFFF_FFFF, 0xFFFF_FFFF))
    ),
    NetControl(NetCommand.COAL_VQ_SET, QueueCoalescing(0xFFFF, Coalescing(1, 2))),
    NetControl(NetCommand.COAL_VQ_GET, 0xFFFE),
    NetControl(NetCommand.STATS_QUERY),
    NetControl(NetCommand.STATS_GET, ()),
    NetControl(NetCommand.STATS_GET, (QueueTypes(0xFFFF, (1 << 64) - 1), QueueTypes(1, 1 << 16))),
]


@pytest.mark.virtio("NET-DRV-81")
@pytest.mark.parametrize("control", COMMANDS, ids=lambda c: f"{c.command.name} {str(c.value)[:20]}")
def test_a_command_comes_out_as_it_went_in_and_needs_its_feature(control: NetControl) -> None:
    data = emit(control)
    assert len(data) <= COMMAND_MAX
    assert parse(data, SUPPORTED) == control
    assert parse(data, SUPPORTED & ~(1 << control.command.feature)) is None


def test_every_command_was_among_these() -> None:
    assert {control.command for control in COMMANDS} == set(NetCommand)


def table(*halves: tuple[int, bytes]) -> bytes:
    return b"\1\0" + b"".join(count.to_bytes(4, "little") + macs for count, macs in halves)


MALFORMED = {
    "nothing": b"",
    "class alone": b"\0",
    "unknown class": b"\x0a\0\0",
    "largest class": b"\xff\xff" + bytes(8),
    "unknown command": b"\0\6\1",
    "switch without a value": b"\0\0",
    "switch that is neither": b"\0\0\2",
    "switch of two bytes": b"\0\0\1\0",
    "no table": table(),
    "half a table": table((0, b"")),
    "half a count": b"\1\0\0\0\0\0\0\0",
    "more entries than bytes": table((2, OWN), (0, b"")),
    "as many entries as a count holds": table((0xFFFF_FFFF, OWN), (0, b"")),
    "entries that wrap 32 bits": table((0x2AAA_AAAB, OWN), (0, b"")),
    "second half short": table((1, OWN), (2, GROUP)),
    "bytes behind the table": table((0, b""), (0, b"\0")),
    "group among stations": table((1, GROUP), (0, b"")),
    "station among groups": table((0, b""), (1, OWN)),
    "one entry too many": table((TABLE_MAX + 1, OWN * (TABLE_MAX + 1)), (0, b"")),
    "address of five bytes": b"\1\1" + OWN[:5],
    "address of seven bytes": b"\1\1" + OWN + b"\0",
    "group as an address": b"\1\1" + GROUP,
    "broadcast as an address": b"\1\1" + BROADCAST,
    "no address": b"\1\1" + bytes(6),
    "VLAN of one byte": b"\2\0\1",
    "VLAN of three bytes": b"\2\0\1\0\0",
    "VLAN 4096": b"\2\0\0\x10",
    "largest VLAN": b"\2\1\xff\xff",
    "acknowledgement with data": b"\3\0\0",
    "no pair": b"\4\0\0\0",
    "pairs beyond any device": b"\4\0\1\x80",
    "pairs of one byte": b"\4\0\1",
    "RSS": b"\4\1" + bytes(44),
    "hash configuration": b"\4\2" + bytes(53),
    "offloads of seven bytes": b"\5\0" + bytes(7),
    "offloads of nine bytes": b"\5\0" + bytes(9),
    "an offload that is none": b"\5\0" + (1 << 5).to_bytes(8, "little"),
    "UFO": b"\5\0" + (1 << 10).to_bytes(8, "little"),
    "coalescing of seven bytes": b"\6\0" + bytes(7),
    "coalescing of nine bytes": b"\6\1" + bytes(9),
    "coalescing of a queue without its index": b"\6\2" + bytes(8),
    "coalescing of nothing": b"\6\3",
    "coalescing of half a queue": b"\6\3\0\0\0",
    "unknown coalescing": b"\6\4" + bytes(8),
    "types of statistics with data": b"\x08\0\0",
    "statistics of half a queue": b"\x08\1" + bytes(8),
    "statistics of a queue and a half": b"\x08\1" + bytes(24),
    "unknown statistics": b"\x08\2" + bytes(16),
}


@pytest.mark.hostile("N07")
@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_an_unknown_command_has_no_value(data: bytes) -> None:
    assert parse(data, SUPPORTED) is None


@pytest.mark.hostile("N07")
def test_no_bytes_of_any_kind_raise() -> None:
    rng = random.Random(7)
    for _ in range(20_000):
        head = bytes((rng.randrange(10), rng.randrange(7)))
        parse(head + rng.randbytes(rng.randrange(20)), SUPPORTED)


# The filter


def tagged(vid: int, to: bytes = OWN) -> bytes:
    return to + PEER + b"\x81\0" + (0xE000 | vid).to_bytes(2, "big")


def plain(to: bytes) -> bytes:
    return to + PEER + b"\x08\0\x45\0"


R = Reception
U, M, B, V = "filter_unicast", "filter_multicast", "filter_broadcast", "filter_vlan"
FILTERS: dict[str, tuple[Reception, dict[bytes, str]]] = {
    "to begin with": (R(), {plain(OWN): "", plain(OTHER): U, plain(GROUP): M, plain(BROADCAST): ""}),
    "promiscuous": (
        R(promisc=True, nomulti=True, nouni=True, nobcast=True, vlans=frozenset()),
        {plain(OWN): "", plain(OTHER): "", plain(GROUP): "", plain(BROADCAST): "", tagged(5): ""},
    ),
    "all groups": (R(allmulti=True), {plain(OTHER): U, plain(GROUP): "", plain(BROADCAST): ""}),
    "all stations": (R(alluni=True), {plain(OTHER): "", plain(GROUP): M}),
    "no groups": (
        R(nomulti=True, allmulti=True, multicast=frozenset({GROUP})),
        {plain(GROUP): M, plain(BROADCAST): "", plain(OWN): ""},
    ),
    "no stations": (
        R(nouni=True, alluni=True, unicast=frozenset({OTHER})),
        {plain(OTHER): U, plain(OWN): U, plain(BROADCAST): ""},
    ),
    "no broadcasts": (R(nobcast=True, allmulti=True), {plain(BROADCAST): B, plain(GROUP): "", plain(OWN): ""}),
    "tables": (
        R(unicast=frozenset({OTHER}), multicast=frozenset({GROUP})),
        {plain(OTHER): "", plain(GROUP): "", plain(b"\x02\0\0\0\0\x08"): U, plain(b"\x01\0\x5e\0\0\x02"): M},
    ),
    "VLANs": (
        R(vlans=frozenset({5, 4095})),
        {tagged(5): "", tagged(4095): "", tagged(6): V, tagged(0): V, plain(OWN): "", tagged(5, OTHER): U},
    ),
    "no VLAN at all": (R(vlans=frozenset()), {tagged(5): V, plain(OWN): "", tagged(5)[:15]: V, tagged(5)[:14]: V}),
    "any VLAN": (R(), {tagged(5): "", tagged(0): ""}),
}


@pytest.mark.virtio("NET-DEV-74", "NET-DEV-75", "NET-DEV-77", "NET-DEV-79", "NET-DEV-81", "NET-DEV-82", "NET-DEV-83")
@pytest.mark.virtio("NET-DEV-85", "NET-DEV-86", "NET-DEV-88", "NET-DEV-89", "NET-DEV-93", "NET-DEV-94", "NET-DEV-95")
@pytest.mark.virtio("NET-DEV-96", "NET-DEV-97")
@pytest.mark.parametrize(("reception", "verdicts"), FILTERS.values(), ids=FILTERS)
def test_a_filter_lets_in_what_it_says_and_names_the_cause_of_the_rest(
    reception: Reception, verdicts: dict[bytes, str]
) -> None:
    frames = FrameFilter(OWN, reception)
    for _ in range(2):  # judged, then remembered
        for head, cause in verdicts.items():
            assert (frames.verdict(head) if frames.verdict(head) is not None else frames.judge(head)) == cause
    assert frames.idle is (reception.promisc or reception == R(allmulti=True, alluni=True))


def test_the_memory_of_a_filter_is_bounded() -> None:
    frames = FrameFilter(OWN, Reception())
    for i in range(3 * KNOWN_MAX):
        frames.judge(i.to_bytes(16, "big"))
    assert len(frames.known) <= KNOWN_MAX


def test_commands_lead_from_any_reception_to_any_other() -> None:
    rng = random.Random(3)

    def some() -> Reception:
        promisc, allmulti, alluni, nomulti, nouni, nobcast = (rng.random() < 0.5 for _ in range(6))
        unicast, multicast = (
            frozenset(mac for mac in pool if rng.random() < 0.5) for pool in ((OTHER, PEER), (GROUP,))
        )
        vlans = frozenset(vid for vid in (0, 5, 6) if rng.random() < 0.5)
        return Reception(promisc, allmulti, alluni, nomulti, nouni, nobcast, unicast, multicast, vlans)

    for old, new in itertools.pairwise(some() for _ in range(200)):
        after = old
        for control, step in changes(old, new):
            assert parse(emit(control), SUPPORTED) == control
            after = step
        assert after == new
        assert not list(changes(new, new))


# Features, queues, configuration


@pytest.mark.virtio("NET-DRV-2", "NET-DRV-4", "NET-DRV-5", "NET-DRV-23", "NET-DRV-24")
def test_a_feature_is_not_negotiated_without_its_prerequisite() -> None:
    assert TABLE.unmet(SUPPORTED) == 0
    assert mask({F.RSS, F.HASH_REPORT, F.DEVICE_STATS, F.CTRL_RX_EXTRA}) & ~CONTROLLED == 0
    assert TABLE.unmet(SUPPORTED & ~mask({F.CTRL_VQ})) == CONTROLLED & ~mask({F.CTRL_VQ})
    for ecn, tsos in ((F.GUEST_ECN, (F.GUEST_TSO4, F.GUEST_TSO6)), (F.HOST_ECN, (F.HOST_TSO4, F.HOST_TSO6))):
        assert TABLE.unmet(SUPPORTED & ~mask(tsos)) == mask({ecn})
        assert all(TABLE.unmet(SUPPORTED & ~mask({tso})) == 0 for tso in tsos)


@pytest.mark.virtio("NET-DEV-2")
def test_the_control_queue_comes_behind_all_pairs_that_were_agreed_on() -> None:
    both = mask({F.CTRL_VQ, F.MQ})
    assert queue_names(both, 3)[4:] == ["receiveq3", "transmitq3", "controlq"]
    assert queue_names(mask({F.CTRL_VQ}), 3) == ["receiveq1", "transmitq1", "controlq"]
    assert queue_names(0, 3) == ["receiveq1", "transmitq1"]
    assert (pairs_of(both, 3), pairs_of(0, 3)) == (3, 1)


@pytest.mark.virtio("NET-DEV-11", "NET-DEV-12")
def test_speed_and_duplex_are_unknown_unless_they_are_known() -> None:
    assert NetConfig(OWN, 1, 1500).emit()[12:] == b"\xff" * 5
    known = NetConfig(OWN, 1, 1500, 4, 25_000, Duplex.FULL).emit()
    assert known == OWN + bytes.fromhex("0100 0400 dc05 a8610000 01")


@pytest.mark.virtio("NET-DEV-9", "NET-DEV-10")
def test_a_device_that_hashes_frames_reports_its_limits() -> None:
    config = NetConfig(OWN, 1, 1500, hashes=True).emit()
    assert config[:17] == NetConfig(OWN, 1, 1500).emit()
    assert config[17:] == bytes((40,)) + (128).to_bytes(2, "little") + (0x1FF).to_bytes(4, "little")


@pytest.mark.virtio("NET-DRV-33", "NET-DEV-40")
@pytest.mark.parametrize("ecn", [False, True])
@pytest.mark.parametrize("kind", [1, 4])
def test_a_segmented_frame_with_ecn_is_good_where_it_was_agreed_on(kind: int, ecn: bool) -> None:
    rules = HeaderRules(Offloads(True, True, True, True, ecn), 1500)
    head = bytes((1, 0x80 | kind)) + bytes.fromhex("3600 b405 2200 1000 0000") + bytes(14)
    low, high, out, _ = rules.judge(head)
    assert (low <= 2000 <= high) is ecn
    assert out == head


def test_offloads_of_features_are_those_of_their_names() -> None:
    for bit in bits(SUPPORTED & ~CONTROLLED):
        offloads = device_offloads(1 << bit)
        assert offloads.ecn is (bit == F.GUEST_ECN)
