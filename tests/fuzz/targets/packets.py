"""Parsers of what a driver, a station or a device sends in buffers: frames, messages, requests, packets of the link."""

from __future__ import annotations

from typing import cast

from drivers.bus.device_queue import DeviceQueue
from drivers.contracts.ports import ETH_HLEN, HEADER_SIZE, Offloads
from drivers.devices.blk.device.request import BlkLimits, Refusal, VhostBlkRequest
from drivers.devices.blk.layout import RequestType
from drivers.devices.net import control
from drivers.devices.net.header import HEAD, HeaderRules
from drivers.devices.net.software import SEGMENTS_MAX, BadGso, convert_data_valid, finish, needs_finishing
from drivers.devices.rpmsg.bus import CONGESTION, RpmsgBus
from drivers.devices.rpmsg.directory import MAX_ENDPOINTS
from drivers.devices.rpmsg.flow import RpmsgInFlow
from drivers.devices.rpmsg.layout import HEADER as RPMSG_HEADER
from drivers.devices.rpmsg.layout import RpmsgConfig
from fuzz.source import Source
from rings.chain import total
from rings.errors import BadChain
from vnet.link.transaction.codec import emit, parse
from vnet.link.transaction.errors import TlpError
from vnet.link.transaction.flow import FLOWS, taken_by
from vnet.link.transaction.fragments import completions, reads
from vnet.link.transaction.packets import Completion, Header, Tlp
from vnet.link.transaction.reassembly import Reassembly
from vnet.ports.packet.neighbour import OUTBOX_FRAMES, QUESTIONS_MAX, STATIONS_MAX, Neighbour
from vnet.ports.packet.packets import destination

__all__ = ["blk_request", "neighbour", "net_control", "net_header", "rpmsg", "tlp", "tlp_answer"]

MAC, PEER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
V4 = bytes.fromhex("45000034000100004011000000000000c6120002c6120001")[:20]
V6 = bytes.fromhex("600000000020113f") + bytes(14) + b"\x02" + bytes(15) + b"\x01"
TCP = bytes.fromhex("0007000800000001000000005010040000000000")
UDP = bytes.fromhex("0007000800200000")
TEMPLATES = b"", V4 + TCP, V4 + UDP, V6 + TCP, V6 + UDP
ETHERTYPES = b"\x08\x00", b"\x86\xdd", b"\x81\x00", b"\x08\x06"
ADDRESSES = bytes((198, 18, 0, 1)), bytes.fromhex("20010002") + bytes(11) + b"\x01"
STEPS_MAX = 48


def _overlay(template: bytes, source: Source) -> bytes:
    """Return the template with up to 7 of its bytes replaced."""
    changed = bytearray(template)
    for _ in range(source.byte() & 7 if changed else 0):
        changed[source.byte() % len(changed)] = source.byte()
    return bytes(changed)


def net_header(data: bytes) -> None:
    """Judge a frame as a driver or a station sent it, and finish it for a receiver without its offloads."""
    source = Source(data)
    bits, more = source.byte(), source.byte()
    sender = Offloads(*(bool(bits >> at & 1) for at in range(5)))
    receiver = Offloads(*(bool(more >> at & 1) for at in range(5)))
    rules = HeaderRules(sender, None if bits & 0x20 else source.number(2), accept_data_valid=bool(bits & 0x40))
    header = source.take(HEADER_SIZE)
    ethernet = MAC + PEER + source.pick(ETHERTYPES)
    packet = _overlay(source.pick(TEMPLATES), source)
    whole = (header + ethernet + packet + source.rest())[: source.number(2) if more & 0x20 else None]
    head, rest = whole[:HEAD], source.cut(whole[HEAD:])
    size = len(whole)
    low, high, clean, _ = rules.judge(head)
    if not low <= size <= high:
        if rules.cause(head, size, rest):
            return
        clean = rules.known[head][2]
    if head in rules.data_valid:
        clean, rest = convert_data_valid(clean, rest, receiver)
    frame = [memoryview(clean)[HEADER_SIZE:], *rest]
    header = clean[:HEADER_SIZE]
    if not needs_finishing(header, receiver):
        return
    try:
        frames = list(finish(header, frame, receiver))
    except BadGso:
        return
    assert 1 <= len(frames) <= SEGMENTS_MAX
    assert all(len(top) + total(payload) <= HEADER_SIZE + ETH_HLEN + 0xFFFF + 8 for top, payload in frames)


def neighbour(data: bytes) -> None:
    """Frames of any station and packets of our own interface, at any time."""
    source = Source(data)
    table = Neighbour(MAC, ADDRESSES, PEER if source.flag() else None)
    table.set_addresses(ADDRESSES, [(ADDRESSES[0], 24), (ADDRESSES[1], 64)])
    now = 0.0
    for _ in range(STEPS_MAX):
        if not source.left:
            break
        act = source.byte()
        match act & 7:
            case 0 | 1 | 2 | 3:
                payload = _station(source, act >> 3 & 3)
                table.received(
                    bytes((2, 0, 0, 0, 0, act >> 5)), int.from_bytes(source.pick(ETHERTYPES), "big"), payload
                )
            case 4:
                version = source.flag()
                packet = _overlay(V6 + UDP if version else V4 + UDP, source)
                if packet[0] >> 4 == (6 if version else 4) and table.find(packet, now)[0] is None:
                    table.hold(bytes(HEADER_SIZE), packet, now)
                    assert len(destination(packet)) == (16 if version else 4)
            case 5:
                now += source.number(1) / 16
                table.poll(now)
            case 6:
                table.age()
            case _:
                table.configure(bytes((2, 0, 0, 0, 0, act >> 5))) if act & 8 else table.reset()
        assert len(table._recent) <= STATIONS_MAX
        assert len(table._questions) <= QUESTIONS_MAX
        assert len(table.outbox) <= OUTBOX_FRAMES + QUESTIONS_MAX * 4
        while len(table.outbox) > 4:
            table.outbox.popleft()


ARP = bytes.fromhex("0001080006040001") + PEER + bytes((198, 18, 0, 2)) + bytes(6) + ADDRESSES[0]
SOLICITATION = bytes.fromhex("6000000000203aff20010002") + bytes(11) + b"\x02" + ADDRESSES[1]
SOLICITATION += bytes.fromhex("8700000000000000") + ADDRESSES[1] + b"\x01\x01" + PEER
STATIONS = ARP, SOLICITATION, SOLICITATION[:40] + b"\x88" + SOLICITATION[41:], b""


def _station(source: Source, kind: int) -> bytes:
    return _overlay(STATIONS[kind], source) + (source.blob(64) if kind == 3 else b"")


def net_control(data: bytes) -> None:
    """Commands of a control queue: each parsed one is its own encoding again."""
    source = Source(data)
    features = source.word(8) if source.flag() else (1 << 64) - 1
    command = control.parse(source.rest(), features)
    if command is not None:
        assert control.parse(control.emit(command), features) == command


class _Wire:
    """Takes all messages, and counts them."""

    def __init__(self, bus: RpmsgBus) -> None:
        self.bus = bus

    def room(self) -> int:
        return 64

    def push(self) -> None:
        pass

    def request_room(self) -> None:
        pass


def rpmsg(data: bytes) -> None:
    """Messages of the other side: to endpoints, to the name service, to the address service."""
    source = Source(data)
    bus = RpmsgBus(address_service=source.flag())
    endpoints = [bus.create("first", inbox=2, lossy=source.flag()), bus.create("second", addr=1000)]
    bus.start(source.word(1), source.number(2), _Wire(bus))
    flow = RpmsgInFlow(cast(DeviceQueue, None), bus)  # which moves chains, and these are no chains
    for _ in range(STEPS_MAX):
        if not source.left:
            break
        act = source.byte()
        if act & 0xF0 == 0xF0:
            bus.stop()
            bus.start(source.word(1), source.number(2), _Wire(bus))
        elif act & 0xF0 == 0xE0:
            while endpoints[act & 1]._inbox:
                endpoints[act & 1].receive_nowait()
        else:
            dst = source.pick((53, 54, 1000, endpoints[0].addr, source.word(4)))
            body = source.blob(80)
            length = len(body) if act & 1 else source.number(2)
            message = RPMSG_HEADER.pack(source.pick((1024, 1000, 0, 0xFFFF_FFFF)), dst, 0, length, 0) + body
            message = message[: source.number(1)] if act & 2 and act & 4 else message
            flow._take(memoryview(message), len(message))
        assert len(bus.outbox) <= CONGESTION
        while len(bus.outbox) > 8:
            bus.outbox.popleft()
        assert len(bus.services) <= MAX_ENDPOINTS
    assert len(endpoints[0]._inbox) <= 2
    assert RpmsgConfig.parse(source.take(8)).valid in {True, False}


def blk_request(data: bytes) -> None:
    """Request chains of a disk: whatever passes lies inside of the disk and of the chain."""
    source = Source(data)
    limits = BlkLimits(
        source.number(2), source.word(8), source.flag(), source.number(2), source.number(1), source.number(4)
    )
    readable = source.cut(source.blob(200))
    writable = source.cut(bytes(source.number(2)))
    try:
        parsed = VhostBlkRequest.parse((3, readable, writable), limits)
    except BadChain:
        return
    assert len(parsed.status_byte) <= 1
    if isinstance(parsed, Refusal):
        return
    if parsed.kind in (RequestType.IN, RequestType.OUT):
        assert parsed.offset + parsed.size <= limits.capacity * 512
    for extent in parsed.extents:
        assert extent.offset + extent.size <= limits.capacity * 512


def tlp(data: bytes) -> None:
    """Transaction layer packets: each parsed one is its own encoding again, and takes the credits of its flow."""
    try:
        packet = parse(data)
    except TlpError:
        return
    again = emit(packet)
    assert parse(again) == packet
    taken = taken_by(again)
    assert taken.flow is FLOWS[packet.kind]
    assert taken.data <= 256


def tlp_answer(data: bytes) -> None:
    """Completions of a read, in any order and of any kind."""
    source = Source(data)
    start = source.number(2)
    size = max(1, source.number(1))
    [request, *_] = reads(Header(source.word(2)), [source.byte()] * 2, start, size, 512)
    answer = Reassembly(request, source.pick((64, 128)))
    honest: list[Tlp] = [*completions(request, bytes(range(256))[: request.size], 7, 64)]
    for _ in range(16):
        if not source.left or answer.done:
            break
        try:
            packet = honest.pop(0) if honest and source.flag() else parse(source.blob(80))
            if isinstance(packet, Completion):
                answer.add(packet)
        except TlpError:
            continue
    assert len(answer.data) <= request.size
