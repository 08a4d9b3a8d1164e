"""The NTB endpoint function: memory windows, and functions that are no NTB."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drivers.carriers.ntb import NtbEpf
from drivers.carriers.ntb_registers import (
    MSIX_ENABLE,
    MW_ALIGN,
    Bar,
    CommandStatus,
    FunctionCommand,
    Word,
)
from drivers.errors import ProbeError, TransportLost
from drivers.testing import TappedFunction
from rings.errors import MemoryFault
from rings.memory import Addr
from support.rigs.ntb import MIB, Bridge
from support.rigs.ntb_bridge import AT, bridge, reach, share
from vnet.errors import LinkDown, UnsupportedRequest
from vnet.pcie.config_space import PciCommand
from vnet.pcie.ntb import NtbFunction
from vnet.views.plain import to_plain

__all__ = ["bridge"]  # a fixture


SIZE = 8 * MW_ALIGN


def command(ntb: NtbEpf, word: int, argument: int = 0, addr: int = 0, size: int = 0) -> CommandStatus:
    function = ntb._function
    for at, value in (
        (Word.ADDR_LO, addr & 0xFFFF_FFFF),
        (Word.ADDR_HI, addr >> 32),
        (Word.SIZE, size),
        (Word.SIZE_HI, 0),
    ):
        function.bar_write(Bar.CONFIG, at, 4, value)
    function.bar_write(Bar.CONFIG, Word.ARGUMENT, 4, argument)
    function.bar_write(Bar.CONFIG, Word.COMMAND, 4, word)
    return CommandStatus(function.bar_read(Bar.CONFIG, Word.STATUS, 4))


# Memory windows


def test_a_window_is_the_other_hosts_memory_itself_and_ends_where_it_ends(bridge: Bridge) -> None:
    memory, addr = reach(bridge)
    there = bridge.memories[1]
    memory.view(AT, SIZE, True)[:5] = b"hello"
    assert bytes(there.view(addr, 5)) == b"hello"
    there.view(Addr(addr + SIZE - 1), 1, True)[0] = 0x5A
    assert memory.view(Addr(AT + SIZE - 1), 1)[0] == 0x5A
    for at, size in ((AT + SIZE, 1), (AT + SIZE - 1, 2), (AT - 1, 1), (AT - 1, 2), (addr, 1), (0, 1), (1 << 63, 1)):
        accesses: tuple[Callable[[Addr, int], object], ...] = (
            memory.view,
            memory.segments,
            lambda at, size: memory.pin(at, size, "B"),
        )
        for access in accesses:
            with pytest.raises(MemoryFault) as caught:
                access(Addr(at), size)
            assert at <= caught.value.addr < at + size


def test_both_hosts_reach_each_other_and_each_window_is_its_own(bridge: Bridge) -> None:
    bridge.joined()
    places = {(end, window): share(bridge, end, window) for end in (0, 1) for window in (0, 1)}
    for (end, window), addr in places.items():
        bridge.ends[1 - end].peer_mw(window, AT, SIZE).view(AT, 2, True)[:] = bytes((end, window))
        assert bytes(bridge.memories[end].view(addr, 2)) == bytes((end, window))


def test_four_windows_lie_in_one_bar() -> None:
    sizes = (MIB, MW_ALIGN, 3 * MW_ALIGN, 2 * MIB)
    bridge = Bridge(sizes)
    bridge.joined()
    for window, size in enumerate(sizes):
        part = min(size, 64 << 10)
        addr = share(bridge, 1, window, part)
        bridge.ends[0].peer_mw(window, AT, part).view(AT, 1, True)[0] = 1 + window
        assert bridge.memories[1].view(addr, 1)[0] == 1 + window
    bridge.close()


def test_nothing_is_reached_before_a_translation_is_set_and_after_it_is_cleared(bridge: Bridge) -> None:
    primary, secondary = bridge.joined()
    with pytest.raises(MemoryFault):
        primary.peer_mw(0, AT, SIZE).view(AT, 1)
    share(bridge, 1)
    memory = primary.peer_mw(0, AT, SIZE)
    pinned = memory.pin(AT, 8, "Q")
    secondary.mw_clear_trans(0)
    with pytest.raises(UnsupportedRequest):
        memory.view(AT, 1)
    with pytest.raises(ValueError, match="released"):
        pinned[0]
    with pytest.raises(MemoryFault):
        primary.peer_mw(0, AT, SIZE).view(AT, 1)


def test_a_new_translation_takes_the_old_one_away(bridge: Bridge) -> None:
    memory, old = reach(bridge)
    new = share(bridge, 1, size=MW_ALIGN)
    with pytest.raises(UnsupportedRequest):
        memory.view(AT, 1)
    memory = bridge.ends[0].peer_mw(0, AT, SIZE)
    memory.view(AT, 1, True)[0] = 7
    assert (bridge.memories[1].view(old, 1)[0], bridge.memories[1].view(new, 1)[0]) == (0, 7)
    with pytest.raises(MemoryFault):  # although it lies in the same outbound window of 64 KiB
        memory.view(Addr(AT + MW_ALIGN), 1)


@pytest.mark.hostile("T02")
@pytest.mark.parametrize("at", [0, 1])
def test_either_link_going_down_closes_the_window_for_good(bridge: Bridge, at: int) -> None:
    memory, addr = reach(bridge)
    pinned = memory.pin(AT, 8, "Q")
    bridge.links[at].bring_down()
    bridge.links[at].bring_up()
    with pytest.raises((LinkDown, UnsupportedRequest)):
        memory.view(AT, 1)
    with pytest.raises(ValueError, match="released"):
        pinned[0]
    bridge.ends[1].mw_set_trans(0, addr, SIZE)
    bridge.ends[0].peer_mw(0, AT, SIZE).view(AT, 1)


@pytest.mark.parametrize("reset", ["bus mastering", "function-level reset"])
def test_a_host_that_takes_the_functions_rights_away_closes_its_memory(bridge: Bridge, reset: str) -> None:
    memory, _ = reach(bridge)
    function = bridge.rcs[1].functions[0]
    if reset == "bus mastering":
        function.config_write(4, 2, PciCommand.MEMORY)
    else:
        assert function.reset()
        assert not bridge.ends[0].link_is_up
    with pytest.raises(UnsupportedRequest):
        memory.view(AT, 1)


def test_a_host_that_turns_its_own_bars_off_loses_its_windows(bridge: Bridge) -> None:
    memory, _ = reach(bridge)
    bridge.rcs[0].functions[0].config_write(4, 2, PciCommand.BUS_MASTER)
    with pytest.raises(UnsupportedRequest):
        memory.view(AT, 1)


def test_registers_accesses_to_a_window_reach_the_same_memory(bridge: Bridge) -> None:
    _, addr = reach(bridge)
    function = bridge.ends[0]._function
    for size in (1, 2, 4, 8):
        function.bar_write(Bar.WINDOWS, 8 * size, size, (1 << 8 * size) - 2)
        assert bytes(bridge.memories[1].view(Addr(addr + 8 * size), size)) == b"\xfe" + b"\xff" * (size - 1)
        assert function.bar_read(Bar.WINDOWS, 8 * size, size) == (1 << 8 * size) - 2
    assert function.bar_read(Bar.WINDOWS, MIB, 4) == 0xFFFF_FFFF  # the second window shows nothing


def test_memory_that_is_not_there_is_not_reached(bridge: Bridge) -> None:
    """A host may translate to addresses without memory: the other one's accesses fail."""
    primary, secondary = bridge.joined()
    end = bridge.memories[1].base + bridge.memories[1].size
    secondary.mw_set_trans(0, Addr(end - MW_ALIGN), 2 * MW_ALIGN)
    memory = primary.peer_mw(0, AT, 2 * MW_ALIGN)
    memory.view(AT, MW_ALIGN)
    with pytest.raises(MemoryFault):
        memory.view(AT, MW_ALIGN + 1)
    secondary.mw_set_trans(0, Addr(0xFEE0_0000), MW_ALIGN)  # its interrupts
    with pytest.raises(MemoryFault):
        primary.peer_mw(0, AT, MW_ALIGN).view(AT, 4)


@pytest.mark.parametrize(
    ("number", "argument", "addr", "size"),
    [
        (FunctionCommand.CONFIGURE_MW, 2, 0x4000_0000, 4096),
        (FunctionCommand.CONFIGURE_MW, 0xFFFF_FFFF, 0x4000_0000, 4096),
        (FunctionCommand.CONFIGURE_MW, 0, 0x4000_0800, 4096),
        (FunctionCommand.CONFIGURE_MW, 0, 0x4000_0000, 0),
        (FunctionCommand.CONFIGURE_MW, 0, 0x4000_0000, MIB + 1),
        (FunctionCommand.CONFIGURE_MW, 0, (1 << 64) - 4096, MIB),
        (FunctionCommand.TEARDOWN_MW, 2, 0, 0),
        (FunctionCommand.CONFIGURE_DOORBELL, MSIX_ENABLE | 2, 0, 0),
        (FunctionCommand.CONFIGURE_DOORBELL, 4, 0, 0),
        (FunctionCommand.CONFIGURE_DOORBELL, MSIX_ENABLE | 33, 0, 0),
        (7, 0, 0, 0),
        (0xFFFF_FFFF, 0, 0, 0),
    ],
)
def test_a_command_that_makes_no_sense_is_refused_and_changes_nothing(
    bridge: Bridge, number: int, argument: int, addr: int, size: int
) -> None:
    memory, _ = reach(bridge)
    assert command(bridge.ends[1], number, argument, addr, size) & 3 == CommandStatus.ERROR
    assert bridge.ntb.secondary.statistics().refused == 1
    memory.view(AT, SIZE)
    bridge.ends[0].peer_db_set(1)
    assert bridge.ends[1].db_read() == 1


def test_outbound_windows_are_given_back() -> None:
    bridge = Bridge()
    bridge.joined()
    for _ in range(100):
        share(bridge, 1, size=MW_ALIGN)
        share(bridge, 1, window=1, size=MW_ALIGN)
    assert len(bridge.epcs[1]._pool.mapped) == 2
    for window in (0, 1):
        bridge.ends[1].mw_clear_trans(window)
    assert len(bridge.epcs[1]._pool.mapped) == 0
    bridge.close()


# Functions that are none


@pytest.mark.parametrize(
    ("word", "value", "why"),
    [
        (Word.MAGIC, 0, "does not describe its windows"),
        (Word.NO_OF_MW, 0, "0 memory windows"),
        (Word.NO_OF_MW, 5, "5 memory windows"),
        (Word.SPAD_COUNT, 0, "0 scratchpads"),
        (Word.SPAD_COUNT, 1 << 20, "scratchpads don't fit"),
        (Word.SPAD_OFFSET, 1 << 20, "scratchpads don't fit"),
        (Word.DB_ENTRY_SIZE, 0, "doorbells of 0 bytes"),
        (Word.DB_ENTRY_SIZE, 4096, "doorbells of 4096 bytes"),
        (Word.MWS, 1 << 30, "windows don't fit"),
        (Word.MWS + 4, 1 << 30, "windows don't fit"),
    ],
)
@pytest.mark.hostile("T05")
def test_a_function_whose_registers_lie_is_refused(bridge: Bridge, word: int, value: int, why: str) -> None:
    bridge.epcs[0].start()
    tapped = TappedFunction(bridge.rcs[0].functions[0])
    tapped.lies[Bar.CONFIG, word] = lambda _: value
    with pytest.raises(ProbeError, match=why):
        NtbEpf(tapped)


def test_a_function_without_interrupts_is_refused(bridge: Bridge) -> None:
    bridge.epcs[0].start()
    tapped = TappedFunction(bridge.rcs[0].functions[0])
    tapped.max_vectors = 0
    with pytest.raises(ProbeError, match="MSI-X"):
        NtbEpf(tapped)


def test_a_function_that_does_not_answer_keeps_no_interrupts(bridge: Bridge) -> None:
    bridge.epcs[0].start()
    function = bridge.rcs[0].functions[0]
    tapped = TappedFunction(function)
    tapped.lies[Bar.CONFIG, Word.STATUS] = lambda _: 0xFFFF_FFFF
    with pytest.raises(TransportLost, match="no answer to CONFIGURE_DOORBELL"):
        NtbEpf(tapped)
    assert function.snapshot().vectors == ()


@pytest.mark.parametrize("windows", [(), (0,), (4095,), (1 << 32,), (4096,) * 5])
def test_an_ntb_that_can_not_be_is_refused(bridge: Bridge, windows: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="window"):
        NtbFunction(bridge.epcs[0], bridge.epcs[1], windows=windows)


def test_everything_shows_by_name(bridge: Bridge) -> None:
    reach(bridge)
    bridge.ends[0].spad_write(3, 42)
    shown = to_plain(bridge.ntb.snapshot("mid"))
    assert (shown["link_up"], shown["link_epoch"]) == (True, 1)
    primary, secondary = shown["primary"], shown["secondary"]
    assert isinstance(primary, dict)
    assert isinstance(secondary, dict)
    assert primary["bars"] == {"config": 0, "doorbells": 2, "windows": 4}
    assert primary["spads"]["spad 3"] == 42
    assert primary["config"]["TOPOLOGY"] == 0
    assert [w["name"] for w in secondary["windows"]] == ["MW1", "MW2"]
    assert [w["mapped"] for w in secondary["windows"]] == [True, False]
