"""The NBD protocol's document row by row: what each option, limit and error has to be (doc/proto.md of NBD)."""

from __future__ import annotations

import struct

import pytest

from vnet.nbd import CommandType, Export, Handshake, NbdCommand, NbdError, NbdLimits, TransmissionFlag
from vnet.ports.disk.nbd_server import power_of_two

KIB, MIB = 1 << 10, 1 << 20
SIZE = 128 * MIB
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = CommandType
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = 1, 2, 4, 8, 16
F = TransmissionFlag
ALL = F.HAS_FLAGS | F.SEND_FLUSH | F.SEND_FUA | F.SEND_TRIM | F.SEND_WRITE_ZEROES
OK, PERM, INVAL, NOSPC, OVERFLOW = NbdError.OK, NbdError.PERM, NbdError.INVAL, NbdError.NOSPC, NbdError.OVERFLOW
ACK, SERVER, INFO = 1, 2, 3
UNSUP, INVALID, UNKNOWN, TOO_BIG = (1 << 31 | n for n in (1, 3, 6, 9))

# Flags of the export, command, offset, bytes, flags of the command, and what it is answered with.
COMMANDS = [
    (ALL, READ, 0, 512, 0, OK),
    (ALL, READ, 0, 0, 0, OK),
    (ALL, READ, SIZE, 0, 0, OK),
    (ALL, READ, SIZE - 512, 1024, 0, INVAL),
    (ALL, TRIM, SIZE - 512, 1024, 0, INVAL),
    (ALL, WRITE, SIZE - 512, 1024, 0, NOSPC),
    (ALL, ZEROES, SIZE - 512, 1024, 0, NOSPC),
    (ALL, READ, (1 << 64) - 512, 512, 0, INVAL),
    (ALL, READ, 1, 512, 0, INVAL),
    (ALL, WRITE, 0, 513, 0, INVAL),
    (ALL, TRIM, 0, 100, 0, INVAL),
    # FUA is for every command once it was offered, other flags only for their own.
    *((ALL, kind, 0, 512, FUA, OK) for kind in (READ, WRITE, FLUSH, TRIM, ZEROES)),
    *((ALL & ~F.SEND_FUA, kind, 0, 512, FUA, INVAL) for kind in (READ, WRITE, FLUSH, TRIM, ZEROES)),
    (ALL, ZEROES, 0, 512, NO_HOLE, OK),
    (ALL, ZEROES, 0, 512, FAST_ZERO, INVAL),
    *((ALL, kind, 0, 512, NO_HOLE, INVAL) for kind in (READ, WRITE, FLUSH, TRIM)),
    *((ALL | F.SEND_DF, kind, 0, 512, DF, INVAL) for kind in (WRITE, FLUSH, TRIM, ZEROES)),
    (ALL, READ, 0, 512, REQ_ONE, INVAL),
    (ALL, READ, 0, 512, 1 << 15, INVAL),
    # Commands that were not offered, and those that do not exist.
    (ALL & ~F.SEND_TRIM, TRIM, 0, 512, 0, INVAL),
    (ALL & ~F.SEND_WRITE_ZEROES, ZEROES, 0, 512, 0, INVAL),
    (ALL & ~F.SEND_FLUSH, FLUSH, 0, 0, 0, INVAL),
    (ALL, CACHE, 0, 512, 0, INVAL),
    (ALL, STATUS, 0, 512, 0, INVAL),
    (ALL, 99, 0, 0, FUA, INVAL),
    # A read-only export.
    *((F.HAS_FLAGS | F.READ_ONLY, kind, 0, 512, 0, PERM) for kind in (WRITE, TRIM, ZEROES)),
    (F.HAS_FLAGS | F.READ_ONLY, WRITE, SIZE, 512, 0, PERM),
    (F.HAS_FLAGS | F.READ_ONLY, READ, 0, 512, 0, OK),
    # Payloads: EOVERFLOW is for DF, and for structured replies, alone. Commands without data have no limit.
    (ALL, READ, 0, 32 * MIB, 0, OK),
    (ALL, READ, 0, 33 * MIB, 0, INVAL),
    (ALL | F.SEND_DF, READ, 0, 33 * MIB, 0, OVERFLOW),
    (ALL, READ, 0, 512, DF, INVAL),
    (ALL | F.SEND_DF, READ, 0, 64 * KIB, DF, OK),
    (ALL | F.SEND_DF, READ, 0, MIB, DF, OVERFLOW),
    (ALL, TRIM, 0, SIZE, 0, OK),
    (ALL, ZEROES, 0, SIZE, 0, OK),
]


@pytest.mark.parametrize(("offers", "kind", "offset", "size", "flags", "error"), COMMANDS)
def test_each_command_has_the_error_that_the_document_says(
    offers: TransmissionFlag, kind: int, offset: int, size: int, flags: int, error: NbdError
) -> None:
    limits = NbdLimits(Export("disk0", SIZE, offers, block_min=512), 32 * MIB)
    assert limits.check(NbdCommand(flags, kind, 7, offset, size), 4 * KIB) == error


def option(number: int, body: bytes = b"") -> bytes:
    return b"IHAVEOPT" + struct.pack(">II", number, len(body)) + body


LONG = bytes(1 << 20)
# What a client sends, and the kinds of its replies; the last one shows that the next option is understood.
OPTIONS = {
    "abort with data": (option(2, b"x"), [ACK]),
    "abort with more data than any option has": (option(2, LONG), [ACK]),
    "list with data": (option(3, b"x") + option(3), [INVALID, SERVER, ACK]),
    "TLS": (option(5) + option(3), [UNSUP, SERVER, ACK]),
    "structured replies twice": (option(8) + option(8), [ACK, ACK]),
    "unknown, with data": (option(99, b"x" * 100) + option(3), [UNSUP, SERVER, ACK]),
    "unknown, too long": (option(99, LONG) + option(3), [UNSUP, SERVER, ACK]),
    "info, too long": (option(6, LONG) + option(3), [TOO_BIG, SERVER, ACK]),
    "go, too long": (option(7, LONG) + option(7, bytes(6)), [TOO_BIG, INFO, ACK]),
    "list, too long": (option(3, LONG) + option(3), [TOO_BIG, SERVER, ACK]),
    "info, unknown name": (option(6, struct.pack(">I1sH", 1, b"x", 0)) + option(3), [UNKNOWN, SERVER, ACK]),
    "info, same request twice": (option(6, struct.pack(">IHHH", 0, 2, 3, 3)), [INFO, INFO, ACK]),
    "info, bytes too many": (option(6, bytes(7)) + option(3), [INVALID, SERVER, ACK]),
}


def handshake() -> Handshake:
    return Handshake("disk0", lambda: Export("disk0", SIZE, ALL, "a disk", 512, 4096, 32 * MIB))


def kinds(data: bytes) -> list[int]:
    actual = []
    while data:
        _, _, kind, size = struct.unpack_from(">QIII", data)
        actual.append(kind)
        data = data[20 + size :]
    return actual


@pytest.mark.parametrize("flags", range(4))
@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_has_its_answer_and_the_next_one_is_understood(name: str, flags: int) -> None:
    sent, expected = OPTIONS[name]
    data, shake, actual = struct.pack(">I", flags) + sent, handshake(), b""
    for at in range(0, len(data), 4096):
        actual += b"".join(shake.feed(data[at : at + 4096]))
    assert kinds(actual) == expected


@pytest.mark.parametrize("name", [b"x", LONG])
def test_an_export_name_that_can_not_be_ends_the_session(name: bytes) -> None:
    shake = handshake()
    assert list(shake.feed(struct.pack(">I", 3) + option(1, name))) == []
    assert (shake.over, shake.export) == (True, None)


@pytest.mark.parametrize("number", [1, 7])
def test_reads_in_one_piece_are_offered_with_structured_replies_alone(number: int) -> None:
    last = option(1) if number == 1 else option(7, bytes(6))
    plain, structured = handshake(), handshake()
    list(plain.feed(struct.pack(">I", 3) + last))
    list(structured.feed(struct.pack(">I", 3) + option(8) + last))
    assert plain.export is not None
    assert structured.export is not None
    assert plain.export.flags == ALL
    assert structured.export.flags == ALL | F.SEND_DF


@pytest.mark.parametrize(
    ("size", "expected"),
    [(512, 512), (1536 * KIB, MIB), (MIB, MIB), (64 * MIB, 32 * MIB), (65536 << 32, 32 * MIB)],
)
def test_a_preferred_block_size_is_a_power_of_two_up_to_the_maximum(size: int, expected: int) -> None:
    assert power_of_two(size, 32 * MIB) == expected
