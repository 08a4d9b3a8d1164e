"""MSI of a function: its capability, the vectors that are on, and the messages that are sent."""

from __future__ import annotations

import pytest

from support.rigs.pcie import HEADER, Watcher, World, world
from vnet.pcie.config_space import CAP_MSI, MSI_CONTROL, PciCommand, msi_capability
from vnet.pcie.function_handle import PciFunctionHandle

__all__ = ["world"]  # a fixture


@pytest.fixture
def function(world: World) -> PciFunctionHandle:
    """A second function, with 8 vectors."""
    world.epc.set_header(1, HEADER)
    world.epc.set_msi(1, 8)
    world.epc.start()
    return world.rc.functions[1]


def test_each_vector_that_is_on_has_its_message(world: World, function: PciFunctionHandle) -> None:
    assert function.msi_vectors == 8
    assert function.enable_msi(16) == 0
    assert function.enable_msi(4) == 4
    for vector in range(4):
        function.request_msi(vector, Watcher(world.log, str(vector)).irq)
    for vector in (0, 3, 1):
        world.epc.raise_msi(1, vector)
    assert world.log == ["0 irq", "3 irq", "1 irq"]
    world.epc.raise_msi(1, 6)  # shares the message of 2
    assert world.log[3:] == ["2 irq"]
    function.free_msi(2)
    world.epc.raise_msi(1, 2)
    assert world.log[4:] == []
    assert world.rc.interrupts.spurious == 1
    with pytest.raises(ValueError, match="no MSI vector 8 of 8"):
        world.epc.raise_msi(1, 8)


def test_nothing_is_sent_while_it_is_off(world: World, function: PciFunctionHandle) -> None:
    world.epc.raise_msi(1, 0)
    function.enable_msi(1)
    function.request_msi(0, Watcher(world.log, "msi").irq)
    function.config_write(4, 2, PciCommand.MEMORY)  # no bus mastering
    world.epc.raise_msi(1, 0)
    function.config_write(4, 2, PciCommand.MEMORY | PciCommand.BUS_MASTER)
    assert world.log == []
    world.epc.raise_msi(1, 0)
    assert world.log == ["msi irq"]
    function.disable_msi()
    world.epc.raise_msi(1, 0)
    assert world.log == ["msi irq"]
    assert world.rc.interrupts.requested == 0
    function.enable_msi(1)
    function.request_msi(0, Watcher(world.log, "msi").irq)
    function.reset()
    world.epc.raise_msi(1, 0)
    assert world.log == ["msi irq"]
    assert world.rc.interrupts.requested == 0


def test_a_line_is_silent_while_messages_are_on(world: World, function: PciFunctionHandle) -> None:
    function.request_intx(Watcher(world.log, "line").irq)
    function.enable_msi(1)
    world.epc.set_intx(1, True)
    assert world.log == []
    function.disable_msi()
    assert world.log == ["line irq"]


def test_functions_without_it(world: World) -> None:
    world.epc.start()
    [function] = world.rc.functions
    assert (function.msi_vectors, function.enable_msi(1)) == (0, 0)
    world.epc.raise_msi(0, 0)
    world.epc.raise_msi(7, 0)


def test_a_capability_that_can_not_be(world: World, function: PciFunctionHandle) -> None:
    for vectors in (0, 3, 64):
        with pytest.raises(ValueError, match="must be a power of two up to 32"):
            msi_capability(vectors)
    with pytest.raises(ValueError, match="has MSI"):
        world.epc.set_msi(1, 1)
    at = function.capability(CAP_MSI)
    assert at is not None
    function.config_write(at + MSI_CONTROL, 2, 0xFFFF)
    assert function.config_read(at + MSI_CONTROL, 2) == 0x80 | 7 << 4 | 3 << 1 | 1
    world.epc.raise_msi(1, 7)  # as many vectors as there are
