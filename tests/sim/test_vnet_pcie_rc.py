"""The root complex: enumeration, addresses and names."""

from __future__ import annotations

from itertools import pairwise

import attrs
import pytest

from drivers.contracts.hw import Epc, PciFunction
from rings.memory import Addr, Memory
from support.rigs.pcie import HEADER, Registers, Watcher, World, world
from vnet.link.base import Link
from vnet.link.ideal import IdealLink
from vnet.pcie.config_space import CAP_MSIX, CAP_PCI_EXPRESS, PciCommand
from vnet.pcie.epc import EndpointController
from vnet.pcie.rc import RootComplex

__all__ = ["world"]  # a fixture


TABLE = 0x2000


def test_the_simulated_parts_fit_the_interfaces_of_their_users(world: World) -> None:
    link: Link = world.link
    epc: Epc = world.epc
    world.epc.start()
    function: PciFunction = world.function
    memory: Memory = epc.window(0)
    assert link.up
    assert function.name == "0000:01:00.0"
    assert memory.view(Addr(0x4000_0000), 1).nbytes == 1


def test_a_started_endpoint_is_found_configured_and_reported_to_the_owner(world: World) -> None:
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
