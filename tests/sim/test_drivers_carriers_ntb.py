"""The NTB driver at each of the two hosts: link, scratchpads and doorbells."""

from __future__ import annotations

import random

import pytest

from drivers.carriers.ntb_registers import (
    DB_COUNT,
    EXTENSION_MAGIC,
    MSIX_OFFSET,
    MW_ALIGN,
    Bar,
    CommandStatus,
    NtbTopology,
    Word,
    db_data,
    mw_size,
)
from drivers.contracts.hw import Ntb
from rings.errors import MemoryFault
from support.rigs.ntb import MIB, Bridge, Events
from support.rigs.ntb_bridge import AT, bridge, reach

__all__ = ["bridge"]  # a fixture


SIZE = 8 * MW_ALIGN


def test_each_host_finds_one_function_and_knows_its_end(bridge: Bridge) -> None:
    primary, secondary = bridge.start()
    ntb: Ntb = primary
    assert ntb.name == "0000:01:00.0"
    assert (primary.vendor_id, primary.device_id) == (0x1957, 0x0809)
    assert [end.topology for end in (primary, secondary)] == [NtbTopology.PRIMARY, NtbTopology.SECONDARY]
    assert (ntb.spad_count, ntb.mw_count, ntb.db_valid_mask) == (128, 2, 0x3FFF_FFFF)
    assert [ntb.mw_get_align(i).size_max for i in range(2)] == [MIB, 64 << 10]
    assert [bool(primary._function.bar_size(bar)) for bar in range(6)] == [True, False] * 3


def test_the_configuration_region_has_linuxs_words_at_linuxs_places(bridge: Bridge) -> None:
    primary, _ = bridge.start()
    words = {word: primary._function.bar_read(Bar.CONFIG, word, 4) for word in Word}
    assert [word.value for word in list(Word)[:14]] == list(range(0, 0x38, 4))
    assert (words[Word.NO_OF_MW], words[Word.SPAD_COUNT], words[Word.DB_ENTRY_SIZE]) == (2, 128, 4)
    assert (words[Word.SPAD_OFFSET], words[Word.MW1_OFFSET]) == (0x1000, 0)
    assert words[Word.MAGIC] == EXTENSION_MAGIC
    assert [primary._function.bar_read(Bar.CONFIG, db_data(i), 4) for i in (0, 29)] == [2, 31]
    assert primary._function.bar_read(Bar.CONFIG, mw_size(1), 4) == 64 << 10
    for word in set(Word) - {
        Word.ARGUMENT,
        Word.ADDR_LO,
        Word.ADDR_HI,
        Word.SIZE,
        Word.SIZE_HI,
        Word.COMMAND,
        Word.STATUS,
    }:
        primary._function.bar_write(Bar.CONFIG, word, 4, 0xA5A5_A5A5)
        assert primary._function.bar_read(Bar.CONFIG, word, 4) == words[word]


@pytest.mark.parametrize("size", [1, 2, 8])
def test_words_are_accessed_as_words_only(bridge: Bridge, size: int) -> None:
    primary, _ = bridge.start()
    primary.spad_write(0, 0x1122_3344)
    function = primary._function
    for bar, offset in ((Bar.CONFIG, 0x1000), (Bar.CONFIG, Word.SPAD_COUNT), (Bar.CONFIG, 0x1200)):
        assert function.bar_read(bar, offset, size) == 0
        function.bar_write(bar, offset, size, 0)
    assert function.bar_read(Bar.CONFIG, 0x1002, 4) == 0
    assert primary.spad_read(0) == 0x1122_3344


def test_a_scratchpad_whose_read_got_no_completion_is_read_again(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost completion returns all-ones, which a device would take for the features that the driver accepts."""
    primary, secondary = bridge.start()
    secondary.peer_spad_write(3, 0x1234_5678)
    secondary.spad_write(4, 0x9ABC_DEF0)
    read, lost = primary._function.bar_read, list[int]()

    def lossy(bar: int, offset: int, size: int) -> int:
        value = read(bar, offset, size)
        if offset in lost:
            return value
        lost.append(offset)
        return 0xFFFF_FFFF

    monkeypatch.setattr(primary._function, "bar_read", lossy)
    assert (primary.spad_read(3), primary.peer_spad_read(4)) == (0x1234_5678, 0x9ABC_DEF0)


def test_the_halves_of_the_status_are_read_alone_and_a_write_clears_the_result(bridge: Bridge) -> None:
    primary, _ = bridge.joined()
    function = primary._function
    assert [function.bar_read(Bar.CONFIG, Word.STATUS + at, 2) for at in (0, 2)] == [CommandStatus.OK, 1]
    function.bar_write(Bar.CONFIG, Word.STATUS, 2, 0)
    assert [function.bar_read(Bar.CONFIG, Word.STATUS + at, 2) for at in (0, 2)] == [0, 1]


# The link between the hosts


@pytest.mark.parametrize("first", [0, 1])
def test_the_link_comes_up_once_both_requested_it_and_not_before(bridge: Bridge, first: int) -> None:
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
def test_a_masked_doorbell_is_set_and_interrupts_once_it_is_unmasked(bridge: Bridge) -> None:
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
    control = MSIX_OFFSET + 16 * 7 + 12  # of doorbell 5
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
    function.bar_write(Bar.DOORBELLS, 8, 4, 3)  # another doorbell's data
    function.bar_write(Bar.DOORBELLS, 10, 4, 2)
    function.bar_write(Bar.DOORBELLS, 8, 2, 2)
    for vector in (0, 1, 32):  # none of a doorbell
        function.bar_write(Bar.DOORBELLS, 4 * vector, 4, vector)
    assert secondary.db_read() == 0
    secondary.db_set_mask(1)
    primary.peer_db_set(1)
    bridge.links[1].bring_down()
    function.bar_write(Bar.DOORBELLS, 8, 4, 2)
    primary.peer_db_set(1)
    bridge.links[1].bring_up()
    assert secondary.db_read() == 0
    assert bridge.ntb.primary.statistics().dead_doorbells == 2
    primary.peer_db_set(1)
    assert secondary.db_read() == 1


def test_data_written_before_a_doorbell_are_there_when_it_rings(bridge: Bridge) -> None:
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
