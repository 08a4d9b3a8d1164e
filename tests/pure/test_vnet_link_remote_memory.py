"""Memory reached by requests: copies for readers and writers, and what of a copy is sent back when."""

from __future__ import annotations

import pytest

from rings.errors import MemoryFault
from rings.memory import was_released
from vnet.link import remote_memory
from vnet.link.remote_memory import COPY_MAX, Copies, RemoteRange

BASE = 0x1000


class Owner:
    """The owner of 64 bytes, and a log of the requests to it."""

    def __init__(self) -> None:
        self.memory = bytearray(range(64))
        self.log: list[str] = []
        self.refuses = False

    def read(self, address: int, size: int) -> bytes:
        self.log.append(f"read {address - BASE} {size}")
        return bytes(self.memory[address - BASE : address - BASE + size])

    def write(self, address: int, data: bytes) -> None:
        self.log.append(f"write {address - BASE} {len(data)}")
        if self.refuses:
            raise MemoryFault(address, len(data), write=True, reason="refused")
        self.memory[address - BASE : address - BASE + len(data)] = data

    def before(self, address: int, size: int) -> bytes:
        return bytes(self.memory[address - BASE : address - BASE + size])


def new_range() -> tuple[Owner, Copies, RemoteRange]:
    owner, copies = Owner(), Copies()
    return owner, copies, RemoteRange(owner, copies, BASE, 64, readonly=False)


def test_a_part_of_a_part_is_at_its_own_address() -> None:
    owner, _, memory = new_range()
    part = memory.part(16, 48).part(8, 16)
    assert len(part) == 8
    assert part.copy(2, 3, writable=False).tobytes() == bytes([26, 27, 28])
    assert owner.log == ["read 26 3"]


def test_only_the_bytes_from_the_first_change_to_the_last_are_sent_and_only_once() -> None:
    owner, copies, memory = new_range()
    view = memory.copy(8, 32, writable=True)
    copies.flush()
    assert owner.log == [], "nothing has changed"
    view[4], view[9] = 0xAA, 0xBB
    owner.memory[20] = 0xCC  # of another writer, outside of the changes
    copies.flush()
    copies.flush()
    assert owner.log == ["write 12 6"]
    assert (owner.memory[12], owner.memory[17], owner.memory[20]) == (0xAA, 0xBB, 0xCC)
    view[0] = 0xDD
    copies.flush()
    assert owner.log[1:] == ["write 8 1"]


def test_a_copy_is_kept_as_long_as_a_view_of_it_exists() -> None:
    owner, copies, memory = new_range()
    view = memory.copy(0, 8, writable=True)
    part = view[4:]
    del view
    copies.flush()
    part[0] = 0xEE
    del part  # the change is sent even so
    copies.flush()
    assert owner.memory[4] == 0xEE
    assert copies.held == []


def test_a_reader_gets_a_copy_that_nothing_is_kept_of_and_that_cannot_be_changed() -> None:
    _, copies, memory = new_range()
    assert memory.copy(0, 8, writable=False).readonly
    assert copies.held == []


def test_a_change_that_the_owner_refuses_is_lost_and_those_of_others_are_not() -> None:
    owner, copies, memory = new_range()
    refused, other = Owner(), memory.copy(0, 4, writable=True)
    refused.refuses = True
    view = RemoteRange(refused, copies, BASE, 64, readonly=False).copy(0, 4, writable=True)
    view[0] = other[0] = 0x55
    copies.flush()
    copies.flush()
    assert (refused.log, owner.log) == (["write 0 1"], ["write 0 1"])


def test_copies_have_a_largest_size_alone_and_together(monkeypatch: pytest.MonkeyPatch) -> None:
    owner, copies, memory = new_range()
    for writable in (False, True):
        with pytest.raises(MemoryFault, match="more than is copied"):
            memory.copy(0, COPY_MAX + 1, writable)
    monkeypatch.setattr(remote_memory, "COPIES_MAX", 16)
    kept = memory.copy(0, 12, writable=True)
    with pytest.raises(MemoryFault):
        memory.copy(16, 5, writable=True)
    assert len(memory.copy(16, 16, writable=False)) == 16, "a reader's copy is not counted with the writers'"
    del kept
    copies.flush()
    assert len(memory.copy(16, 5, writable=True)) == 5
    assert owner.log == ["read 16 16"]


@pytest.mark.parametrize(("form", "size"), [("B", 1), ("H", 2), ("I", 4), ("Q", 8)])
def test_each_access_to_a_pinned_word_is_a_request(form: str, size: int) -> None:
    owner, _, memory = new_range()
    words = memory.pin(16, 32, form)
    assert (len(words), words.nbytes) == (32 // size, 32)
    assert words[1] == int.from_bytes(range(16 + size, 16 + 2 * size), "little")
    words[1] = 1
    assert owner.memory[16 + size : 16 + 2 * size] == (1).to_bytes(size, "little")
    assert owner.log == [f"read {16 + size} {size}", f"write {16 + size} {size}"]


def test_a_slice_of_pinned_words_is_one_request() -> None:
    owner, _, memory = new_range()
    words = memory.pin(0, 16, "H")
    assert list(words[1:7:2]) == [0x0302, 0x0706, 0x0B0A]
    assert list(words[5:5]) == []
    assert owner.log == ["read 2 12", "read 10 0"]


def test_data_leave_before_a_pinned_word_does() -> None:
    owner, _, memory = new_range()
    view, words = memory.copy(0, 4, writable=True), memory.pin(32, 2, "H")
    view[3] = 0
    words[0] = 1
    assert owner.log == ["write 3 1", "write 32 2"]


def test_a_released_pin_is_refused_as_a_released_view_is() -> None:
    owner, _, memory = new_range()
    words = memory.pin(0, 8, "H")
    words.release()
    with pytest.raises(ValueError, match="released") as caught:
        words[0] = 1
    assert was_released(caught.value)
    with pytest.raises(ValueError, match="released"):
        len(words)
    assert owner.log == []


def test_a_pin_is_located_in_memory_of_its_own_owner_only() -> None:
    _, copies, memory = new_range()
    words = memory.part(16, 64).pin(8, 8, "Q")
    assert memory.offset_of(words) == 24
    assert RemoteRange(Owner(), copies, BASE, 64, readonly=False).offset_of(words) is None
    assert memory.offset_of(memoryview(bytes(8))) is None
