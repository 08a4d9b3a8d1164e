"""Epochs of a link: what ends when the link goes down, and what comes back."""

from __future__ import annotations

from typing import cast

import attrs
import pytest

from rings.memory import Addr, PciAddr
from support.rigs.pcie import HEADER, Watcher, World, world
from vnet.errors import LinkDown
from vnet.link.base import Direction
from vnet.pcie.epc import EndpointController
from vnet.pcie.rc import RootComplex
from vnet.views.plain import to_plain

__all__ = ["world"]  # a fixture


MSI = 0xFEE0_0000
TABLE = 0x2000


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


def test_after_a_flap_the_same_function_is_configured_before_the_ends_are_notified(world: World) -> None:
    function = world.ready()
    function.request_irq(0, Watcher(world.log, "v0").irq)
    order: list[object] = []

    class Driver:
        def link_up(self) -> None:
            order.append(("driver up", function.online, function.bar_read(0, 0, 1), function.config_read(4, 2) & 6))

        def link_down(self) -> None:
            order.append(("driver down", function.online, world.link.up))

    function.watch(Driver())
    world.epc.watch(0, Watcher(cast("list[str]", order), "device"))
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


def test_a_move_during_the_notification_of_the_ends_waits_until_all_are_notified(world: World) -> None:
    class Nervous(Watcher):
        def link_up(self) -> None:
            super().link_up()
            if world.link.epoch == 1:
                world.link.bring_down()
                world.link.bring_up()
                world.link.bring_down()

    world.epc.watch(0, Nervous(world.log, "device"))
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
    assert world.epc.snapshot().windows == ()
    assert function.bars[0].address == 0x10_0000_0000


def test_each_end_of_a_link_is_taken_once(world: World) -> None:
    with pytest.raises(ValueError, match="has an endpoint"):
        EndpointController(world.link)
    with pytest.raises(ValueError, match="has a root port"):
        RootComplex(world.memory).attach(world.link)


def test_descriptions_are_plain_data_for_the_tree(world: World) -> None:
    world.ready().request_irq(1, Watcher(world.log, "v1").irq)
    (bus,) = to_plain(world.rc.snapshot())
    (function,) = bus["functions"]
    assert (bus["bus"], bus["link"], bus["up"], bus["epoch"]) == (1, "link0", True, 1)
    assert function["bars"] == [{"bar": 0, "address": 0x10_0000_0000, "size": 0x4000}]
    assert [c["name"] for c in function["capabilities"]] == ["PCI Express", "MSI-X"]
    assert function["vectors"] == [1]
    (endpoint,) = to_plain(world.epc.snapshot())["functions"]
    assert endpoint["msix"] == {"vectors": 4, "enabled": True, "masked": [0, 2, 3], "pending": []}
