"""A host's RAM: sealed, sparse, zeroed when handed out, and gone when closed."""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.contracts.hw import DmaBuffer, DmaMemory
from rings.errors import MemoryFault
from rings.memory import Addr, PhysAddr
from vnet.linux.memory import CACHE_LINE, PAGE, HostMemory
from vnet.testing import fds

BASE = PhysAddr(Addr(0x4000_0000))
SIZE = 256 * PAGE


@pytest.fixture
def memory() -> Iterator[HostMemory]:
    memory = HostMemory(SIZE, BASE, name="test")
    yield memory
    memory.close()


def resident(memory: HostMemory) -> int:
    """Bytes of real memory behind it."""
    return os.fstat(memory.fd).st_blocks * 512


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:vnet-test")


def test_it_is_a_dma_memory(memory: HostMemory) -> None:
    dma: DmaMemory = memory
    assert dma.view(BASE, SIZE).nbytes == SIZE


def test_the_memfd_is_sealed_so_that_no_mapping_of_it_can_fault(memory: HostMemory) -> None:
    seals = fcntl.fcntl(memory.fd, fcntl.F_GET_SEALS)
    assert seals == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    for size in (SIZE - PAGE, SIZE + PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.fd, size)


def test_written_data_are_seen_through_the_file(memory: HostMemory) -> None:
    buffer = memory.alloc(100)
    memory.view(buffer.addr, 5, True)[:] = b"hello"
    assert os.pread(memory.fd, 5, buffer.addr - BASE) == b"hello"


def test_only_what_was_touched_takes_memory() -> None:
    memory = HostMemory(1 << 30, BASE)
    try:
        buffer = memory.alloc(512 << 20)
        assert resident(memory) == 0
        memory.view(buffer.addr, 1, True)[0] = 1
        assert resident(memory) <= 2 << 20
        memory.free(buffer)
    finally:
        memory.close()


def test_reused_memory_is_zeroed_and_fresh_memory_is_not_touched(memory: HostMemory) -> None:
    first = memory.alloc(3 * PAGE)
    memory.view(first.addr, first.size, True)[:] = b"\xff" * first.size
    memory.free(first)
    again = memory.alloc(8 * PAGE)
    assert again.addr == first.addr
    assert resident(memory) == 3 * PAGE
    assert bytes(memory.view(again.addr, again.size)) == bytes(again.size)


def test_addresses_are_aligned_and_no_two_buffers_share_a_cache_line(memory: HostMemory) -> None:
    one, two = memory.alloc(1), memory.alloc(1)
    assert two.addr - one.addr == CACHE_LINE
    assert memory.alloc(16, 8192).addr % 8192 == 0
    assert memory.alloc(PAGE + 1, 2).addr % PAGE == 0
    memory.check()


@pytest.mark.parametrize(("size", "align"), [(0, 64), (-1, 64), (64, 0), (64, 48), (64, -64)])
def test_impossible_requests_are_refused(memory: HostMemory, size: int, align: int) -> None:
    with pytest.raises(ValueError, match="can't allocate"):
        memory.alloc(size, align)


def test_exhaustion_is_a_memory_error_and_changes_nothing(memory: HostMemory) -> None:
    rest = memory.alloc(SIZE - PAGE)
    with pytest.raises(MemoryError):
        memory.alloc(PAGE + 1)
    assert memory.statistics().used == rest.size
    memory.alloc(PAGE)


def test_a_buffer_is_freed_once(memory: HostMemory) -> None:
    buffer = memory.alloc(64)
    memory.free(buffer)
    for stale in (buffer, DmaBuffer(Addr(buffer.addr + 1), 1)):
        with pytest.raises(ValueError, match="not the start"):
            memory.free(stale)


@given(st.randoms(use_true_random=False))
def test_any_sequence_keeps_buffers_apart_zeroed_and_the_free_list_joined(dice: random.Random) -> None:
    memory = HostMemory(64 * PAGE, BASE)
    held: list[DmaBuffer] = []
    try:
        for _ in range(60):
            if held and dice.random() < 0.45:
                memory.free(held.pop(dice.randrange(len(held))))
            else:
                size = dice.choice((1, 63, 64, 65, 1000, PAGE - 1, PAGE, 3 * PAGE + 5))
                try:
                    buffer = memory.alloc(size, dice.choice((1, 64, 128, PAGE, 4 * PAGE)))
                except MemoryError:
                    continue
                view = memory.view(buffer.addr, size, True)
                assert bytes(view) == bytes(size)  # also: it overlaps no buffer, since those are all 0xff
                view[:] = b"\xff" * size
                held.append(buffer)
            memory.check()
        for buffer in held:
            assert bytes(memory.view(buffer.addr, buffer.size)) == b"\xff" * buffer.size
            memory.free(buffer)
        memory.check()
        assert memory.alloc(64 * PAGE).addr == BASE  # all of it in one piece again
    finally:
        memory.close()


def test_close_ends_access_releases_pins_and_gives_map_and_descriptors_back() -> None:
    descriptors = fds()
    memory = HostMemory(SIZE, BASE, name="test")
    pinned = memory.pin(Addr(BASE + 64), 64, "H")
    pinned[3] = 7
    assert mappings() == 1
    memory.close()
    memory.close()
    with pytest.raises(ValueError, match="released"):
        pinned[3]
    with pytest.raises(MemoryFault, match="memory was closed"):
        memory.view(BASE, 1)
    with pytest.raises(MemoryError):
        memory.alloc(1)
    assert (memory.fd, mappings(), fds()) == (-1, 0, descriptors)


def test_a_slice_that_is_still_in_use_stays_sound_after_close() -> None:
    memory = HostMemory(SIZE, BASE, name="test")
    held = memory.view(BASE, 4, True)
    memory.close()
    held[:] = b"late"
    assert bytes(held) == b"late"
    held.release()
    assert mappings() == 0


def test_fence_returns(memory: HostMemory) -> None:
    memory.fence()


@pytest.mark.parametrize(("size", "base"), [(0, 0), (100, 0), (PAGE, 64)])
def test_memory_is_whole_pages(size: int, base: int) -> None:
    with pytest.raises(ValueError, match="whole pages"):
        HostMemory(size, PhysAddr(Addr(base)))
