"""vfio-user byte by byte: commands survive a round trip, and any other input ends in one typed error and no leak."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.carriers.framing import ProtocolError
from drivers.testing import CountedHandle
from support.rigs.vfio_user_messages import message, refused, state_of
from vnet.vfio_user.accesses import RegionRead, RegionWrite, RegionWrites
from vnet.vfio_user.constants import DATA_MAX, FDS_MAX, MESSAGE_MAX, PAGE, Command, HeaderFlag, IrqSet
from vnet.vfio_user.messages import (
    HEADER_SIZE,
    LEGAL,
    MESSAGES,
    Assembler,
    SessionState,
    command_name,
    emit,
    error,
    parse,
    reply,
)
from vnet.vfio_user.payloads import (
    DeviceInfo,
    DmaMap,
    DmaUnmap,
    Empty,
    IrqInfo,
    Payload,
    Refused,
    RegionInfo,
    RegionIoFds,
    SetIrqs,
    Version,
)

C = Command
u16, u32 = st.integers(0, (1 << 16) - 1), st.integers(0, (1 << 32) - 1)
pages, address = st.integers(1, 1 << 20).map(lambda n: n * PAGE), st.integers(0, 1 << 40).map(lambda n: n * PAGE)
offset, data = st.integers(0, 1 << 48), st.binary(min_size=1, max_size=300)
BODIES: dict[type[Payload], st.SearchStrategy[Payload]] = {
    Empty: st.just(Empty()),
    Version: st.builds(Version, u16, u16, st.dictionaries(st.text(max_size=9), st.booleans() | u32, max_size=5)),
    DmaMap: st.builds(DmaMap, st.just(32), st.integers(1, 3), offset, address, pages),
    DmaUnmap: st.builds(DmaUnmap, st.just(24), st.just(0), address, pages),
    DeviceInfo: st.builds(DeviceInfo, u32, u32, u32, u32),
    RegionInfo: st.builds(RegionInfo, u32, u32, u32, u32, offset, offset),
    RegionIoFds: st.builds(RegionIoFds, u32, st.just(0), u32),
    IrqInfo: st.builds(IrqInfo, u32, u32, u32, u32),
    SetIrqs: st.builds(
        SetIrqs,
        st.just(20),
        st.sampled_from([d | a for d in (IrqSet.NONE, IrqSet.EVENTFD) for a in (IrqSet.MASK, IrqSet.TRIGGER)]),
        u32,
        u32,
        u32,
    ),
    RegionRead: st.builds(RegionRead, offset, u32, st.integers(1, DATA_MAX)),
    RegionWrite: st.builds(RegionWrite, offset, u32, data),
    RegionWrites: st.builds(
        RegionWrites,
        st.lists(st.builds(RegionWrite, offset, u32, st.binary(min_size=1, max_size=8)), max_size=9).map(tuple),
    ),
}
commands = st.sampled_from(sorted(MESSAGES)).flatmap(
    lambda number: st.tuples(st.just(C(number)), BODIES[MESSAGES[number].body], u16)
)


@pytest.mark.hostile("W01")
@given(st.lists(commands, min_size=1, max_size=5), st.integers(1, 80))
def test_any_split_gives_the_commands_that_were_sent(sent: list[tuple[C, Payload, int]], chunk: int) -> None:
    assembler, got = Assembler(), []
    for command, payload, number in sent:
        stream = emit(number, command, payload)
        while stream:
            part = stream[: min(chunk, assembler.missing)]
            stream = stream[len(part) :]
            got += [whole for whole in (assembler.feed(part),) if whole is not None]
    assert [(one.command, one.number) for one in got] == [(command, number) for command, _, number in sent]
    for one, (command, payload, _) in zip(got, sent, strict=True):
        assert parse(one, state_of(command)) == payload
    assert not assembler.partial


@pytest.mark.hostile("W02")
@pytest.mark.parametrize("size", [0, 15, MESSAGE_MAX + 1, 0xFFFFFFFF])
def test_a_size_that_can_not_be_ends_the_stream(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"a message of {size} bytes"):
        Assembler().feed(struct.pack("<HHIII", 1, C.DMA_MAP, size, 0, 0))


@pytest.mark.hostile("W02")
@pytest.mark.parametrize("command", sorted(MESSAGES))
def test_a_body_that_is_too_short_or_too_long_is_refused(command: int) -> None:
    low, high = MESSAGES[command].body.SIZES
    for size in {max(low - 1, 0), high + 1} - set(range(low, high + 1)):
        assert "bytes" in refused(command, bytes(size))


@pytest.mark.hostile("W03")
@pytest.mark.parametrize("flags", [1, 2, 0xF, 0x20, 0x40, 1 << 31])
def test_flags_that_no_command_has_end_the_stream(flags: int) -> None:
    with pytest.raises(ProtocolError, match="flags"):
        Assembler().feed(struct.pack("<HHIII", 1, C.DEVICE_RESET, HEADER_SIZE, flags, 0))


@pytest.mark.hostile("W03")
@pytest.mark.parametrize("command", [0, 11, 12, 14, 16, 17, 18, 19, 65535])
def test_an_unknown_command_is_refused(command: int) -> None:
    assert refused(command, b"") == f"command {command_name(command)} is unknown"


@pytest.mark.hostile("W04")
@pytest.mark.parametrize("command", sorted(MESSAGES))
def test_file_descriptors_that_a_command_does_not_take_are_refused(command: int) -> None:
    low, _ = MESSAGES[command].body.SIZES
    assert "file descriptors" in refused(command, bytes(low), MESSAGES[command].fds + 1)


@pytest.mark.hostile("W04")
def test_file_descriptors_beyond_the_limit_or_late_are_closed() -> None:
    for fds, parts in ((FDS_MAX + 1, (emit(1, C.DEVICE_RESET),)), (1, (b"\0", b"\0"))):
        assembler, still_open = Assembler(), list[CountedHandle]()
        handles = [CountedHandle(still_open) for _ in range(fds)]
        *early, last = parts
        for part in early:
            assert assembler.feed(part) is None
        with pytest.raises(ProtocolError, match="file descriptor"):
            assembler.feed(last, handles)
        assert still_open == []


@pytest.mark.hostile("W05")
@pytest.mark.parametrize("state", SessionState)
def test_a_command_in_the_wrong_state_is_refused(state: SessionState) -> None:
    for command in MESSAGES.keys() - LEGAL[state]:
        with pytest.raises(Refused, match="the session is"):
            parse(message(command, b""), state)
    assert set().union(*LEGAL.values()) == MESSAGES.keys()


@pytest.mark.hostile("W14")
@given(u16, st.binary(max_size=200))
def test_any_body_is_a_value_or_refused(command: int, body: bytes) -> None:
    for number in (command, *MESSAGES):
        try:
            payload = parse(message(number, body), state_of(number))
        except Refused:
            continue
        assert isinstance(payload, MESSAGES[number].body)


def test_replies_echo_the_number_and_the_command() -> None:
    command = message(C.DMA_UNMAP, b"")
    assert reply(command, b"body") == struct.pack("<HHIII", 1, C.DMA_UNMAP, 20, HeaderFlag.REPLY, 0) + b"body"
    assert error(command, 22) == struct.pack("<HHIII", 1, C.DMA_UNMAP, 16, HeaderFlag.REPLY | HeaderFlag.ERROR, 22)
