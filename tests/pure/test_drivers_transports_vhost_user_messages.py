"""vhost-user byte by byte: messages survive a round trip, and any other input ends in one typed error and no leak."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.testing import CountedHandle
from drivers.transports.vhost_user.constants import (
    MAX_BODY,
    MAX_FDS,
    BackendRequest,
    FrontendRequest,
    ProtocolFeature,
)
from drivers.transports.vhost_user.messages import (
    BACKEND_MESSAGES,
    FRONTEND_MESSAGES,
    HEADER_SIZE,
    Assembler,
    MessageType,
    UserMessage,
    ack,
    emit,
    parse,
    parse_reply,
    reply,
)
from drivers.transports.vhost_user.payloads import (
    U64,
    Config,
    Empty,
    Inflight,
    Iotlb,
    Log,
    MemRegion,
    MemTable,
    MessageRefused,
    Payload,
    ProtocolError,
    SingleRegion,
    VringAddr,
    VringFd,
    VringState,
)
from drivers.transports.vhost_user.states import LEGAL, RING_LEGAL, RingState, SessionState

R = FrontendRequest
u32, u64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
PAGE = 4096


def _region(at: int, size: int, shift: int) -> MemRegion:
    return MemRegion(at * PAGE, size * PAGE, (at + shift) * PAGE, at * PAGE)


regions = st.builds(_region, st.integers(0, 1 << 30), st.integers(1, 1 << 20), st.integers(0, 1 << 30))
tables = st.lists(st.integers(1, 64), min_size=1, max_size=8).map(
    lambda sizes: MemTable(tuple(_region(100 * i, size, 7) for i, size in enumerate(sizes)))
)
BODIES: dict[type[Payload], st.SearchStrategy[Payload]] = {
    Empty: st.just(Empty()),
    U64: st.builds(U64, u64),
    VringFd: st.builds(VringFd, st.integers(0, 255), st.booleans()),
    VringState: st.builds(VringState, u32, u32),
    VringAddr: st.builds(VringAddr, u32, u32, u64, u64, u64, u64),
    MemTable: tables,
    SingleRegion: st.builds(SingleRegion, regions),
    Log: st.builds(Log, st.integers(0, 1 << 40), st.integers(0, 1 << 40)),
    Iotlb: st.builds(Iotlb, u64, u64, u64, st.integers(0, 3), st.integers(1, 4)),
    Config: st.builds(Config, u32, st.integers(0, 1), st.binary(max_size=256)),
    Inflight: st.builds(
        Inflight, st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 65535), st.integers(0, 65535)
    ),
}
requests = st.sampled_from(sorted(FRONTEND_MESSAGES)).flatmap(
    lambda number: st.tuples(st.just(R(number)), BODIES[FRONTEND_MESSAGES[number].body], st.booleans())
)


def header(request: int, flags: int = 1, size: int = 0) -> bytes:
    return struct.pack("<III", request, flags, size)


def fds_of(request: int, payload: Payload, messages: dict[int, MessageType] | None = None) -> int:
    if payload.fds is not None:
        return payload.fds
    return FRONTEND_MESSAGES[request].fds[0]


class Stream:
    """A front end's bytes and file descriptors on their way into an `Assembler`, as a stream socket gives them."""

    def __init__(self, assembler: Assembler) -> None:
        self.assembler = assembler
        self.open: list[CountedHandle] = []
        self.got: list[UserMessage] = []

    def send(self, data: bytes, fds: int = 0, chunk: int = MAX_BODY) -> list[UserMessage]:
        """The messages of one sendmsg, received at most ``chunk`` bytes at a time; all messages so far."""
        handles = [CountedHandle(self.open) for _ in range(fds)]
        while data:
            part = data[: min(chunk, self.assembler.missing)]
            data = data[len(part) :]
            message = self.assembler.feed(part, handles)
            handles = []
            if message is not None:
                self.got.append(message)
        return self.got


def stream() -> Stream:
    return Stream(Assembler(FRONTEND_MESSAGES))


@pytest.mark.hostile("V01")
@given(st.lists(requests, min_size=1, max_size=5), st.integers(1, 80))
def test_any_split_gives_the_messages_that_were_sent(sent: list[tuple[R, Payload, bool]], chunk: int) -> None:
    peer = stream()
    for request, payload, need_reply in sent:
        peer.send(emit(request, payload, need_reply=need_reply), fds_of(request, payload), chunk)
    assert [message.request for message in peer.got] == [request for request, _, _ in sent]
    for message, (request, payload, need_reply) in zip(peer.got, sent, strict=True):
        assert parse(message, FRONTEND_MESSAGES) == payload
        assert message.need_reply == need_reply
        assert len(message.handles) == fds_of(request, payload)
        message.close()
    assert peer.open == []
    assert not peer.assembler.partial


@pytest.mark.hostile("V01")
def test_two_messages_received_at_once_keep_their_own_file_descriptors() -> None:
    peer = stream()
    kick = emit(R.SET_VRING_KICK, VringFd(1))
    peer.send(emit(R.SET_OWNER) + kick[:HEADER_SIZE], 0)  # the reader takes no more than one message needs
    assert [message.request for message in peer.got] == [R.SET_OWNER]
    with pytest.raises(ProtocolError, match="0 file descriptors"):
        parse(peer.send(kick[HEADER_SIZE:])[1], FRONTEND_MESSAGES)


@given(st.sampled_from(sorted(FRONTEND_MESSAGES)), st.data())
def test_every_answer_comes_back_as_it_was(number: int, data: st.DataObject) -> None:
    answer = FRONTEND_MESSAGES[number].answer or U64
    payload = data.draw(BODIES[answer])
    fds = data.draw(st.integers(0, FRONTEND_MESSAGES[number].answer_fds))
    peer = Stream(Assembler(FRONTEND_MESSAGES, replies=True))
    [message] = peer.send(reply(number, payload), fds)
    assert parse_reply(message, number, FRONTEND_MESSAGES) == payload
    message.close()
    assert peer.open == []


def test_an_acknowledgement_says_0_when_all_went_well() -> None:
    peer = Stream(Assembler(FRONTEND_MESSAGES, replies=True))
    peer.send(ack(R.SET_MEM_TABLE, good=True) + ack(R.SET_VRING_NUM, good=False))
    assert parse_reply(peer.got[0], R.SET_MEM_TABLE, FRONTEND_MESSAGES) == U64(0)
    assert parse_reply(peer.got[1], R.SET_VRING_NUM, FRONTEND_MESSAGES) == U64(1)


def test_a_back_end_has_messages_of_its_own() -> None:
    peer = Stream(Assembler(BACKEND_MESSAGES))
    [message] = peer.send(emit(BackendRequest.CONFIG_CHANGE_MSG, need_reply=True))
    assert parse(message, BACKEND_MESSAGES) == Empty()
    assert message.need_reply


@pytest.mark.hostile("V02")
@pytest.mark.parametrize("number", sorted(FRONTEND_MESSAGES))
def test_a_size_that_its_type_can_not_have_ends_before_any_of_it_is_received(number: int) -> None:
    low, high = FRONTEND_MESSAGES[number].body.SIZES
    fds = FRONTEND_MESSAGES[number].fds[0]
    for size in {0, low - 1, high + 1, MAX_BODY + 1, 0xFFFFFFFF}:
        if low <= size <= high or size < 0:
            continue
        peer = stream()
        with pytest.raises(ProtocolError, match="bytes"):
            peer.send(header(number, size=size), fds)
        assert peer.open == []


@pytest.mark.hostile("V02")
@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (R.SET_MEM_TABLE, struct.pack("<II", 2, 0) + MemRegion(0, 4096, 0, 0).emit()),
        (R.SET_MEM_TABLE, struct.pack("<II", 1, 0) + 2 * MemRegion(0, 4096, 0, 0).emit()),
    ],
)
def test_a_body_of_another_size_than_its_content_says(request_: R, body: bytes) -> None:
    peer = stream()
    [message] = peer.send(header(request_, size=len(body)) + body, 1)
    with pytest.raises(ProtocolError) as caught:
        parse(message, FRONTEND_MESSAGES)
    assert not isinstance(caught.value, MessageRefused)
    message.close()
    assert peer.open == []


@pytest.mark.hostile("V03")
@pytest.mark.parametrize(
    ("request_", "flags"), [(R.GET_FEATURES, 0), (R.GET_FEATURES, 2), (R.SET_OWNER, 5), (R.SET_OWNER, 0x11), (999, 1)]
)
def test_unknown_requests_and_flags_can_be_refused(request_: int, flags: int) -> None:
    peer = stream()
    [message] = peer.send(header(request_, flags))
    with pytest.raises(MessageRefused):
        parse(message, FRONTEND_MESSAGES)


def test_an_unknown_request_is_received_as_a_whole_and_what_came_with_it_can_be_closed() -> None:
    peer = stream()
    peer.send(header(999, 9, 100) + bytes(100), 3)
    peer.send(emit(R.SET_OWNER))
    assert [message.request for message in peer.got] == [999, R.SET_OWNER]
    assert peer.got[0].need_reply
    peer.got[0].close()
    assert peer.open == []


@pytest.mark.hostile("V04")
@pytest.mark.hostile("V05")
@pytest.mark.parametrize("number", sorted(FRONTEND_MESSAGES))
def test_a_wrong_number_of_file_descriptors_closes_all_of_them(number: int) -> None:
    kind = FRONTEND_MESSAGES[number]
    body = b"\0" * kind.body.SIZES[0]
    for count in (kind.fds[0] - 1, kind.fds[1] + 1, 8, 9, MAX_FDS):
        if kind.fds[0] <= count <= kind.fds[1] or count < 0:
            continue
        peer = stream()
        with pytest.raises(ProtocolError, match="file descriptors"):
            peer.send(header(number, size=len(body)) + body, count)
        assert peer.open == []


@pytest.mark.hostile("V04")
@pytest.mark.hostile("V05")
@pytest.mark.parametrize(
    ("request_", "payload", "count"),
    [
        (R.SET_VRING_KICK, VringFd(0, has_fd=True), 0),
        (R.SET_VRING_CALL, VringFd(0, has_fd=False), 1),
        (R.SET_MEM_TABLE, MemTable((MemRegion(0, 4096, 0, 0),)), 2),
    ],
)
def test_a_number_of_file_descriptors_that_the_body_contradicts(request_: R, payload: Payload, count: int) -> None:
    peer = stream()
    [message] = peer.send(emit(request_, payload), count)
    with pytest.raises(ProtocolError, match="file descriptors"):
        parse(message, FRONTEND_MESSAGES)
    message.close()
    assert peer.open == []


@pytest.mark.hostile("V05")
def test_a_file_descriptor_with_any_byte_but_the_first() -> None:
    for at in (1, HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + 7):
        peer = stream()
        data = emit(R.SET_VRING_KICK, VringFd(0))
        peer.send(data[:at])
        with pytest.raises(ProtocolError):
            peer.send(data[at:], 1)
        assert peer.open == []


def test_a_part_of_a_message_is_given_back() -> None:
    peer = stream()
    peer.send(emit(R.SET_VRING_KICK, VringFd(0))[:-1], 1)
    assert peer.assembler.partial
    peer.assembler.close()
    assert peer.open == []
    assert not peer.assembler.partial


@pytest.mark.hostile("V08")
@pytest.mark.parametrize(
    "bad",
    [
        (MemRegion(0, 0, 0, 0),),
        (MemRegion(1 << 63, (1 << 63) + 1, 0, 0),),
        (MemRegion(0, 4096, (1 << 64) - 1, 0),),
        (MemRegion(0, 4096, 0, (1 << 64) - 4095),),
        (MemRegion(0, 8192, 0, 0), MemRegion(4096, 8192, 1 << 40, 0)),
        (MemRegion(0, 8192, 0, 0), MemRegion(1 << 40, 8192, 4096, 0)),
    ],
)
def test_memory_that_can_not_be_is_refused(bad: tuple[MemRegion, ...]) -> None:
    with pytest.raises(MessageRefused):
        MemTable.parse(MemTable(bad).emit())


@pytest.mark.hostile("V08")
@pytest.mark.parametrize("count", [0, 9, 0xFFFFFFFF])
def test_a_table_of_too_many_regions_or_none_is_refused(count: int) -> None:
    with pytest.raises(MessageRefused):
        MemTable.parse(struct.pack("<II", count, 0) + bytes(32 * min(count, 8)))


@pytest.mark.parametrize("count", [1, 7, 8])
def test_a_table_may_have_room_for_more_regions_than_there_are(count: int) -> None:
    table = MemTable(tuple(_region(100 * i, 3, 7) for i in range(count)))
    assert MemTable.parse(table.emit().ljust(8 + 8 * 32, b"\xff")) == table
    for size in {8, 8 + 32 * count - 1, 8 + 32 * count + 1, 8 + 8 * 32 - 1} - {8 + 32 * count}:
        with pytest.raises(ProtocolError):
            MemTable.parse(table.emit().ljust(8 + 8 * 32 + 1, b"\xff")[:size])


@pytest.mark.hostile("V07")
@pytest.mark.parametrize("value", [0x200, 1 << 32, (1 << 64) - 1])
def test_a_ring_index_of_more_than_eight_bits_is_not_cut_off(value: int) -> None:
    with pytest.raises(MessageRefused):
        VringFd.parse(value.to_bytes(8, "little"))


@pytest.mark.hostile("V14")
@pytest.mark.parametrize("size", [0, 3, 5, 0xFFFFFFFF])
def test_configuration_of_another_size_than_it_says_is_refused(size: int) -> None:
    with pytest.raises(MessageRefused):
        Config.parse(struct.pack("<III", 0, size, 0) + bytes(4))


@pytest.mark.parametrize("body", [Log(1 << 63, 1 << 63).emit(), Log(2, (1 << 64) - 1).emit()])
def test_a_log_that_wraps_around_is_refused(body: bytes) -> None:
    if sum(struct.unpack("<QQ", body)) > 1 << 64:
        with pytest.raises(MessageRefused):
            Log.parse(body)
    else:
        Log.parse(body)


@pytest.mark.hostile("V11")
def test_an_inflight_area_that_wraps_around_is_refused() -> None:
    with pytest.raises(MessageRefused):
        Inflight.parse(struct.pack("<QQHH", (1 << 64) - 1, 2, 1, 1))


@pytest.mark.hostile("V20")
@pytest.mark.parametrize(
    "data",
    [
        reply(R.GET_VRING_BASE, VringState(0, 0)),  # an answer to something else
        emit(R.GET_FEATURES, U64(0)),  # no answer
        header(R.GET_FEATURES, 5, 4) + bytes(4),
        header(R.GET_FEATURES, 6, 8) + bytes(8),
        header(R.GET_FEATURES, 5, 0xFFFFFFFF),
    ],
)
def test_an_answer_that_is_none_is_one_typed_error(data: bytes) -> None:
    peer = Stream(Assembler(FRONTEND_MESSAGES, replies=True))
    with pytest.raises(ProtocolError):
        parse_reply(peer.send(data)[0], R.GET_FEATURES, FRONTEND_MESSAGES)


@given(st.binary(min_size=1, max_size=200), st.integers(0, 12))
def test_any_bytes_at_all_end_in_a_message_or_a_protocol_error(data: bytes, fds: int) -> None:
    peer = stream()
    try:
        for message in peer.send(data, fds):
            parse(message, FRONTEND_MESSAGES)
    except ProtocolError:
        pass
    for message in peer.got:
        message.close()
    peer.assembler.close()
    assert peer.open == []


def test_every_message_with_a_feature_or_a_ring_says_so() -> None:
    assert {m.needs for m in FRONTEND_MESSAGES.values()} <= {None, *ProtocolFeature}
    for number, kind in FRONTEND_MESSAGES.items():
        assert kind.ring == hasattr(kind.body, "index"), number


def test_the_tables_of_legal_messages_name_every_state_and_only_known_messages() -> None:
    assert set(LEGAL) == set(SessionState)
    assert set(RING_LEGAL) == set(RingState)
    for legal in (*LEGAL.values(), *RING_LEGAL.values()):
        assert legal <= set(FRONTEND_MESSAGES)
    assert LEGAL[SessionState.NEW] < LEGAL[SessionState.FEATURES]
