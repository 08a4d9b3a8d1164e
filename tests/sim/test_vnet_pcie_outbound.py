"""Outbound windows of an endpoint: what they reach, and which window is reused."""

from __future__ import annotations

import pytest

from rings.errors import MemoryFault
from rings.memory import Addr, PciAddr
from support.rigs.pcie import HEADER, Watcher, World, world
from vnet.link.ideal import IdealLink
from vnet.pcie.epc import EndpointController

__all__ = ["world"]  # a fixture


MSI = 0xFEE0_0000
TABLE = 0x2000


def test_a_window_is_the_other_hosts_memory_and_nothing_else(world: World) -> None:
    world.epc.start()
    window = world.epc.window(0)
    buffer = world.memory.alloc(4096)
    window.view(buffer.addr, 5, True)[:] = b"hello"
    assert bytes(world.memory.view(buffer.addr, 5)) == b"hello"
    ring = window.pin(buffer.addr, 16, "I")
    ring[1] = 0xCAFE
    assert bytes(world.memory.view(Addr(buffer.addr + 4), 2)) == b"\xfe\xca"
    window.unpin(ring)
    window.unpin(ring)
    window.fence()
    base, size = world.memory.ranges[0]
    assert len(window.segments(Addr(base), size)) == 1
    for addr in (0, base - 1, base + size, 1 << 63, (1 << 64) - 1):
        for access in (window.view, window.segments):
            with pytest.raises(MemoryFault):
                access(Addr(addr), 2)
    with pytest.raises(MemoryFault):
        window.segments(Addr(base + size - 1), 2)
    with pytest.raises(MemoryFault):
        window.view(Addr(base), 1 << 40)
    with pytest.raises(MemoryFault):
        window.view(Addr((1 << 64) - 16), 32)


def test_dma_to_registers_or_messages_is_a_fault_and_reaches_no_handler(world: World) -> None:
    """No access through a window can enter a handler: registers are not memory."""
    function = world.ready()
    function.request_irq(0, Watcher(world.log, "v0").irq)
    window = world.epc.window(0)
    for addr in (MSI, function.bars[0].address, function.bars[0].address + TABLE):
        for access in (window.view, window.segments):
            with pytest.raises(MemoryFault):
                access(Addr(addr), 4, True)
        with pytest.raises(MemoryFault):
            window.pin(Addr(addr), 4, "I")
    assert (world.log, any(world.registers.data)) == ([], False)


def test_an_outbound_window_covers_the_requested_range_in_whole_alignments() -> None:
    world = World(windows=2, window_size=256 << 10, window_align=64 << 10)
    world.epc.start()
    window = world.epc.map_addr(PciAddr(Addr(0x4000_FFF0)), 0x20)
    assert (window.addr, window.size) == (0x4000_0000, 128 << 10)
    assert window.memory.view(Addr(0x4000_FFF0), 0x20).nbytes == 0x20
    assert window.memory.view(Addr(0x4001_FFFF), 1).nbytes == 1
    with pytest.raises(MemoryFault):
        window.memory.view(Addr(0x4002_0000), 1)
    second = world.epc.map_addr(PciAddr(Addr(0x4000_0000)), 256 << 10)
    assert second.phys - window.phys == 256 << 10
    for addr, size in ((0x4000_0001, 256 << 10), (0x4000_0000, 0), ((1 << 64) - 1, 2)):
        with pytest.raises(ValueError, match="no outbound window"):
            world.epc.map_addr(PciAddr(Addr(addr)), size)
    world.close()


def test_an_outbound_window_over_nothing_is_not_kept(world: World) -> None:
    """Invented addresses of a driver take no window from reachable memory."""
    world.ready()
    window = world.epc.window(0)
    buffer = world.memory.alloc(64)
    window.view(buffer.addr, 64)
    mapped = world.epc.snapshot().windows
    for addr in (0x1_0000_0000_0000, 0x7777_0000_0000, 1 << 62, (1 << 64) - 64):
        for access in (window.view, window.segments):
            with pytest.raises(MemoryFault, match="no memory there"):
                access(Addr(addr), 64)
        assert world.epc.snapshot().windows == mapped
    window.view(buffer.addr, 64)
    world.memory.free(buffer)


def test_outbound_windows_run_out_and_come_back() -> None:
    world = World(windows=3, window_size=64 << 10)
    world.epc.start()
    addr = PciAddr(Addr(0x4000_0000))
    taken = [world.epc.map_addr(addr, 1) for _ in range(3)]
    assert len({window.phys for window in taken}) == 3
    with pytest.raises(MemoryError):
        world.epc.map_addr(addr, 1)
    with pytest.raises(MemoryFault, match="in use"):
        world.epc.window(0).view(addr, 1)
    world.epc.unmap_addr(taken[1])
    with pytest.raises(MemoryFault):
        taken[1].memory.view(addr, 1)
    with pytest.raises(ValueError, match="no such outbound window"):
        world.epc.unmap_addr(taken[1])
    assert world.epc.map_addr(addr, 1).phys == taken[1].phys
    world.close()


def test_windows_on_demand_follow_the_addresses_and_spare_what_is_pinned() -> None:
    world = World(windows=2, window_size=64 << 10)
    world.epc.start()
    base = 0x4000_0000
    for block in range(16):
        world.memory.view(Addr(base + (block << 16)), 1, True)[0] = block
    window = world.epc.window(0)
    ring = window.pin(Addr(base), 2, "H")
    for block in (3, 5, 3, 15, 0, 7):
        assert window.view(Addr(base + (block << 16)), 1)[0] == block
    assert world.link.statistics().windows == 2
    ring[0] = 0x1234  # lived through every eviction
    second = window.pin(Addr(base + (9 << 16)), 2, "H")
    with pytest.raises(MemoryFault, match="in use"):
        window.view(Addr(base + (4 << 16)), 1)
    assert window.view(Addr(base), 1)[0] == 0x34
    window.unpin(second)
    assert window.view(Addr(base + (4 << 16)), 1)[0] == 4
    assert world.epc.snapshot().windows[0].pinned == 1
    world.close()


def test_the_least_recently_used_window_goes_first() -> None:
    world = World(windows=2, window_size=64 << 10)
    world.epc.start()
    window = world.epc.window(0)
    for block in (0, 1, 0, 2):
        window.view(Addr(0x4000_0000 + (block << 16)), 1)
    windows = world.epc.snapshot().windows
    assert sorted(entry.addr - 0x4000_0000 >> 16 for entry in windows) == [0, 2]
    world.close()


def test_one_function_takes_a_window_from_another_without_harm() -> None:
    world = World(windows=1, window_size=64 << 10)
    world.epc.set_header(1, HEADER)
    world.epc.start()
    one, two = world.epc.window(0), world.epc.window(1)
    for _ in range(3):
        one.view(Addr(0x4000_0000), 1, True)[0] = 1
        assert two.view(Addr(0x4000_0000), 1)[0] == 1
    world.close()


def test_a_range_across_windows_comes_in_pieces_or_by_a_window_of_its_own() -> None:
    world = World(windows=2, window_size=128 << 10)
    world.epc.start()
    window = world.epc.window(0)
    edge = 0x4000_0000 + (128 << 10)
    world.memory.view(Addr(edge - 2), 4, True)[:] = b"abcd"
    assert bytes(window.view(Addr(edge - 2), 4)) == b"abcd"
    assert b"".join(window.segments(Addr(edge - 2), 4)) == b"abcd"
    whole = window.segments(Addr(0x4000_0010), 512 << 10)
    assert sum(map(len, whole)) == 512 << 10
    whole.clear()
    with pytest.raises(MemoryFault, match="covers"):
        window.view(Addr(0x4000_0010), 512 << 10)
    world.close()


@pytest.mark.parametrize("bad", [{"windows": 0}, {"window_size": 3 << 16}, {"window_align": 3}, {"window_size": 4096}])
def test_impossible_window_hardware_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="not possible"):
        EndpointController(IdealLink(), **bad)  # type: ignore[arg-type]
