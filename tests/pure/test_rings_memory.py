"""Addresses to views: regions, ranges that leave them, and pins that end with them."""

from __future__ import annotations

import pytest

from rings.errors import MemoryFault
from rings.memory import Addr, MappedMemory, Memory

TOP = 1 << 64


def region(memory: MappedMemory, addr: int, size: int, *, writable: bool = True) -> bytearray:
    data = bytearray(size)
    memory.add(Addr(addr), memoryview(data), writable=writable)
    return data


@pytest.fixture
def memory() -> MappedMemory:
    """Two neighbours at 0x1000 and 0x2000, a hole, and one at 0x8000."""
    memory = MappedMemory()
    for addr, fill in ((0x2000, b"b"), (0x1000, b"a"), (0x8000, b"c")):
        region(memory, addr, 0x1000)[:] = fill * 0x1000
    return memory


def test_a_view_is_the_memory_itself() -> None:
    memory = MappedMemory()
    data = region(memory, 0x1000, 16)
    as_protocol: Memory = memory
    as_protocol.view(Addr(0x1004), 4, True)[:] = b"abcd"
    assert data[4:8] == b"abcd"
    data[5] = 0x7A
    assert bytes(memory.view(Addr(0x1004), 4)) == b"azcd"


def test_every_region_is_found_whichever_was_used_last(memory: MappedMemory) -> None:
    for addr, expected in ((0x1000, b"a"), (0x8FFF, b"c"), (0x2000, b"b"), (0x1FFF, b"a")):
        assert bytes(memory.view(Addr(addr), 1)) == expected
    assert memory.ranges == ((0x1000, 0x1000), (0x2000, 0x1000), (0x8000, 0x1000))


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize(
    ("addr", "size"),
    [(0, 1), (0xFFF, 1), (0x3000, 1), (0x7FFF, 2), (0x8FFF, 2), (0x9000, 1), (TOP - 1, 1), (0x8000, TOP)],
)
def test_a_byte_outside_of_memory_faults_and_says_where(memory: MappedMemory, addr: int, size: int, warm: bool) -> None:
    if warm:
        memory.view(Addr(0x8000), 1)
    for access in (memory.view, memory.segments):
        with pytest.raises(MemoryFault) as caught:
            access(Addr(addr), size, True)
        assert caught.value.write
        assert "write of" in str(caught.value)


def test_a_range_over_two_neighbours_comes_in_pieces(memory: MappedMemory) -> None:
    pieces = memory.segments(Addr(0x1FFE), 5)
    assert [bytes(piece) for piece in pieces] == [b"aa", b"bbb"]
    assert [len(piece) for piece in memory.segments(Addr(0x1000), 0x2000)] == [0x1000, 0x1000]
    with pytest.raises(MemoryFault, match="crosses the end"):
        memory.view(Addr(0x1FFE), 5)
    with pytest.raises(MemoryFault):
        memory.pin(Addr(0x1FFE), 4, "H")


def test_a_range_that_leaves_the_last_region_faults_as_a_whole(memory: MappedMemory) -> None:
    with pytest.raises(MemoryFault, match="no memory there"):
        memory.segments(Addr(0x2FFF), 2)


def test_an_empty_range_has_no_pieces(memory: MappedMemory) -> None:
    assert memory.segments(Addr(0x1000), 0) == []


def test_a_range_that_wraps_the_address_space_faults() -> None:
    memory = MappedMemory()
    region(memory, 0, 16)
    region(memory, TOP - 16, 16)
    assert memory.view(Addr(TOP - 16), 16).nbytes == 16
    for access in (memory.view, memory.segments):
        with pytest.raises(MemoryFault):
            access(Addr(TOP - 16), 32)
    with pytest.raises(ValueError, match="64-bit address space"):
        region(memory, TOP - 32, 33)


@pytest.mark.parametrize(("addr", "size"), [(0x1000, 1), (0xFFF, 2), (0x2FFF, 0x10), (0, 0x10000), (-1, 1)])
def test_regions_never_overlap(memory: MappedMemory, addr: int, size: int) -> None:
    with pytest.raises(ValueError, match="region at"):
        region(memory, addr, size)


def test_a_read_only_region_is_never_lent_for_writing() -> None:
    memory = MappedMemory()
    region(memory, 0, 16, writable=False)
    assert bytes(memory.view(Addr(0), 16)) == bytes(16)
    for _ in range(2):  # cold, then warm
        with pytest.raises(MemoryFault, match="read-only"):
            memory.view(Addr(0), 1, True)
        memory.view(Addr(0), 1)
    with pytest.raises(MemoryFault, match="read-only"):
        memory.segments(Addr(0), 1, True)


@pytest.mark.parametrize(("form", "size"), [("B", 1), ("H", 2), ("I", 4), ("Q", 8)])
def test_a_pin_is_typed_and_little_endian(memory: MappedMemory, form: str, size: int) -> None:
    pinned = memory.pin(Addr(0x1000), 16, form)
    pinned[1] = 1
    assert len(pinned) == 16 // size
    assert memory.view(Addr(0x1000), 16)[size] == 1


def test_pins_of_a_region_end_with_it_and_others_live(memory: MappedMemory) -> None:
    gone = [memory.pin(Addr(0x1000), 16, "H"), memory.pin(Addr(0x1800), 16, "Q")]
    kept = memory.pin(Addr(0x2000), 16, "H")
    assert memory.pinned == 3
    memory.remove(Addr(0x1000))
    for pinned in gone:
        with pytest.raises(ValueError, match="released"):
            pinned[0] = 1
        memory.unpin(pinned)  # harmless
    kept[0] = 1
    assert memory.pinned == 1
    with pytest.raises(MemoryFault):
        memory.view(Addr(0x1000), 1)
    with pytest.raises(KeyError):
        memory.remove(Addr(0x1000))


def test_unpin_releases_just_that_view(memory: MappedMemory) -> None:
    one, two = memory.pin(Addr(0x1000), 16, "H"), memory.pin(Addr(0x1000), 16, "H")
    memory.unpin(one)
    with pytest.raises(ValueError, match="released"):
        one[0]
    assert two[0] == 0x6161
    assert memory.pinned == 1


def test_close_releases_every_pin_and_later_access_raises_what_it_was_given(memory: MappedMemory) -> None:
    class Over(MemoryFault):
        pass

    pins = [memory.pin(Addr(addr), 8, "I") for addr in (0x1000, 0x2000, 0x8000)]
    memory.view(Addr(0x8000), 1)  # the region at hand is closed as well
    memory.close(lambda addr, size, write: Over(addr, size, write=write, reason="over"))
    for pinned in pins:
        with pytest.raises(ValueError, match="released"):
            pinned[0]
    with pytest.raises(Over):
        memory.view(Addr(0x8000), 1)
    with pytest.raises(Over):
        memory.segments(Addr(0x1000), 1)
    with pytest.raises(Over):
        memory.pin(Addr(0x2000), 2, "H")
    assert (memory.pinned, memory.ranges) == (0, ())
