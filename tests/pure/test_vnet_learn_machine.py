"""A machine names what its sides access, and shows buffers as people read them."""

from __future__ import annotations

import pytest

from rings.memory import Addr, MappedMemory
from vnet.learn.machine import Area, Machine, RecordedMemory, Trace, printable


@pytest.fixture
def machine() -> Machine:
    memory = MappedMemory()
    memory.add(Addr(0), memoryview(bytearray(256)))
    machine = Machine(memory)
    words = [machine.word(f"w{at}", Addr(at), 4, lambda data: str(int.from_bytes(data, "little"))) for at in (0, 4)]
    machine.areas.append(Area("words", "driver", tuple(words)))
    machine.buffer("buffer", Addr(64), 16, "device")
    return machine


def test_one_access_names_all_words_that_it_covers_with_their_values_after_it(machine: Machine) -> None:
    memory = RecordedMemory(machine.memory, "driver", machine)
    words = memory.pin(Addr(0), 8, "Q")
    words[0] = 5 | 7 << 32
    memory.fence()
    assert words[0] == 5 | 7 << 32
    memory.unpin(words)
    assert machine.trace == [
        Trace("driver", "store", "w0 = 5, w4 = 7", ("w0", "w4")),
        Trace("driver", "fence"),
        Trace("driver", "load", "w0 = 5, w4 = 7", ("w0", "w4")),
    ]


def test_a_view_names_its_areas_and_its_direction(machine: Machine) -> None:
    memory = RecordedMemory(machine.memory, "device", machine)
    memory.view(Addr(64), 16)
    memory.view(Addr(0), 80, True)
    assert [one.text for one in machine.trace] == ["buffer, 16 bytes to read", "words, buffer, 80 bytes to write"]


def test_an_access_without_a_name_has_its_address(machine: Machine) -> None:
    words = RecordedMemory(machine.memory, "driver", machine).pin(Addr(128), 8, "Q")
    words[0] = 1
    assert machine.trace == [Trace("driver", "store", "8 bytes at 0x80")]


def test_data_go_through_several_views_and_each_is_recorded(machine: Machine) -> None:
    views = [machine.memory.view(Addr(at), 3, True) for at in (64, 72)]
    machine.put("device", "buffer", views, b"abcde")
    assert [one.text for one in machine.trace] == ["buffer = 'abc'", "buffer = 'de'"]
    assert bytes(machine.memory.view(Addr(64), 11)) == b"abc\0\0\0\0\0de\0"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "''"),
        (bytes(8), "''"),
        (b"hello\0\0", "'hello'"),
        (b"\x01\x02", "01 02"),
        (b"\xff" * 17, "ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff ..."),
    ],
)
def test_a_buffer_is_shown_as_text_if_it_is_one(data: bytes, text: str) -> None:
    assert printable(data) == text
