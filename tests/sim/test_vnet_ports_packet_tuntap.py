"""TUN and TAP ports, packet by packet. A pair of datagram sockets stands in for /dev/net/tun."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing

from drivers.contracts.ports import NO_OFFLOADS, Offloads
from drivers.errors import PortGone
from rings.observers.overlay import ATTRIBUTES
from support.rigs.tun import (
    ALL,
    HEADER,
    IPV4,
    IPV6,
    OTHER,
    OWN,
    PEER,
    PLAIN,
    Socket,
    accounted,
    frame,
    ipv4,
    ipv6,
    receive,
    room,
    tap,
    tun,
)
from vnet.ports.packet.base import KnownHeaders
from vnet.ports.packet.tap import TapPort
from vnet.ports.packet.tun import TunPort
from vnet.ports.packet.tuntap import BURST_OF_DROPS, IOV_MAX

# Towards the ring


@pytest.mark.parametrize(
    ("packet", "to", "ethertype"),
    [
        (ipv4(), PEER, IPV4),
        (ipv6(), PEER, IPV6),
        (ipv4("224.0.0.251"), bytes.fromhex("01005e0000fb"), IPV4),
        (ipv4("255.255.255.255"), b"\xff" * 6, IPV4),
        (ipv6("ff02::1:ff00:2"), bytes.fromhex("3333ff000002"), IPV6),
    ],
    ids=["IPv4", "IPv6", "IPv4 group", "limited broadcast", "IPv6 group"],
)
async def test_a_packet_gets_the_ethernet_header_of_its_destination(
    device: Socket, packet: bytes, to: bytes, ethertype: bytes
) -> None:
    port = await tun(device)
    for before in (ipv4(), ipv6(), ipv4("224.0.0.1")):  # after any other state
        device.write(PLAIN + before)
        receive(port)
        device.write(PLAIN + packet)
        assert receive(port) == PLAIN + to + OWN + ethertype + packet


@pytest.mark.parametrize("make", [tun, tap])
async def test_a_frame_is_pending_until_it_was_received(
    device: Socket, make: Callable[[Socket], Awaitable[TunPort | TapPort]]
) -> None:
    port = await make(device)
    assert not port.pending()
    device.write(PLAIN + (ipv4() if make is tun else PEER + OWN + IPV4 + ipv4()))
    assert port.pending()
    receive(port)
    assert not port.pending()
    port.stop()
    device.write(PLAIN + ipv4())
    assert receive(port) == b""
    await port.start(mac=None, offloads=ALL, mtu=None)
    assert not port.pending(), "what came meanwhile is stale"
    port.close()
    if port.pending():
        with pytest.raises(PortGone):
            receive(port)


@pytest.mark.parametrize("size", [20, 27, 39, 40, 41, 1500, 65535])
@pytest.mark.parametrize(
    "sizes", [(70000,), (12, 70000), (26, 70000), (66, 70000), (67, 5, 70000), (5, 21, 3, 0, 50, 70000)]
)
async def test_a_packet_of_any_size_is_laid_over_any_segments(
    device: Socket, size: int, sizes: tuple[int, ...]
) -> None:
    port = await tun(device)
    device.write(PLAIN + ipv6())  # leaves its mark in private memory
    receive(port)
    packet = ipv4(payload=os.urandom(size - 20))
    device.write(PLAIN + packet)
    segs = room(*sizes)
    assert port.recv_into(segs) == 26 + size
    # Not a byte behind the frame is touched.
    assert b"".join(segs) == (PLAIN + PEER + OWN + IPV4 + packet).ljust(sum(sizes), b"\0")


async def test_a_packet_of_more_segments_than_one_call_takes_is_read_as_far_as_it_goes(device: Socket) -> None:
    port = await tun(device)
    device.write(PLAIN + ipv4())
    device.write(PLAIN + ipv4(payload=bytes(3000)))
    assert receive(port, *[2] * 2000) == PLAIN + PEER + OWN + IPV4 + ipv4()
    assert receive(port, *[2] * 2000) == b""
    device.write(PLAIN + ipv4(payload=bytes(3200)))
    assert len(receive(port, 100, *[3] * 2000)) == 0
    device.write(PLAIN + ipv4(payload=bytes(2900)))
    assert len(receive(port, 100, *[3] * 2000)) == 2946
    assert port.statistics().drops == {"too_long": 2}


@pytest.mark.hostile("N06")
@pytest.mark.parametrize("sizes", [(145,), (100, 45), (12,), (1, 2), ()])
async def test_a_frame_one_byte_too_long_is_dropped_and_the_next_is_tried(
    device: Socket, sizes: tuple[int, ...]
) -> None:
    port = await tun(device)
    packet = ipv4()  # 120 bytes: 146 with both headers
    device.write(PLAIN + packet)
    device.write(PLAIN + ipv4(payload=b""))  # 20 bytes: 46
    fits = sum(sizes) >= 46
    assert port.recv_into(room(*sizes)) == (46 if fits else 0)
    assert port.statistics().drops == {"too_long": 1 if fits else 2}


CTAG, STAG = b"\x81\x00\x00\x05", b"\x88\xa8\x00\x06"


@pytest.mark.virtio("NET-DRV-19", "NET-DEV-7", "NET-DEV-8")
@pytest.mark.parametrize("sizes", [(70000,), (12, 70000)])
@pytest.mark.parametrize(
    ("make", "tags"),
    [(tun, b""), (tap, b""), (tap, CTAG), (tap, STAG + CTAG), (tap, CTAG * 4)],
    ids=["TUN", "TAP", "a VLAN", "two VLANs", "four VLANs"],
)
async def test_nothing_beyond_the_agreed_mtu_is_handed_up_with_any_mtu_of_the_interface(
    device: Socket, make: Callable[[Socket], Awaitable[TunPort | TapPort]], tags: bytes, sizes: tuple[int, ...]
) -> None:
    def write(size: int, header: bytes = PLAIN) -> None:
        """A packet of ``size`` bytes, by an interface whose own MTU is larger than the negotiated one."""
        front = b"" if make is tun else PEER + OWN + tags + IPV4
        device.write(header + front + ipv4(payload=bytes(size - 20)))

    port = await make(device)
    whole = 12 + 14 + len(tags)
    write(9000)
    assert len(receive(port, *sizes)) == whole + 9000, "nothing was agreed on"
    await port.start(mac=OWN, offloads=ALL, mtu=1500)
    write(1501)
    write(1500)
    assert len(receive(port, *sizes)) == whole + 1500
    write(1501)
    write(9000, HEADER.pack(1, 1, 40, 1448, 34 if make is tap else 20, 16, 0))
    assert len(receive(port, *sizes)) == whole + 9000, "it is cut into smaller ones"
    assert port.statistics().drops == {"too_long": 2}
    await port.start(mac=OWN, offloads=ALL, mtu=None)
    write(1501)
    assert len(receive(port, *sizes)) == whole + 1501


async def test_offsets_move_by_the_ethernet_header_where_a_checksum_is_left_to_do(device: Socket) -> None:
    port = await tun(device)
    for given, expected in (
        ((1, 1, 40, 1448, 20, 16, 0), (1, 1, 54, 1448, 34, 16, 0)),
        ((1, 0, 0, 0, 20, 6, 0), (1, 0, 0, 0, 34, 6, 0)),
        ((1, 4, 0xFFFF, 1428, 40, 16, 0), (1, 4, 0xFFFF, 1428, 54, 16, 0)),
        ((2, 0, 0, 0, 20, 16, 0), (0, 0, 0, 0, 20, 16, 0)),  # DATA_VALID goes, the rest means nothing
        ((0, 0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0, 0)),
    ):
        device.write(HEADER.pack(*given) + ipv4())
        assert HEADER.unpack_from(receive(port)) == expected


@pytest.mark.parametrize("make", [tun, tap])
async def test_a_frame_that_asks_for_more_than_was_agreed_is_dropped(
    device: Socket, make: Callable[..., Awaitable[TunPort | TapPort]]
) -> None:
    port = await make(device, offloads=Offloads(csum=True, tso4=True))
    for flags, gso, passes in ((1, 0, True), (1, 1, True), (1, 4, False), (1, 5, False), (0, 0, True)):
        device.write(bytes((flags, gso)) + bytes(10) + ipv4())
        assert bool(receive(port)) == passes
    await port.start(mac=None, offloads=NO_OFFLOADS, mtu=None)
    device.write(bytes((1, 0)) + bytes(10) + ipv4())
    device.write(bytes((2, 0)) + bytes(10) + ipv4())
    assert receive(port)[0] == 0
    assert port.statistics().drops == {"offload": 3}
    assert accounted(port) == 7


@pytest.mark.parametrize(
    ("packet", "cause"),
    [
        (b"\x50" + bytes(60), "ethertype"),
        (b"\x00" + bytes(60), "ethertype"),
        (ipv4()[:19], "too_short"),
        (ipv6()[:39], "too_short"),
    ],
)
async def test_a_frame_that_is_no_ip_packet_is_dropped(device: Socket, packet: bytes, cause: str) -> None:
    port = await tun(device)
    device.write(PLAIN + packet)
    assert receive(port) == b""
    assert port.statistics().drops == {cause: 1}


async def test_many_drops_in_a_row_let_the_caller_breathe(device: Socket, monkeypatch: pytest.MonkeyPatch) -> None:
    port = await tun(device)
    reads = 0

    def endless(fd: int, into: Sequence[memoryview]) -> int:
        nonlocal reads
        reads += 1
        into[0][12] = 0x50
        return 100

    monkeypatch.setattr("os.readv", endless)
    assert port.recv_into(room(2000)) == 0
    assert reads == BURST_OF_DROPS


# From the ring


async def test_the_ethernet_header_of_a_frame_is_taken_off(device: Socket) -> None:
    port = await tun(device)
    for _ in range(3):
        for ethertype, packet in ((IPV4, ipv4()), (IPV6, ipv6())):
            for to in (OWN, b"\xff" * 6, b"\x33\x33\0\0\0\1"):
                parts = [memoryview(packet[:1]), memoryview(packet[1:7]), memoryview(packet[7:])]
                assert port.send(frame(ethertype, to), parts)
                assert device.read() == PLAIN + packet
    stats = port.statistics()
    assert (stats.tx_packets, stats.tx_bytes, stats.drops) == (18, 18 * 14 + 9 * 120 + 9 * 140, {})


async def test_offsets_of_a_sent_frame_move_back(device: Socket) -> None:
    port = await tun(device)
    for given, expected in (
        ((1, 1, 54, 1448, 34, 16, 0), (1, 1, 40, 1448, 20, 16, 0)),
        ((1, 1, 13, 1448, 14, 16, 0), (1, 1, 0, 1448, 0, 16, 0)),
        ((0, 0, 0, 0, 34, 16, 0), (0, 0, 0, 0, 34, 16, 0)),
    ):
        for _ in range(2):  # unknown, then known
            assert port.send(frame(header=HEADER.pack(*given)), [memoryview(ipv4())])
            assert HEADER.unpack_from(device.read()) == expected


@pytest.mark.hostile("N03")
@pytest.mark.parametrize(
    ("head", "cause"),
    [
        (frame(to=OTHER), "not_for_us"),
        (frame(to=bytes(6)), "not_for_us"),
        (frame(b"\x81\x00"), "ethertype"),
        (frame(b"\x00\x2e"), "ethertype"),
        (frame(header=HEADER.pack(1, 0, 0, 0, 13, 16, 0)), "bad_csum"),
    ],
    ids=["another station's", "nobody's", "VLAN", "length", "checksum in the Ethernet header"],
)
async def test_a_frame_a_tun_can_not_carry_is_dropped(device: Socket, head: bytes, cause: str) -> None:
    port = await tun(device)
    for count in (1, 2):
        assert port.send(head, [memoryview(ipv4())])
        assert port.statistics().drops == {cause: count}
    with pytest.raises(BlockingIOError):
        device.read()
    assert accounted(port) == 2


async def test_a_peer_that_varies_its_headers_grows_nothing(device: Socket) -> None:
    port = await tun(device)
    for number in range(2 * KnownHeaders.MAX + 10):
        header = HEADER.pack(0, 0, number, 0, 0, 0, 0)
        port.send(frame(header=header), [memoryview(ipv4())])
        device.read()
        device.write(header + ipv4())
        assert receive(port, 2000)
    assert max(len(port._heads), len(port._fronts)) <= KnownHeaders.MAX


async def test_more_segments_than_one_call_takes_are_sent_all_the_same(device: Socket) -> None:
    port = await tun(device)
    packet = ipv4(payload=os.urandom(3 * IOV_MAX))
    assert port.send(frame(), [memoryview(packet[at : at + 2]) for at in range(0, len(packet), 2)])
    assert device.read() == PLAIN + packet


@pytest.mark.hostile("N08")
async def test_a_device_that_is_full_holds_the_sender_back(device: Socket) -> None:
    port = await tun(device)
    sent = 0
    while port.send(frame(), [memoryview(ipv4())]):
        sent += 1
    assert port.statistics().tx_packets == sent
    assert port.statistics().drops == {}
    with trio.move_on_after(0.05) as scope:
        await port.wait_writable()
    assert scope.cancelled_caught
    for _ in range(sent):
        device.read()
    await port.wait_writable()
    assert port.send(frame(), [memoryview(ipv4())])


@pytest.mark.hostile("N08")
@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.EIO, "interface_down"),
        (errno.EINVAL, "refused"),
        (errno.ENOBUFS, "no_memory"),
        (errno.ENOMEM, "no_memory"),
    ],
)
@pytest.mark.parametrize("make", [tun, tap])
async def test_a_frame_the_kernel_refuses_is_dropped_under_its_cause(
    device: Socket,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    cause: str,
    make: Callable[[Socket], Awaitable[TunPort | TapPort]],
) -> None:
    port = await make(device)

    def refuse(fd: int, data: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.writev", refuse)
    assert port.send(frame(), [memoryview(ipv4())])
    assert port.statistics().drops == {cause: 1}
    assert port.statistics().tx_packets == 0


@pytest.mark.hostile("N08")
@pytest.mark.parametrize("number", [errno.EBADFD, errno.ENODEV])
async def test_a_device_that_was_deleted_is_gone_in_both_directions(
    device: Socket, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    port = await tun(device)

    def refuse(fd: int, data: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.writev", refuse)
    monkeypatch.setattr("os.readv", refuse)
    with pytest.raises(PortGone):
        port.send(frame(), [memoryview(ipv4())])
    with pytest.raises(PortGone):
        port.recv_into(room(2000))
    port.stop()


async def test_a_port_has_no_more_attributes_than_are_found_fast(device: Socket) -> None:
    """Observers add five, see `rings.observers.overlay`."""
    assert len(vars(await tun(device))) + 5 <= ATTRIBUTES
    assert len(vars(await tap(device))) + 5 <= ATTRIBUTES
