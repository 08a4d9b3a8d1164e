"""The NBD protocol byte by byte, as its own description has it, and what a client may not send."""

from __future__ import annotations

import struct

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnet.nbd import (
    REQUEST_SIZE,
    CommandReceiver,
    CommandType,
    Export,
    Handshake,
    NbdCommand,
    NbdError,
    NbdProtocolError,
    TransmissionFlag,
    error_reply,
    read_header,
    simple_reply,
)

F = TransmissionFlag
EXPORT = Export("disk0", 1 << 30, F.HAS_FLAGS | F.SEND_FLUSH, "a disk", 512, 4096, 1 << 25)
FLAGS = struct.pack(">I", 3)
ACK, SERVER, INFO = 1, 2, 3
UNSUP, INVALID, UNKNOWN = (1 << 31 | n for n in (1, 3, 6))


def handshake() -> Handshake:
    return Handshake("disk0", lambda: EXPORT)


def option(number: int, body: bytes = b"") -> bytes:
    return b"IHAVEOPT" + struct.pack(">II", number, len(body)) + body


def go(name: bytes = b"", *infos: int, number: int = 7) -> bytes:
    body = struct.pack(">I", len(name)) + name + struct.pack(f">H{len(infos)}H", len(infos), *infos)
    return option(number, body)


def replies(data: bytes) -> list[tuple[int, int, bytes]]:
    """Option, kind and body of each."""
    actual = []
    while data:
        magic, number, kind, size = struct.unpack_from(">QIII", data)
        assert magic == 0x3E889045565A9
        actual.append((number, kind, data[20 : 20 + size]))
        data = data[20 + size :]
    return actual


def feed(shake: Handshake, data: bytes) -> list[tuple[int, int, bytes]]:
    return replies(b"".join(shake.feed(data)))


def test_the_greeting_is_fixed_newstyle() -> None:
    assert handshake().greeting() == b"NBDMAGICIHAVEOPT\x00\x03"


def test_go_tells_of_the_export_and_begins_transmission() -> None:
    shake = handshake()
    answers = feed(shake, FLAGS + go(b"disk0", 3, 1, 2, 99) + b"rest")
    assert answers == [
        (7, INFO, struct.pack(">HQH", 0, 1 << 30, 5)),
        (7, INFO, b"\0\1disk0"),
        (7, INFO, b"\0\2a disk"),
        (7, INFO, struct.pack(">HIII", 3, 512, 4096, 1 << 25)),
        (7, ACK, b""),
    ]
    assert (shake.over, shake.export, shake.rest()) == (True, EXPORT, b"rest")


def test_info_tells_the_same_and_begins_nothing() -> None:
    shake = handshake()
    assert [kind for _, kind, _ in feed(shake, FLAGS + go(number=6))] == [INFO, ACK]
    assert not shake.over


def test_structured_replies_are_agreed_on_and_allow_to_ask_for_one_piece() -> None:
    shake = handshake()
    assert feed(shake, FLAGS + option(8)) == [(8, ACK, b"")]
    feed(shake, go())
    assert shake.structured
    assert shake.export is not None
    assert shake.export.flags == EXPORT.flags | F.SEND_DF


def test_an_empty_name_means_the_export_and_another_none() -> None:
    shake = handshake()
    [(_, kind, _)] = feed(shake, FLAGS + go(b"other"))
    assert (kind, shake.over) == (UNKNOWN, False)
    assert feed(shake, go())[-1] == (7, ACK, b"")


@pytest.mark.parametrize(
    ("sent", "kinds"),
    [
        (option(3), [SERVER, ACK]),
        (option(3, b"x"), [INVALID]),
        (option(5), [UNSUP]),
        (option(9, bytes(20)), [UNSUP]),
        (option(10, bytes(20)), [UNSUP]),
        (option(0xFFFF_FFFF, b"what"), [UNSUP]),
        (option(8, b"x"), [INVALID]),
        (option(7, b""), [INVALID]),
        (option(7, struct.pack(">I", 1000) + bytes(8)), [INVALID]),
        (option(7, struct.pack(">IH", 0, 5)), [INVALID]),
        (option(6, struct.pack(">I", 5000) + bytes(5002)), [INVALID]),
        (option(2), [ACK]),
    ],
)
def test_each_option_has_its_answer(sent: bytes, kinds: list[int]) -> None:
    assert [kind for _, kind, _ in feed(handshake(), FLAGS + sent)] == kinds


@pytest.mark.parametrize(("flags", "padding"), [(0, 124), (1, 124), (2, 0), (3, 0)])
def test_the_old_way_to_begin_has_its_padding(flags: int, padding: int) -> None:
    shake = handshake()
    answer = b"".join(shake.feed(struct.pack(">I", flags) + option(1, b"disk0")))
    assert answer == struct.pack(">QH", 1 << 30, 5) + bytes(padding)
    assert shake.export == EXPORT


def test_the_old_way_knows_no_error_but_to_hang_up() -> None:
    shake = handshake()
    assert list(shake.feed(FLAGS + option(1, b"other"))) == []
    assert (shake.over, shake.export) == (True, None)


@pytest.mark.parametrize(
    "data",
    [struct.pack(">I", 7), FLAGS + bytes(16), FLAGS + b"IHAVEOPT" + b"\xff" * 8],
    ids=["unknown flags", "no magic", "4 GiB"],
)
def test_a_senseless_message_ends_the_negotiation(data: bytes) -> None:
    with pytest.raises(NbdProtocolError):
        list(handshake().feed(data))


@given(st.lists(st.integers(1, 40), max_size=30))
def test_it_does_not_matter_where_the_bytes_are_cut(cuts: list[int]) -> None:
    data = FLAGS + option(8) + option(3) + go(b"nobody") + go(b"disk0", 3)
    whole = handshake()
    expected = b"".join(whole.feed(data))
    shake, actual = handshake(), b""
    for cut in (*cuts, len(data)):
        actual += b"".join(shake.feed(data[:cut]))
        data = data[cut:]
    assert actual == expected


# Transmission


def request(kind: int, cookie: int = 0, offset: int = 0, size: int = 0, flags: int = 0) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, offset, size)


def receive(receiver: CommandReceiver, data: bytes) -> bytes:
    """The part that fits at once; the rest."""
    size = 0
    for view in receiver.targets():
        part = data[: len(view)]
        view[: len(part)] = part
        data = data[len(part) :]
        size += len(part)
    receiver.received(size)
    return data


def test_a_command_has_all_its_fields() -> None:
    receiver = CommandReceiver(request(6, 1 << 63, 1 << 40, 0xFFFF_FFFF, 3))
    assert receiver.next() == NbdCommand(3, 6, 1 << 63, 1 << 40, 0xFFFF_FFFF)
    assert receiver.next() is None


def test_a_command_without_its_magic_is_none() -> None:
    with pytest.raises(NbdProtocolError):
        CommandReceiver(bytes(REQUEST_SIZE)).next()


def test_replies_are_as_the_protocol_has_them() -> None:
    assert simple_reply(7, NbdError.IO) == struct.pack(">IIQ", 0x67446698, 5, 7)
    assert read_header(7, 4096, 512, last=True) == struct.pack(">IHHQIQ", 0x668E33EF, 1, 1, 7, 520, 4096)
    assert read_header(7, 0, 1, last=False)[4:6] == b"\0\0"
    assert error_reply(7, NbdError.INVAL) == struct.pack(">IHHQIIH", 0x668E33EF, 1, 0x8001, 7, 6, 22, 0)
    assert error_reply(7, 0) == struct.pack(">IHHQI", 0x668E33EF, 1, 0, 7, 0)


@attrs.frozen
class Write:
    cookie: int
    data: bytes


WRITES = st.builds(Write, st.integers(0, (1 << 64) - 1), st.binary(max_size=300))


@given(st.lists(st.one_of(WRITES, st.just(None)), max_size=12), st.lists(st.integers(1, 200)), st.integers(0, 60))
def test_data_of_writes_arrive_where_they_belong_however_the_stream_is_cut(
    sent: list[Write | None], cuts: list[int], ahead: int
) -> None:
    stream = b""
    for number, write in enumerate(sent):
        if write is None:
            stream += request(CommandType.READ, number, 0, 512)
        else:
            stream += request(CommandType.WRITE, write.cookie, 0, len(write.data)) + write.data
    receiver, rest = CommandReceiver(stream[:ahead], size=64), stream[ahead:]
    sizes = iter(cuts)

    def more() -> None:
        nonlocal rest
        size = next(sizes, 1000)
        rest = receive(receiver, rest[:size]) + rest[size:]

    for write in sent:
        while (command := receiver.next()) is None:
            assert rest
            more()
        if write is None:
            assert command.type == CommandType.READ
            continue
        assert command.cookie == write.cookie
        half = len(write.data) // 2
        into = bytearray(len(write.data))
        views = [v for v in (memoryview(into)[:half], memoryview(into)[half:]) if v]
        if not receiver.into(views):
            while not receiver.filled:
                assert rest
                more()
        assert into == write.data
    assert receiver.next() is None
    assert not rest
