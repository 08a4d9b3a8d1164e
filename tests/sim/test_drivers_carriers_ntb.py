"""The NTB endpoint function and the driver at each of its two hosts: what crosses, what never does, what ends it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from drivers.carriers.ntb import NtbEpf
from drivers.carriers.ntb_registers import (
    DB_COUNT,
    EXTENSION_MAGIC,
    MSIX_ENABLE,
    MSIX_OFFSET,
    MW_ALIGN,
    Bar,
    CommandStatus,
    NtbCommand,
    NtbTopology,
    Word,
    db_data,
    mw_size,
)
from drivers.contracts.hw import Ntb
from drivers.errors import ProbeError
from drivers.testing import TappedFunction
from rings.errors import MemoryFault
from rings.memory import Addr, Memory
from support.rigs.ntb import MIB, Bridge, Events
from vnet.errors import LinkDown, UnsupportedRequest
from vnet.pcie.config_space import PciCommand
from vnet.pcie.ntb import NtbFunction

AT = Addr(0x1234_5000)
"""An address that is nobody's: windows are reached at addresses of their user's choice."""
SIZE = 8 * MW_ALIGN


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    bridge = Bridge()
    yield bridge
    bridge.close()


def share(bridge: Bridge, end: int, window: int = 0, size: int = SIZE) -> Addr:
    """Memory of one end that the other one reaches; where it is."""
    buffer = bridge.memories[end].alloc(size, MW_ALIGN)
    bridge.ends[end].mw_set_trans(window, buffer.addr, size)
    return buffer.addr


def reach(bridge: Bridge, size: int = SIZE) -> tuple[Memory, Addr]:
    """The secondary's memory as the primary reaches it, and where it is at the secondary."""
    bridge.joined()
    addr = share(bridge, 1, size=size)
    return bridge.ends[0].peer_mw(0, AT, size), addr


def command(ntb: NtbEpf, word: int, argument: int = 0, addr: int = 0, size: int = 0) -> CommandStatus:
    function = ntb._function
    for at, value in ((Word.ADDR_LO, addr & 0xFFFF_FFFF), (Word.ADDR_HI, addr >> 32), (Word.SIZE, size)):
        function.bar_write(Bar.CONFIG, at, 4, value)
    function.bar_write(Bar.CONFIG, Word.ARGUMENT, 4, argument)
    function.bar_write(Bar.CONFIG, Word.COMMAND, 4, word)
    return CommandStatus(function.bar_read(Bar.CONFIG, Word.STATUS, 4))


def test_each_host_finds_one_function_and_knows_its_end(bridge: Bridge) -> None:
    primary, secondary = bridge.start()
    ntb: Ntb = primary
    assert ntb.name == "0000:01:00.0"
    assert (primary.vendor_id, primary.device_id) == (0x104C, 0xB00D)
    assert [end.topology for end in (primary, secondary)] == [NtbTopology.PRIMARY, NtbTopology.SECONDARY]
    assert (ntb.spad_count, ntb.mw_count, ntb.db_valid_mask) == (128, 2, 0xFFFF_FFFF)
    assert [ntb.mw_get_align(i).size_max for i in range(2)] == [MIB, 64 << 10]
    assert [bool(primary._function.bar_size(bar)) for bar in range(6)] == [True, False] * 3


def test_the_configuration_region_has_linuxs_words_at_linuxs_places(bridge: Bridge) -> None:
    primary, _ = bridge.start()
    words = {word: primary._function.bar_read(Bar.CONFIG, word, 4) for word in Word}
    assert [word.value for word in list(Word)[:13]] == list(range(0, 0x34, 4))
    assert (words[Word.NO_OF_MW], words[Word.SPAD_COUNT], words[Word.DB_ENTRY_SIZE]) == (2, 128, 4)
    assert (words[Word.SPAD_OFFSET], words[Word.MW1_OFFSET]) == (0x1000, MW_ALIGN)
    assert words[Word.MAGIC] == EXTENSION_MAGIC
    assert [primary._function.bar_read(Bar.CONFIG, db_data(i), 4) for i in (0, 31)] == [1, 32]
    assert primary._function.bar_read(Bar.CONFIG, mw_size(1), 4) == 64 << 10
    for word in set(Word) - {Word.ARGUMENT, Word.ADDR_LO, Word.ADDR_HI, Word.SIZE, Word.COMMAND}:
        primary._function.bar_write(Bar.CONFIG, word, 4, 0xA5A5_A5A5)
        assert primary._function.bar_read(Bar.CONFIG, word, 4) == words[word]


@pytest.mark.parametrize("size", [1, 2, 8])
def test_words_are_accessed_as_words_only(bridge: Bridge, size: int) -> None:
    primary, _ = bridge.start()
    primary.spad_write(0, 0x1122_3344)
    function = primary._function
    for bar, offset in ((Bar.CONFIG, 0x1000), (Bar.CONFIG, Word.SPAD_COUNT), (Bar.PEER_SPADS, 0)):
        assert function.bar_read(bar, offset, size) == 0
        function.bar_write(bar, offset, size, 0)
    assert function.bar_read(Bar.CONFIG, 0x1002, 4) == 0
    assert primary.spad_read(0) == 0x1122_3344


# The link between the hosts


@pytest.mark.parametrize("first", [0, 1])
def test_the_link_comes_up_once_both_asked_for_it_and_not_before(bridge: Bridge, first: int) -> None:
    ends = bridge.start()
    events = [Events(end) for end in ends]
    ends[first].link_enable()
    ends[first].link_enable()
    assert not any(end.link_is_up for end in ends)
    assert [e.log for e in events] == [[], []]
    ends[1 - first].link_enable()
    assert all(end.link_is_up for end in ends)
    assert [e.log for e in events] == [["up"], ["up"]]
    assert [end.link_epoch for end in ends] == [1, 1]
    ends[first].link_disable()
    assert not any(end.link_is_up for end in ends)
    assert [e.log for e in events] == [["up", "down"]] * 2


@pytest.mark.parametrize("at", [0, 1])
def test_a_flap_of_either_link_takes_it_down_and_up_again_in_another_epoch(bridge: Bridge, at: int) -> None:
    ends = bridge.joined()
    events = [Events(end) for end in ends]
    bridge.links[at].bring_down()
    assert not any(end.link_is_up for end in ends)
    bridge.links[at].bring_up()
    assert all(end.link_is_up for end in ends)
    assert [end.link_epoch for end in ends] == [2, 2]
    assert [(e.log[0], e.log[-1]) for e in events] == [("down", "up")] * 2


def test_a_host_whose_own_link_is_down_reads_all_ones_and_sees_no_link(bridge: Bridge) -> None:
    primary, _ = bridge.joined()
    bridge.links[0].bring_down()
    assert primary.spad_read(0) == primary.peer_spad_read(0) == 0xFFFF_FFFF
    assert not primary.link_is_up
    primary.spad_write(0, 1)
    primary.peer_db_set(1)
    primary.link_enable()
    primary.mw_clear_trans(0)
    with pytest.raises(MemoryFault):
        primary.peer_mw(0, AT, SIZE)


def test_a_host_that_does_not_want_the_link_any_more_is_not_joined_by_a_flap(bridge: Bridge) -> None:
    primary, secondary = bridge.joined()
    secondary.link_disable()
    bridge.links[1].bring_down()
    bridge.links[1].bring_up()
    assert not primary.link_is_up
    secondary.link_enable()
    assert primary.link_is_up


# Scratchpads


def test_a_word_of_the_peer_is_the_peers_own_word(bridge: Bridge) -> None:
    ends = bridge.start()
    dice = random.Random(1)
    model: list[list[int]] = [[0] * 128, [0] * 128]
    for _ in range(2000):
        at, own, spad, value = dice.randrange(2), dice.randrange(2), dice.randrange(128), dice.getrandbits(32)
        (ends[at].spad_write if own else ends[at].peer_spad_write)(spad, value)
        model[at if own else 1 - at][spad] = value
    for at in range(2):
        assert [ends[at].spad_read(i) for i in range(128)] == model[at]
        assert [ends[at].peer_spad_read(i) for i in range(128)] == model[1 - at]
    with pytest.raises(ValueError, match="no scratchpad 128 of 128"):
        ends[0].spad_read(128)


# Doorbells


@pytest.mark.parametrize("bit", range(DB_COUNT))
def test_a_bit_of_the_mask_rings_that_doorbell_and_no_other(bridge: Bridge, bit: int) -> None:
    primary, secondary = bridge.joined()
    events = Events(secondary)
    own = Events(primary)
    primary.peer_db_set(1 << bit)
    assert (events.log, own.log) == ([1 << bit], [])
    assert secondary.db_read() == 0


def test_bits_ring_one_by_one_and_stay_set_until_they_are_cleared(bridge: Bridge) -> None:
    primary, secondary = bridge.joined()
    primary.peer_db_set(0b1011)
    assert secondary.db_read() == 0b1011
    secondary.db_clear(0b0010)
    assert secondary.db_read() == 0b1001
    primary.peer_db_set(0b0010)
    assert secondary.db_read() == 0b1011


@pytest.mark.hostile("T04")
def test_a_masked_doorbell_is_set_and_told_once_it_is_unmasked(bridge: Bridge) -> None:
    primary, secondary = bridge.joined()
    events = Events(secondary)
    secondary.db_set_mask(0b11)
    for _ in range(3):
        primary.peer_db_set(0b101)
    assert events.log == [0b101] * 3
    primary.peer_db_set(0b001)
    secondary.db_clear_mask(0b10)
    assert len(events.log) == 3
    secondary.db_clear_mask(0b01)
    assert events.log[3:] == [0b001]
    secondary.db_clear_mask(0b01)
    assert len(events.log) == 4


@pytest.mark.hostile("T04")
def test_rings_while_the_interrupt_is_masked_merge_into_one_and_none_is_lost(bridge: Bridge) -> None:
    primary, secondary = bridge.joined()
    events = Events(secondary)
    control = MSIX_OFFSET + 16 * 6 + 12  # of doorbell 5
    secondary._function.bar_write(Bar.CONFIG, control, 4, 1)
    for _ in range(3):
        primary.peer_db_set(1 << 5)
    assert events.log == []
    secondary._function.bar_write(Bar.CONFIG, control, 4, 0)
    assert events.log == [1 << 5]


@pytest.mark.hostile("T04")
def test_a_bit_that_is_set_while_another_is_cleared_stays(bridge: Bridge) -> None:
    """Clearing takes the bits that were read, never all: what comes in between has an event of its own."""
    primary, secondary = bridge.joined()
    seen: list[int] = []

    class Racer:
        def link_event(self) -> None:
            pass

        def db_event(self) -> None:
            rung = secondary.db_read()
            if rung == 0b01:
                primary.peer_db_set(0b10)
            secondary.db_clear(rung)
            seen.append(rung)

    secondary.watch(Racer())
    primary.peer_db_set(0b01)
    assert seen == [0b11, 0b01]
    assert secondary.db_read() == 0


def test_a_doorbell_of_a_host_that_is_not_there_is_dead_and_forgotten(bridge: Bridge) -> None:
    primary, secondary = bridge.joined()
    function = primary._function
    function.bar_write(Bar.WINDOWS, 0, 4, 2)  # another doorbell's data
    function.bar_write(Bar.WINDOWS, 2, 4, 1)
    function.bar_write(Bar.WINDOWS, 0, 2, 1)
    assert secondary.db_read() == 0
    secondary.db_set_mask(1)
    primary.peer_db_set(1)
    bridge.links[1].bring_down()
    function.bar_write(Bar.WINDOWS, 0, 4, 1)
    primary.peer_db_set(1)
    bridge.links[1].bring_up()
    assert secondary.db_read() == 0
    assert bridge.ntb.primary.statistics().dead_doorbells == 2
    primary.peer_db_set(1)
    assert secondary.db_read() == 1


def test_what_was_written_before_a_doorbell_is_there_when_it_rings(bridge: Bridge) -> None:
    memory, addr = reach(bridge)
    seen: list[bytes] = []

    class Reader:
        def link_event(self) -> None:
            pass

        def db_event(self) -> None:
            bridge.ends[1].db_clear(bridge.ends[1].db_read())
            seen.append(bytes(bridge.memories[1].view(addr, 4)))

    bridge.ends[1].watch(Reader())
    for i in range(1000):
        memory.view(AT, 4, True)[:] = i.to_bytes(4, "little")
        bridge.ends[0].peer_db_set(1)
    assert seen == [i.to_bytes(4, "little") for i in range(1000)]


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


def test_four_windows_lie_in_one_bar_behind_the_doorbells() -> None:
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
        function.bar_write(Bar.WINDOWS, MW_ALIGN + 8 * size, size, (1 << 8 * size) - 2)
        assert bytes(bridge.memories[1].view(Addr(addr + 8 * size), size)) == b"\xfe" + b"\xff" * (size - 1)
        assert function.bar_read(Bar.WINDOWS, MW_ALIGN + 8 * size, size) == (1 << 8 * size) - 2
    assert function.bar_read(Bar.WINDOWS, MW_ALIGN + MIB, 4) == 0xFFFF_FFFF  # the second window shows nothing


def test_memory_that_is_not_there_is_not_reached(bridge: Bridge) -> None:
    """A host may translate to addresses where it has no memory: the other one finds none."""
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
        (NtbCommand.CONFIGURE_MW, 2, 0x4000_0000, 4096),
        (NtbCommand.CONFIGURE_MW, 0xFFFF_FFFF, 0x4000_0000, 4096),
        (NtbCommand.CONFIGURE_MW, 0, 0x4000_0800, 4096),
        (NtbCommand.CONFIGURE_MW, 0, 0x4000_0000, 0),
        (NtbCommand.CONFIGURE_MW, 0, 0x4000_0000, MIB + 1),
        (NtbCommand.CONFIGURE_MW, 0, (1 << 64) - 4096, MIB),
        (NtbCommand.TEARDOWN_MW, 2, 0, 0),
        (NtbCommand.CONFIGURE_DOORBELL, MSIX_ENABLE, 0, 0),
        (NtbCommand.CONFIGURE_DOORBELL, 4, 0, 0),
        (NtbCommand.CONFIGURE_DOORBELL, MSIX_ENABLE | 33, 0, 0),
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
        (Word.MAGIC, 0, "does not say what BAR2 holds"),
        (Word.NO_OF_MW, 0, "0 memory windows"),
        (Word.NO_OF_MW, 5, "5 memory windows"),
        (Word.SPAD_COUNT, 0, "0 scratchpads"),
        (Word.SPAD_COUNT, 1 << 20, "scratchpads don't fit"),
        (Word.SPAD_OFFSET, 1 << 20, "scratchpads don't fit"),
        (Word.DB_ENTRY_SIZE, 0, "doorbells of 0 bytes"),
        (Word.DB_ENTRY_SIZE, 4096, "doorbells of 4096 bytes"),
        (Word.MWS, 0, "windows don't fit"),
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


@pytest.mark.parametrize("windows", [(), (0,), (4095,), (1 << 32,), (4096,) * 5])
def test_an_ntb_that_can_not_be_is_refused(bridge: Bridge, windows: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="window"):
        NtbFunction(bridge.epcs[0], bridge.epcs[1], windows=windows)


def test_everything_shows_by_name(bridge: Bridge) -> None:
    reach(bridge)
    bridge.ends[0].spad_write(3, 42)
    shown = bridge.ntb.describe()
    assert (shown["link_up"], shown["link_epoch"]) == (True, 1)
    primary, secondary = shown["primary"], shown["secondary"]
    assert isinstance(primary, dict)
    assert isinstance(secondary, dict)
    assert primary["bars"] == {"BAR0": 0, "BAR1": 2, "BAR2": 4}
    assert primary["spads"][3] == 42
    assert primary["config"]["TOPOLOGY"] == 0
    assert [w["name"] for w in secondary["windows"]] == ["MW1", "MW2"]
    assert [w["mapped"] for w in secondary["windows"]] == [True, False]
