"""A root complex, links and endpoint controllers: what crosses, what never does, and what an epoch ends."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import cast

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.contracts.hw import Epc, PciFunction, PciHeader
from rings.errors import MemoryFault
from rings.memory import Addr, Memory, PciAddr
from vnet.errors import LinkDown, UnsupportedRequest
from vnet.link.base import Direction, Link
from vnet.link.ideal import IdealLink
from vnet.linux.memory import HostMemory
from vnet.pcie.config_space import CAP_MSIX, CAP_PCI_EXPRESS, PciCommand
from vnet.pcie.epc import EndpointController
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.pcie.msix import MsixTable
from vnet.pcie.rc import RootComplex

HEADER = PciHeader(0x1AF4, 0x1041, 1, 0x020000, 0x1AF4, 0x0040)
MSI = 0xFEE0_0000
TABLE = 0x2000


class Registers:
    """Registers that are plain bytes."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.data[offset : offset + size] = value.to_bytes(size, "little")


@attrs.define
class Watcher:
    """Notes what it is told, in order, in a list that several may share."""

    log: list[str]
    name: str

    def link_up(self) -> None:
        self.log.append(f"{self.name} up")

    def link_down(self) -> None:
        self.log.append(f"{self.name} down")

    def reset(self) -> None:
        self.log.append(f"{self.name} reset")

    def irq(self) -> None:
        self.log.append(f"{self.name} irq")

    def function_added(self, function: PciFunctionHandle) -> None:
        self.log.append(f"{self.name} found {function.name}")

    def function_removed(self, function: PciFunctionHandle) -> None:
        self.log.append(f"{self.name} gone {function.name}")


class World:
    """One root complex with 1 MiB of RAM, and one endpoint with function 0, not started."""

    def __init__(self, *, windows: int = 8, window_size: int = 4 << 30, window_align: int = 64 << 10) -> None:
        self.name = f"pcie-{id(self):x}"
        self.memory = HostMemory(1 << 20, name=self.name)
        self.rc = RootComplex(self.memory)
        self.link = IdealLink("link0")
        self.epc = EndpointController(self.link, windows=windows, window_size=window_size, window_align=window_align)
        self.rc.attach(self.link)
        self.registers = Registers(0x4000)
        self.log: list[str] = []
        self.epc.set_header(0, HEADER)
        self.epc.set_bar(0, 0, 0x4000, self.registers)
        self.epc.set_msix(0, 4, 0, TABLE)

    @property
    def function(self) -> PciFunctionHandle:
        return self.rc.functions[0]

    def ready(self) -> PciFunctionHandle:
        self.epc.start()
        self.function.enable_msix()
        return self.function

    def close(self) -> None:
        self.epc.stop()
        self.memory.close()
        assert self.name not in Path("/proc/self/maps").read_text(), "somebody kept a view of closed memory"


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def control(function: PciFunctionHandle, vector: int, mask: int) -> None:
    function.bar_write(0, TABLE + 16 * vector + 12, 4, mask)


def pending(function: PciFunctionHandle) -> int:
    return function.bar_read(0, TABLE + 16 * 4, 8)


def function_mask(function: PciFunctionHandle, on: bool) -> None:
    at = function.capability(CAP_MSIX)
    assert at is not None
    function.config_write(at + 2, 2, 0x8000 | (0x4000 if on else 0))


def set_bus_master(function: PciFunctionHandle, on: bool) -> None:
    function.config_write(4, 2, PciCommand.MEMORY | (PciCommand.BUS_MASTER if on else 0))


# Enumeration


def test_the_simulated_parts_fit_the_interfaces_of_their_users(world: World) -> None:
    link: Link = world.link
    epc: Epc = world.epc
    world.epc.start()
    function: PciFunction = world.function
    memory: Memory = epc.window(0)
    assert link.up
    assert function.name == "0000:01:00.0"
    assert memory.view(Addr(0x4000_0000), 1).nbytes == 1


def test_a_started_endpoint_is_found_configured_and_told_to_the_owner(world: World) -> None:
    world.rc.watch(Watcher(world.log, "bus"))
    assert world.rc.enumerate() == ()
    world.epc.start()
    function = world.function
    assert world.log == ["bus found 0000:01:00.0"]
    assert function.online
    assert function.dma is world.memory
    assert (function.vendor_id, function.device_id) == (0x1AF4, 0x1041)
    assert function.config_read(4, 2) & 6 == PciCommand.MEMORY | PciCommand.BUS_MASTER
    assert [function.bar_size(bar) for bar in range(6)] == [0x4000, 0, 0, 0, 0, 0]
    assert [cap_id for _, cap_id in function.capabilities()] == [CAP_PCI_EXPRESS, CAP_MSIX]
    late = Watcher([], "late")
    world.rc.watch(late)
    assert late.log == ["late found 0000:01:00.0"]


def test_several_links_and_functions_have_buses_names_and_addresses_of_their_own(world: World) -> None:
    other = IdealLink("link1")
    epc = EndpointController(other)
    world.rc.attach(other)
    for epc_, number in ((world.epc, 3), (epc, 0), (epc, 7)):
        epc_.set_header(number, attrs.evolve(HEADER, device_id=0x1050 + number))
        epc_.set_bar(number, 2, 0x10000, Registers(0x10000))
        epc_.set_bar(number, 4, 100, Registers(128))
    world.epc.start()
    epc.start()
    assert [f.name for f in world.rc.functions] == ["0000:01:00.0", "0000:01:00.3", "0000:02:00.0", "0000:02:00.7"]
    assert world.rc.functions[0].config_read(0x0E, 1) == 0x80  # multi-function
    bars = sorted((bar.address, bar.size) for f in world.rc.functions for bar in f.bars)
    assert len(bars) == 7
    assert all(start % size == 0 for start, size in bars)
    assert all(a + size <= b for (a, size), (b, _) in pairwise(bars))
    for value, function in enumerate(world.rc.functions[1:], 1):
        function.bar_write(2, 8, 4, value)
    assert [f.bar_read(2, 8, 4) for f in world.rc.functions[1:]] == [1, 2, 3]
    epc.stop()
    assert [f.name for f in world.rc.functions] == ["0000:01:00.0", "0000:01:00.3"]


def test_a_function_that_comes_or_goes_while_the_link_is_up_shows_at_the_next_enumeration(world: World) -> None:
    world.epc.start()
    first = world.function
    watcher = Watcher(world.log, "driver")
    first.watch(watcher)
    world.rc.watch(Watcher(world.log, "bus"))
    world.epc.set_header(1, HEADER)
    assert len(world.rc.enumerate()) == 2
    world.epc.clear(0)
    assert [f.name for f in world.rc.enumerate()] == ["0000:01:00.1"]
    assert world.log == [
        "bus found 0000:01:00.0",
        "bus found 0000:01:00.1",
        "driver down",
        "bus gone 0000:01:00.0",
    ]
    world.epc.set_header(0, HEADER)  # something else took the place: the old handle never reaches it
    assert first.config_read(0, 4) == 0xFFFFFFFF
    assert not first.online


def test_enumeration_leaves_running_functions_alone(world: World) -> None:
    function = world.ready()
    function.request_irq(1, Watcher(world.log, "v1").irq)
    assert world.rc.enumerate() == (function,)
    world.epc.raise_irq(0, 1)
    assert world.log == ["v1 irq"]


def test_a_bar_that_finds_no_room_stays_unassigned(world: World) -> None:
    world.epc.set_bar(0, 2, 1 << 40, Registers(8))
    world.epc.start()
    assert (world.function.bar_size(2), world.function.bar_size(0)) == (0, 0x4000)
    assert world.function.bar_read(2, 0, 4) == 0xFFFFFFFF


def test_ram_in_the_way_of_message_or_register_addresses_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="RAM reaches into"):
        RootComplex(world.memory, msi=0x4000_0000)
    with pytest.raises(ValueError, match="RAM reaches into"):
        RootComplex(world.memory, mmio=0x4000_1000)


# Registers


@pytest.mark.virtio("PCI-DEV-1")
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(-2, 0x1010), st.sampled_from((1, 2, 4, 8)), st.integers(0, (1 << 64) - 1)),
        max_size=80,
    )
)
def test_bar_accesses_match_a_bytearray(accesses: list[tuple[bool, int, int, int]]) -> None:
    link = IdealLink()
    epc = EndpointController(link)
    memory = HostMemory(4096)
    rc = RootComplex(memory)
    rc.attach(link)
    epc.set_header(0, HEADER)
    epc.set_bar(0, 2, 0x1000, Registers(0x1000))
    epc.start()
    (function,) = rc.functions
    model = bytearray(0x1000)
    for write, offset, size, word in accesses:
        inside = 0 <= offset <= 0x1000 - size
        value = word & (1 << 8 * size) - 1
        if write:
            function.bar_write(2, offset, size, value)
            if inside:
                model[offset : offset + size] = value.to_bytes(size, "little")
        else:
            expected = int.from_bytes(model[offset : offset + size], "little") if inside else (1 << 8 * size) - 1
            assert function.bar_read(2, offset, size) == expected
    assert bytes(model) == b"".join(function.bar_read(2, at, 8).to_bytes(8, "little") for at in range(0, 0x1000, 8))
    memory.close()


@pytest.mark.hostile("L09")
def test_requests_that_nobody_answers_read_all_ones_write_nothing_and_are_counted(world: World) -> None:
    world.epc.start()
    function = world.function
    before = world.link.statistics()
    address = function.bars[0].address
    assert world.link.config_read(5, 0, 4) == 0xFFFFFFFF
    world.link.config_write(5, 4, 2, 6)
    for addr, size in ((0, 4), (address - 1, 2), (address + 0x3FFF, 2), (address + 0x4000, 8)):
        assert world.link.mem_read(Direction.DOWNSTREAM, addr, size) == (1 << 8 * size) - 1
        world.link.mem_write(Direction.DOWNSTREAM, addr, size, 0)
    function.config_write(4, 2, PciCommand.BUS_MASTER)  # memory decoding off
    assert function.bar_read(0, 0, 4) == 0xFFFFFFFF
    function.bar_write(0, 0, 4, 0x12345678)
    after = world.link.statistics()
    assert after.config.unsupported - before.config.unsupported == 2
    assert after.downstream.unsupported - before.downstream.unsupported == 10
    assert after.upstream.unsupported == 0
    assert not any(world.registers.data)
    for addr in (0x3FFF_FFFF, 0x4010_0000, address):  # from the endpoint: not RAM
        assert world.link.mem_read(Direction.UPSTREAM, addr, 4) == 0xFFFFFFFF
        world.link.mem_write(Direction.UPSTREAM, addr, 4, 0)
    assert world.link.statistics().upstream.unsupported == 6


def test_an_endpoint_may_write_words_to_ram(world: World) -> None:
    world.epc.start()
    world.link.mem_write(Direction.UPSTREAM, 0x4000_0010, 4, 0x11223344)
    assert world.link.mem_read(Direction.UPSTREAM, 0x4000_0010, 2) == 0x3344
    assert bytes(world.memory.view(Addr(0x4000_0010), 4)) == b"\x44\x33\x22\x11"


# MSI-X and INTx


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


def test_a_function_that_was_taken_away_interrupts_nobody(world: World) -> None:
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
    other.mem_write(Direction.UPSTREAM, MSI, 4, data)  # somebody else's number
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
    assert function.describe()["intx"] is False  # MSI-X takes the line back
    assert pending(function) == 0


def test_intx_calls_on_assertion_and_when_it_is_let_through(world: World) -> None:
    world.epc.start()
    function = world.function
    world.epc.set_intx(0, True)  # nobody listens yet
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


# Bus mastering, reset


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


def test_a_window_that_was_asked_for_early_works_once_the_bus_may_be_mastered(world: World) -> None:
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

    def reset() -> None:
        with pytest.raises(UnsupportedRequest):
            window.view(Addr(0x4000_0000), 1)
        seen.append((function.config_read(4, 2), function.config_read(0x10, 4), function.config_read(0x14, 4)))
        seen.append((world.epc.msix_enabled(0), function.config_read(6, 2) & 8))

    world.epc.watch(0, Watcher(world.log, "device"), reset)
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


# Windows


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


def test_dma_to_registers_or_messages_is_a_fault_and_calls_nobody(world: World) -> None:
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


def test_an_outbound_window_covers_what_was_asked_for_in_whole_alignments() -> None:
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
    """Whatever addresses a driver makes up, no window is taken from what can be reached."""
    world.ready()
    window = world.epc.window(0)
    buffer = world.memory.alloc(64)
    window.view(buffer.addr, 64)
    mapped = world.epc.describe()["windows"]
    for addr in (0x1_0000_0000_0000, 0x7777_0000_0000, 1 << 62, (1 << 64) - 64):
        for access in (window.view, window.segments):
            with pytest.raises(MemoryFault, match="no memory there"):
                access(Addr(addr), 64)
        assert world.epc.describe()["windows"] == mapped
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
    assert cast("list[dict[str, object]]", world.epc.describe()["windows"])[0]["pinned"] == 1
    world.close()


def test_the_least_recently_used_window_goes_first() -> None:
    world = World(windows=2, window_size=64 << 10)
    world.epc.start()
    window = world.epc.window(0)
    for block in (0, 1, 0, 2):
        window.view(Addr(0x4000_0000 + (block << 16)), 1)
    windows = cast("list[dict[str, int]]", world.epc.describe()["windows"])
    assert sorted(entry["addr"] - 0x4000_0000 >> 16 for entry in windows) == [0, 2]
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


# Epochs


def test_link_down_ends_every_window_and_pin_and_epochs_rise(world: World) -> None:
    world.epc.start()
    assert (world.link.up, world.link.epoch) == (True, 1)
    window = world.epc.window(0)
    by_hand = world.epc.map_addr(PciAddr(Addr(0x4000_0000)), 4096)
    ring, raw = window.pin(Addr(0x4000_0000), 64, "H"), by_hand.memory.pin(Addr(0x4000_0000), 64, "Q")
    world.link.bring_down()
    assert (world.link.up, world.link.epoch, world.link.statistics().windows) == (False, 1, 0)
    for pinned in (ring, raw):
        with pytest.raises(ValueError, match="released"):
            pinned[0] = 1
    for _ in range(2):  # while it is down, and in the next epoch
        for memory in (window, by_hand.memory):
            for access in (memory.view, memory.segments):
                with pytest.raises(LinkDown):
                    access(Addr(0x4000_0000), 1)
            with pytest.raises(LinkDown):
                memory.pin(Addr(0x4000_0000), 2, "H")
        world.link.bring_up()
    assert world.link.epoch == 2
    window.unpin(ring)
    world.epc.unmap_addr(by_hand)
    assert world.epc.window(0).view(Addr(0x4000_0000), 1).nbytes == 1


def test_while_the_link_is_down_reads_give_all_ones_and_writes_are_dropped_and_counted(world: World) -> None:
    function = world.ready()
    world.link.bring_down()
    before = world.link.statistics()
    assert not function.online
    assert function.config_read(0, 4) == 0xFFFFFFFF
    function.config_write(4, 2, 0)
    assert [function.bar_read(0, 0, size) for size in (1, 2, 4, 8)] == [(1 << 8 * s) - 1 for s in (1, 2, 4, 8)]
    function.bar_write(0, 0, 4, 5)
    world.epc.raise_irq(0, 0)
    world.epc.set_intx(0, True)
    world.link.mem_write(Direction.UPSTREAM, MSI, 4, 1)
    with pytest.raises(LinkDown):
        world.link.map(Direction.UPSTREAM, 0x4000_0000, 4096)
    with pytest.raises(LinkDown):
        world.epc.map_addr(PciAddr(Addr(0x4000_0000)), 4096)
    after = world.link.statistics()
    assert after.config.dropped - before.config.dropped == 2
    assert after.downstream.dropped - before.downstream.dropped == 5
    assert after.upstream.dropped - before.upstream.dropped == 1
    assert not any(world.registers.data)
    assert function.capabilities() == ()
    assert function.enable_msix() == 0
    assert not function.reset()


def test_after_a_flap_the_same_function_is_back_configured_before_anybody_is_told(world: World) -> None:
    function = world.ready()
    function.request_irq(0, Watcher(world.log, "v0").irq)
    order: list[object] = []

    class Driver:
        def link_up(self) -> None:
            order.append(("driver up", function.online, function.bar_read(0, 0, 1), function.config_read(4, 2) & 6))

        def link_down(self) -> None:
            order.append(("driver down", function.online, world.link.up))

    function.watch(Driver())
    world.epc.watch(0, Watcher(cast("list[str]", order), "device"), lambda: None)
    world.rc.watch(Watcher(cast("list[str]", order), "bus"))
    order.clear()
    world.link.bring_down()
    world.link.bring_up()
    assert order == ["device down", ("driver down", False, False), "device up", ("driver up", True, 0, 6)]
    assert world.function is function
    assert not world.epc.msix_enabled(0)
    assert world.rc.interrupts.requested == 0
    assert function.enable_msix() == 4
    world.epc.raise_irq(0, 0)
    function.request_irq(0, Watcher(world.log, "again").irq)
    assert world.log == ["again irq"]


@pytest.mark.parametrize("cut_first", [False, True])
def test_a_stopped_endpoint_is_a_removal_and_comes_back_as_a_new_function(world: World, cut_first: bool) -> None:
    world.epc.start()
    function = world.function
    world.rc.watch(Watcher(world.log, "bus"))
    function.watch(Watcher(world.log, "driver"))
    world.log.clear()
    if cut_first:
        world.link.bring_down()
        world.epc.start()  # being present already changes nothing
        assert not world.link.up
    world.epc.stop()
    world.epc.stop()
    assert world.log == ["driver down", "bus gone 0000:01:00.0"]
    assert world.rc.functions == ()
    world.link.bring_up()
    assert not world.link.up
    world.epc.start()
    assert world.function is not function
    assert (function.online, function.config_read(0, 4), function.bar_size(0)) == (False, 0xFFFFFFFF, 0)
    function.config_write(4, 2, 0)
    assert world.function.config_read(4, 2) & 6 == 6


def test_another_identity_in_the_same_place_is_another_function(world: World) -> None:
    world.epc.start()
    function = world.function
    world.rc.watch(Watcher(world.log, "bus"))
    world.link.bring_down()
    world.epc.clear(0)
    world.epc.set_header(0, attrs.evolve(HEADER, device_id=0x1042))
    world.link.bring_up()
    assert world.function is not function
    assert world.log == ["bus found 0000:01:00.0", "bus gone 0000:01:00.0", "bus found 0000:01:00.0"]


def test_a_move_made_while_the_ends_are_told_waits_until_all_know(world: World) -> None:
    class Nervous(Watcher):
        def link_up(self) -> None:
            super().link_up()
            if world.link.epoch == 1:
                world.link.bring_down()
                world.link.bring_up()
                world.link.bring_down()

    world.epc.watch(0, Nervous(world.log, "device"), lambda: None)
    world.rc.watch(Watcher(world.log, "bus"))
    world.epc.start()
    assert world.log == ["device up", "bus found 0000:01:00.0", "device down"]
    assert not world.link.up
    world.link.bring_up()
    assert world.link.epoch == 2
    assert world.function.online


def test_a_hundred_flaps_leave_nothing_behind(world: World) -> None:
    function = world.ready()
    for _ in range(100):
        world.epc.window(0).pin(Addr(0x4000_0000), 64, "H")
        function.enable_msix()
        function.request_irq(0, Watcher(world.log, "v0").irq)
        world.link.bring_down()
        world.link.bring_up()
    assert world.link.epoch == 101
    assert (world.link.statistics().windows, world.rc.interrupts.requested) == (0, 0)
    assert world.epc.describe()["windows"] == []
    assert function.bars[0].address == 0x10_0000_0000


def test_each_end_of_a_link_is_taken_once(world: World) -> None:
    with pytest.raises(ValueError, match="has an endpoint"):
        EndpointController(world.link)
    with pytest.raises(ValueError, match="has a root port"):
        RootComplex(world.memory).attach(world.link)


def test_descriptions_are_plain_data_for_the_tree(world: World) -> None:
    world.ready().request_irq(1, Watcher(world.log, "v1").irq)
    (bus,) = world.rc.describe()
    (function,) = cast("list[dict[str, object]]", bus["functions"])
    assert (bus["bus"], bus["link"], bus["up"], bus["epoch"]) == (1, "link0", True, 1)
    assert function["bars"] == [{"bar": 0, "address": 0x10_0000_0000, "size": 0x4000}]
    assert [c["name"] for c in cast("list[dict[str, object]]", function["capabilities"])] == ["PCI Express", "MSI-X"]
    assert function["vectors"] == [1]
    (endpoint,) = cast("list[dict[str, object]]", world.epc.describe()["functions"])
    assert endpoint["msix"] == {"vectors": 4, "enabled": True, "masked": [0, 2, 3], "pending": []}
