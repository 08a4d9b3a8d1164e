"""MSI-X and INTx of a function: masks, pending bits and owners."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rings.memory import Addr
from support.rigs.pcie import HEADER, Registers, Watcher, World, world
from vnet.errors import UnsupportedRequest
from vnet.link.base import Direction
from vnet.link.ideal import IdealLink
from vnet.pcie.config_space import CAP_MSIX, PciCommand
from vnet.pcie.epc import EndpointController
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.pcie.msix import MsixTable

__all__ = ["world"]  # a fixture


MSI = 0xFEE0_0000
TABLE = 0x2000


def control(function: PciFunctionHandle, vector: int, mask: int) -> None:
    function.bar_write(0, TABLE + 16 * vector + 12, 4, mask)


def pending(function: PciFunctionHandle) -> int:
    return function.bar_read(0, TABLE + 16 * 4, 8)


def function_mask(function: PciFunctionHandle, on: bool) -> None:
    at = function.capability(CAP_MSIX)
    assert at is not None
    function.config_write(at + 2, 2, 0x8000 | (0x4000 if on else 0))


@pytest.mark.virtio("PCI-DEV-52")
@pytest.mark.parametrize("vectors", [1, 2, 3, 64, 65, 2048])
def test_the_vector_count_is_read_from_the_table_size(vectors: int) -> None:
    world = World()
    world.epc.set_header(1, HEADER)
    world.epc.set_bar(1, 4, 0x10000, Registers(0x10000))
    world.epc.set_msix(1, vectors, 4, 0)
    world.epc.start()
    _, function = world.rc.functions
    assert not world.epc.msix_enabled(1)
    assert function.enable_msix() == vectors
    assert world.epc.msix_enabled(1)
    function.request_irq(vectors - 1, Watcher(world.log, "last").irq)
    world.epc.raise_irq(1, vectors - 1)
    assert world.log == ["last irq"]
    with pytest.raises(ValueError, match="no MSI-X vector"):
        world.epc.raise_irq(1, vectors)
    world.close()


def test_an_msix_table_may_have_a_bar_to_itself(world: World) -> None:
    world.epc.set_header(1, HEADER)
    world.epc.set_msix(1, 9, 2, 0)
    world.epc.start()
    function = world.rc.functions[1]
    assert function.bar_size(2) == 256
    assert function.enable_msix() == 9
    function.request_irq(8, Watcher(world.log, "v8").irq)
    function.bar_write(2, 200, 4, 5)
    assert function.bar_read(2, 200, 4) == 0
    world.epc.raise_irq(1, 8)
    assert world.log == ["v8 irq"]


def test_a_removed_function_causes_no_interrupt(world: World) -> None:
    function = world.ready()
    function.request_irq(0, Watcher(world.log, "v0").irq)
    window = world.epc.window(0)
    world.epc.clear(0)
    world.epc.raise_irq(0, 0)
    world.epc.set_intx(0, True)
    assert not world.epc.msix_enabled(0)
    assert world.log == []
    assert function.bar_read(0, 0, 4) == 0xFFFFFFFF
    with pytest.raises(UnsupportedRequest):
        window.view(Addr(0x4000_0000), 1)


def test_a_function_without_msix_has_no_vectors(world: World) -> None:
    world.epc.set_header(1, HEADER)
    world.epc.start()
    assert world.rc.functions[1].enable_msix() == 0
    world.epc.raise_irq(1, 0)
    world.epc.set_bar(1, 0, 128, Registers(128))
    for vectors, offset in ((8, 0), (1, 112), (1, -8)):
        with pytest.raises(ValueError, match="don't fit"):
            world.epc.set_msix(1, vectors, 0, offset)


@pytest.mark.hostile("S13")
def test_a_masked_vector_is_pending_and_gives_one_message_when_unmasked(world: World) -> None:
    function = world.ready()
    function.request_irq(2, Watcher(world.log, "v2").irq)
    control(function, 2, 1)
    for _ in range(3):
        world.epc.raise_irq(0, 2)
    assert (world.log, pending(function)) == ([], 0b100)
    function.bar_write(0, TABLE + 16 * 4, 8, 0)  # pending bits are read-only
    control(function, 2, 0)
    control(function, 2, 0)
    assert (world.log, pending(function)) == (["v2 irq"], 0)
    control(function, 2, 1)
    control(function, 2, 0)
    assert world.log == ["v2 irq"]


@pytest.mark.hostile("S13")
def test_the_function_mask_holds_every_vector_back_and_loses_none(world: World) -> None:
    function = world.ready()
    for vector in range(4):
        function.request_irq(vector, Watcher(world.log, f"v{vector}").irq)
    function_mask(function, True)
    for vector in (3, 1, 1):
        world.epc.raise_irq(0, vector)
    control(function, 1, 1)
    assert (world.log, pending(function)) == ([], 0b1010)
    function_mask(function, False)
    assert (world.log, pending(function)) == (["v3 irq"], 0b0010)
    control(function, 1, 0)
    assert (world.log, pending(function)) == (["v3 irq", "v1 irq"], 0)


@pytest.mark.hostile("S13")
def test_a_vector_reassigned_while_pending_goes_once_to_its_new_owner(world: World) -> None:
    function = world.ready()
    function.request_irq(0, Watcher(world.log, "old").irq)
    control(function, 0, 1)
    world.epc.raise_irq(0, 0)
    function.request_irq(0, Watcher(world.log, "new").irq)
    assert world.log == ["new irq"]
    world.epc.raise_irq(0, 0)
    assert world.log == ["new irq", "new irq"]
    assert world.rc.statistics().msi_spurious == 0
    assert world.rc.interrupts.requested == 1


@pytest.mark.hostile("S13")
@given(st.lists(st.sampled_from(("fire", "mask", "unmask", "function mask", "function unmask")), max_size=40))
def test_any_order_of_masks_gives_one_message_per_pending_bit(moves: list[str]) -> None:
    sent: list[tuple[int, int]] = []
    table = MsixTable(2, lambda addr, data: sent.append((addr, data)))
    table.write(16, 8, MSI)
    table.write(24, 8, 77)  # data and control in one write: unmasked
    table.configure(enabled=True, masked=False, bus_master=True)
    expected, waiting, masked, function_masked = 0, False, False, False
    for move in moves:
        if move == "fire":
            table.fire(1)
            waiting = True
        elif move.startswith("function"):
            function_masked = move == "function mask"
            table.configure(enabled=True, masked=function_masked, bus_master=True)
        else:
            masked = move == "mask"
            table.write(28, 4, int(masked))
        if waiting and not (masked or function_masked):
            expected, waiting = expected + 1, False
        assert sent == [(MSI, 77)] * expected
        assert table.read_pending(0, 8) == waiting << 1


def test_a_handler_may_fire_its_own_vector_again_while_a_pending_bit_goes_out(world: World) -> None:
    function = world.ready()
    calls: list[int] = []

    def handler() -> None:
        calls.append(pending(function))
        if len(calls) < 3:
            world.epc.raise_irq(0, 0)

    function.request_irq(0, handler)
    control(function, 0, 1)
    world.epc.raise_irq(0, 0)
    control(function, 0, 0)
    assert calls == [0, 0, 0]


def test_messages_without_an_owner_are_counted_as_spurious(world: World) -> None:
    function = world.ready()
    function.request_irq(0, Watcher(world.log, "v0").irq)
    data = function.bar_read(0, TABLE + 8, 4)
    for addr, size, value in ((MSI, 4, 0), (MSI, 4, data + 1), (MSI + 4, 4, data), (MSI, 2, data), (MSI, 8, data)):
        world.link.mem_write(Direction.UPSTREAM, addr, size, value)
    other = IdealLink("other")
    world.rc.attach(other)
    EndpointController(other).start()
    other.mem_write(Direction.UPSTREAM, MSI, 4, data)  # the number of another vector
    function.free_irqs()
    world.link.mem_write(Direction.UPSTREAM, MSI, 4, data)
    assert world.log == []
    assert world.rc.statistics().msi_spurious == 7
    assert pending(function) == 0


def test_disabling_msix_forgets_what_is_pending_and_falls_back_to_intx(world: World) -> None:
    function = world.ready()
    world.epc.raise_irq(0, 0)
    assert pending(function) == 1
    function.disable_msix()
    assert pending(function) == 0
    assert not world.epc.msix_enabled(0)
    world.epc.raise_irq(0, 0)
    function.request_intx(Watcher(world.log, "intx").irq)
    world.epc.set_intx(0, True)
    assert world.log == ["intx irq"]
    function.enable_msix()
    assert function.snapshot().intx is False  # MSI-X takes the line back
    assert pending(function) == 0


def test_intx_calls_on_assertion_and_when_it_is_let_through(world: World) -> None:
    world.epc.start()
    function = world.function
    world.epc.set_intx(0, True)  # no handler yet
    assert function.config_read(6, 2) & 8
    function.request_intx(Watcher(world.log, "intx").irq)
    assert world.log == ["intx irq"]
    world.epc.set_intx(0, True)
    assert world.log == ["intx irq"]
    function.config_write(4, 2, PciCommand.MEMORY | PciCommand.INTX_DISABLE)
    world.epc.set_intx(0, False)
    world.epc.set_intx(0, True)
    assert world.log == ["intx irq"]
    assert function.config_read(6, 2) & 8  # the status bit shows it all the same
    function.config_write(4, 2, PciCommand.MEMORY)
    assert world.log == ["intx irq"] * 2
    world.epc.set_intx(0, False)
    function.free_irqs()
    world.epc.set_intx(0, True)
    assert world.log == ["intx irq"] * 2
    assert world.rc.statistics().intx_spurious == 2
