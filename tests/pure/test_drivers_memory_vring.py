"""Rings of a front half: their size and place, and that all their memory comes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.errors import ProbeError
from drivers.memory.vring import VringMemory, ring_memory
from rings.features import RingFeature, mask
from rings.formats import ring_format
from rings.layout import RingAddrs
from rings.memory import Addr
from vnet.linux.memory import PAGE, HostMemory

SPLIT, PACKED = 0, mask((RingFeature.RING_PACKED,))
FORMATS = pytest.mark.parametrize("features", [SPLIT, PACKED], ids=["split", "packed"])
INDIRECT = mask((RingFeature.INDIRECT_DESC,))


@pytest.fixture
def memory() -> Iterator[HostMemory]:
    memory = HostMemory(1 << 22)
    yield memory
    memory.close()


def used(memory: HostMemory) -> tuple[int, int]:
    statistics = memory.statistics()
    return statistics.buffers, statistics.used


@FORMATS
@pytest.mark.parametrize("num_max", [0, -1, 32769, 1 << 16])
def test_a_size_that_no_queue_has_is_an_error_with_its_name(memory: HostMemory, features: int, num_max: int) -> None:
    vrings = VringMemory(memory)
    with pytest.raises(ProbeError, match=f"net0: the device reports a queue size of {num_max}"):
        vrings.make(features, num_max, None, 1, "net0")
    assert used(memory) == (0, 0)


def test_only_a_packed_ring_has_a_size_that_is_no_power_of_two(memory: HostMemory) -> None:
    vrings = VringMemory(memory)
    assert vrings.make(PACKED, 100, None, 1, "net0").num == 100
    with pytest.raises(ProbeError, match="a queue size of 100"):
        vrings.make(SPLIT, 100, None, 1, "net0")


@pytest.mark.parametrize(
    ("features", "limit", "num"),
    [(SPLIT, 100, 64), (PACKED, 100, 100), (SPLIT, 1000, 256), (PACKED, None, 256), (SPLIT, 1, 1)],
)
def test_a_ring_is_no_larger_than_the_device_and_the_driver_allow(
    memory: HostMemory, features: int, limit: int | None, num: int
) -> None:
    vring = VringMemory(memory).make(features, 256, limit, 1, "net0")
    assert vring.num == num


@FORMATS
def test_rings_are_given_back_one_by_one_or_together(memory: HostMemory, features: int) -> None:
    vrings = VringMemory(memory)
    first = vrings.make(features | INDIRECT, 64, None, 4, "net0")
    before = used(memory)
    assert len(first.buffers) == 4
    second = vrings.make(features | INDIRECT, 64, None, 4, "net0")
    assert not {buffer.addr for buffer in first.buffers} & {buffer.addr for buffer in second.buffers}
    vrings.free_ring(second.ring)
    assert used(memory) == before
    with pytest.raises(ValueError, match="unpack"):
        vrings.free_ring(second.ring)
    vrings.make(features, 64, None, 4, "net0")
    vrings.free()
    assert used(memory) == (0, 0)


@pytest.mark.parametrize("align", [PAGE, 2 * PAGE])
def test_a_contiguous_ring_is_one_buffer_with_an_aligned_used_ring(memory: HostMemory, align: int) -> None:
    vring = VringMemory(memory).make(SPLIT, 64, None, 1, "net0", align)
    [buffer] = vring.buffers
    assert vring.addrs.desc == buffer.addr
    assert vring.addrs.device % align == 0
    assert buffer.addr < vring.addrs.driver < vring.addrs.device < buffer.addr + buffer.size


@FORMATS
def test_a_ring_that_its_caller_places_takes_no_memory_but_that_of_tables(memory: HostMemory, features: int) -> None:
    room = memory.alloc(4 * PAGE, PAGE)
    addrs = RingAddrs(room.addr, Addr(room.addr + PAGE), Addr(room.addr + 2 * PAGE))
    before, sizes = used(memory), []

    def place(num: int) -> RingAddrs:
        sizes.append(num)
        return addrs

    vrings = VringMemory(memory)
    vring = vrings.make(features, 128, 64, 4, "net0", place=place)
    assert (vring.addrs, vring.buffers, sizes) == (addrs, (), [64])
    assert used(memory) == before
    tables = vrings.make(features | INDIRECT, 128, 64, 4, "net0", place=place).buffers
    assert [buffer.size for buffer in tables] == [64 * 4 * 16]
    vrings.free()
    assert used(memory) == before


@given(num=st.integers(0, 10).map(lambda power: 1 << power), segments=st.integers(1, 64), packed=st.booleans())
def test_a_ring_takes_no_more_memory_than_ring_memory_says(num: int, segments: int, packed: bool) -> None:
    memory, features = HostMemory(1 << 22), INDIRECT | (PACKED if packed else SPLIT)
    try:
        vring = VringMemory(memory).make(features, num, None, segments, "net0")
        ring_format(features).check(num, vring.addrs)
        assert used(memory)[1] <= ring_memory(num, segments)
    finally:
        memory.close()
