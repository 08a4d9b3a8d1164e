"""The endpoint controller: bus mastering and function-level reset."""

from __future__ import annotations

import pytest

from rings.memory import Addr, PciAddr
from support.rigs.pcie import HEADER, Registers, Watcher, World, world
from vnet.errors import LinkDown, UnsupportedRequest
from vnet.pcie.config_space import PciCommand
from vnet.pcie.function_handle import PciFunctionHandle

__all__ = ["world"]  # a fixture


TABLE = 0x2000


def set_bus_master(function: PciFunctionHandle, on: bool) -> None:
    function.config_write(4, 2, PciCommand.MEMORY | (PciCommand.BUS_MASTER if on else 0))


@pytest.mark.hostile("S14")
def test_without_bus_mastering_dma_stops_at_once_and_no_message_goes_out(world: World) -> None:
    function = world.ready()
    function.request_irq(0, Watcher(world.log, "v0").irq)
    buffer = world.memory.alloc(4096)
    window = world.epc.window(0)
    by_hand = world.epc.map_addr(PciAddr(buffer.addr), 4096)
    ring = window.pin(buffer.addr, 64, "H")
    set_bus_master(function, False)
    for memory in (window, by_hand.memory, world.epc.window(0)):
        for access in (memory.view, memory.segments):
            with pytest.raises(UnsupportedRequest):
                access(buffer.addr, 1, True)
    with pytest.raises(UnsupportedRequest):
        window.pin(buffer.addr, 64, "H")
    with pytest.raises(UnsupportedRequest):
        world.epc.map_addr(PciAddr(buffer.addr), 4096)
    with pytest.raises(ValueError, match="released"):
        ring[0] = 1
    world.epc.raise_irq(0, 0)
    assert world.log == []
    assert world.link.statistics().windows == 0
    set_bus_master(function, True)
    assert world.log == ["v0 irq"]
    with pytest.raises(UnsupportedRequest):
        window.view(buffer.addr, 1)  # what was lost stays lost
    world.epc.window(0).view(buffer.addr, 1, True)[:] = b"x"
    assert bytes(world.memory.view(buffer.addr, 1)) == b"x"
    world.epc.unmap_addr(by_hand)


def test_a_window_requested_early_works_once_the_bus_may_be_mastered(world: World) -> None:
    window = world.epc.window(0)
    with pytest.raises(LinkDown):
        window.view(Addr(0x4000_0000), 1)
    world.epc.start()
    assert window is world.epc.window(0)
    assert window.view(Addr(0x4000_0000), 1).nbytes == 1


@pytest.mark.hostile("S14")
def test_a_function_level_reset_stops_dma_before_the_function_hears_of_it_and_spares_the_others(world: World) -> None:
    world.epc.set_header(1, HEADER)
    world.epc.set_bar(1, 0, 128, Registers(128))
    function = world.ready()
    window, neighbour = world.epc.window(0), world.epc.window(1)
    for memory in (window, neighbour):
        memory.view(Addr(0x4000_0000), 1)
    ring = window.pin(Addr(0x4000_0000), 64, "H")
    world.epc.set_intx(0, True)
    function.request_irq(0, Watcher(world.log, "v0").irq)
    seen: list[object] = []

    class Device(Watcher):
        def reset(self) -> None:
            with pytest.raises(UnsupportedRequest):
                window.view(Addr(0x4000_0000), 1)
            seen.append((function.config_read(4, 2), function.config_read(0x10, 4), function.config_read(0x14, 4)))
            seen.append((world.epc.msix_enabled(0), function.config_read(6, 2) & 8))

    world.epc.watch(0, Device(world.log, "device"))
    addresses = function.bars
    assert function.reset()
    assert seen == [(0, 4, 0), (False, 0)]
    assert function.bars == addresses
    assert function.bar_read(0, 0, 4) == 0
    assert neighbour.view(Addr(0x4000_0000), 1).nbytes == 1
    with pytest.raises(ValueError, match="released"):
        ring[0]
    with pytest.raises(UnsupportedRequest):
        window.view(Addr(0x4000_0000), 1)
    assert world.epc.window(0).view(Addr(0x4000_0000), 1).nbytes == 1
    assert function.enable_msix() == 4
    function.request_irq(0, Watcher(world.log, "v0").irq)
    world.epc.raise_irq(0, 0)
    assert world.log == ["v0 irq"]
