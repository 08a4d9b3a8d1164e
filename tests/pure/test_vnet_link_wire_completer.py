"""Requests done at an end of a link: memory in several regions, registers, configuration space, messages."""

from __future__ import annotations

import pytest

from rings.errors import MemoryFault
from rings.memory import Addr
from support.rigs.wire import MemoryEnd
from vnet.link.base import Region
from vnet.link.transaction.fields import CompletionStatus, MessageCode
from vnet.link.transaction.packets import Completion, ConfigRead, ConfigWrite, Header, MemoryRead, MemoryWrite, Message
from vnet.link.wire.completer import EndpointCompleter, RootCompleter, function_of, requester_of

HEADER = Header(0x100)
LOW, HIGH = Addr(0), Addr(8)


class Regions(MemoryEnd):
    """An end whose memory is in regions, in any order: the same ones for each range."""

    def __init__(self, *parts: Region) -> None:
        super().__init__()
        self.parts = list(parts)

    def regions(self, addr: int, size: int, function: int) -> list[Region]:
        return self.parts


class Unreachable:
    """Remote memory whose owner refuses each access."""

    readonly = False

    def __len__(self) -> int:
        return 16

    def part(self, start: int, end: int) -> Unreachable:
        return self

    def copy(self, start: int, size: int, writable: bool) -> memoryview:
        raise MemoryFault(start, size, write=writable, reason="the owner is gone")

    def pin(self, start: int, size: int, form: str) -> memoryview:
        raise MemoryFault(start, size, write=True, reason="the owner is gone")

    def offset_of(self, pin: memoryview) -> int | None:
        return None


def endpoint(end: MemoryEnd) -> EndpointCompleter:
    return EndpointCompleter(end, requester_of(0), 128, 64)


def read(end: MemoryEnd) -> list[Completion]:
    return endpoint(end).read(MemoryRead(header=HEADER, address=0, last=0xF, length=4))


def write(end: MemoryEnd) -> bool:
    return endpoint(end).write(MemoryWrite(header=HEADER, address=0, last=0xF, data=b"0123456789abcdef"))


@pytest.mark.parametrize(
    ("first", "last", "count", "expected"),
    [(0b1001, 0, 4, "a..d"), (0b1010, 0b0101, 8, ".b.de.g."), (0, 0, 4, "...."), (0b1100, 0b0011, 8, "..cdef..")],
)
def test_only_enabled_bytes_change_memory(first: int, last: int, count: int, expected: str) -> None:
    end = MemoryEnd()
    end.memory[:8] = b"........"
    packet = MemoryWrite(header=HEADER, address=0, first=first, last=last, data=b"abcdefgh"[:count])
    assert endpoint(end).write(packet)
    assert end.memory[:count].decode() == expected


def test_regions_that_adjoin_are_one_in_any_order() -> None:
    low, high = bytearray(b"left...."), bytearray(b"right...")
    end = Regions((HIGH, memoryview(high)), (LOW, memoryview(low)))
    assert [each.data for each in read(end)] == [b"left....right..."]
    assert write(end)
    assert low + high == b"0123456789abcdef"


@pytest.mark.parametrize(
    "parts",
    [
        (),
        ((LOW, memoryview(bytearray(8))),),
        ((HIGH, memoryview(bytearray(8))),),
        ((LOW, memoryview(bytearray(4))), (HIGH, memoryview(bytearray(8)))),
        ((LOW, Unreachable()),),
    ],
    ids=["no memory", "no end", "no beginning", "a gap", "unreachable"],
)
def test_memory_that_is_not_all_there_is_neither_read_nor_written(parts: tuple[Region, ...]) -> None:
    end = Regions(*parts)
    assert [each.status for each in read(end)] == [CompletionStatus.UNSUPPORTED_REQUEST]
    assert not write(end)
    assert not any(any(view) for _, view in parts if isinstance(view, memoryview))


def test_a_write_that_reaches_memory_for_reading_changes_nothing() -> None:
    low = bytearray(8)
    end = Regions((LOW, memoryview(low)), (HIGH, memoryview(bytes(8))))
    assert not write(end)
    assert low == bytes(8)


def test_a_read_without_enabled_bytes_is_answered_by_zeroes() -> None:
    flush = MemoryRead(header=HEADER, address=1 << 30, first=0, length=1)
    assert [each.data for each in endpoint(MemoryEnd()).read(flush)] == [bytes(4)]


def test_configuration_requests_go_to_the_function_that_they_name_and_only_enabled_bytes_count() -> None:
    end = MemoryEnd()
    end.config[:4] = b"wxyz"
    device, header = endpoint(end), Header(0, 9)
    half = device.configure(ConfigRead(header=header, target=0x100, register=0, enabled=0b1100))
    assert (half.data, half.header.tag, half.completer) == (b"\0\0yz", 9, 0x100)
    nothing = device.configure(ConfigRead(header=header, target=0x103, register=0, enabled=0))
    assert (nothing.status, nothing.data) == (CompletionStatus.SUCCESS, bytes(4))
    device.configure(ConfigWrite(header=header, target=0x100, register=0, enabled=0, data=b"evil"))
    assert end.config[:4] == b"wxyz"
    other = device.configure(ConfigWrite(header=header, target=0x103, register=0, data=b"evil"))
    assert other.status is CompletionStatus.UNSUPPORTED_REQUEST


def test_a_root_complex_has_no_configuration_space_for_the_endpoint() -> None:
    root = RootCompleter(MemoryEnd(), 0, 128, 64)
    answer = root.configure(ConfigRead(header=HEADER, target=0, register=0))
    assert (answer.status, answer.data) == (CompletionStatus.UNSUPPORTED_REQUEST, b"")


class Errors:
    def __init__(self) -> None:
        self.taken: list[tuple[MessageCode, int]] = []

    def error_message(self, code: MessageCode, requester: int) -> None:
        self.taken.append((code, requester))


def test_a_root_complex_takes_interrupts_and_hands_on_messages_of_errors() -> None:
    end, errors = MemoryEnd(), Errors()
    root = RootCompleter(end, 0, 128, 64, errors)
    for code in (MessageCode.DEASSERT_INTA, MessageCode.ERR_COR, MessageCode.ERR_FATAL, MessageCode.PM_PME):
        root.message(Message(header=Header(requester_of(3)), code=code))
    assert end.log == ["INTx False of function 3"]
    assert errors.taken == [(MessageCode.ERR_COR, 0x103), (MessageCode.ERR_FATAL, 0x103)]
    RootCompleter(end, 0, 128, 64).message(Message(header=HEADER, code=MessageCode.ERR_COR))


def test_the_identity_of_a_function_has_its_number() -> None:
    assert [function_of(requester_of(number)) for number in range(8)] == list(range(8))
