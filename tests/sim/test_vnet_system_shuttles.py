"""Shuttles of a running system: when one gets the state of flows, and that it counts what a link would have carried."""

from __future__ import annotations

import pytest

from drivers.bus.device_queue import DeviceQueue
from drivers.bus.driver_queue import DriverQueue
from drivers.contracts.events import Topic
from support.native import NEEDS_NATIVE
from vnet.link.faults import Action, LinkRequest, Rule
from vnet.system.route import find_route
from vnet.testing.net import NetPair, Options, open_pair

pytestmark = NEEDS_NATIVE


def queues(pair: NetPair, name: str) -> tuple[DriverQueue, DeviceQueue]:
    device = pair.world.devices["net0"]
    [driver] = [queue for queue in device.driver_queues if queue.name == name]
    [own] = [queue for queue in device.device_queues if queue.name == name]
    return driver, own


def figures(pair: NetPair, driver: DriverQueue, device: DeviceQueue) -> object:
    link = next(iter(pair.world.links.values())).statistics()
    return (
        driver.calls,
        device.kicks,
        link.downstream,
        link.upstream,
        pair.world.devices["net0"].driver_host.rc.statistics(),
    )


async def test_a_route_counts_as_much_as_a_doorbell_and_an_interrupt() -> None:
    async with open_pair(Options(transport="pci")) as pair:
        driver, device = queues(pair, "transmitq1")
        route = find_route(driver, device)
        assert route is not None
        before = figures(pair, driver, device)
        driver.kick()
        device.device.ops.call(device)
        carried = figures(pair, driver, device)
        route.count(1, 1)
        driver.calls += 1
        device.kicks += 1
        counted = figures(pair, driver, device)
        assert before != carried
        for first, second, third in zip(_numbers(before), _numbers(carried), _numbers(counted), strict=True):
            assert third - second == second - first


def _numbers(figures: object) -> list[int]:
    text = "".join(char if char.isdigit() else " " for char in str(figures).replace("True", "").replace("False", ""))
    return [int(word) for word in text.split()]


@pytest.mark.parametrize("transport", ["mmio", "epf_mailbox", "ntb"])
async def test_other_transports_have_no_route(transport: str) -> None:
    async with open_pair(Options(transport=transport)) as pair:
        assert find_route(*queues(pair, "transmitq1")) is None


async def test_there_is_no_route_past_what_does_more_than_count() -> None:
    async with open_pair(Options(transport="pci")) as pair:
        both = queues(pair, "receiveq1")
        assert find_route(*both) is not None
        assert find_route(both[0], queues(pair, "transmitq1")[1]) is None, "a doorbell of another queue"
        faults = next(iter(pair.world.faults.values()))
        faults.add(Rule(LinkRequest.INTERRUPT, Action.LOSE, rate=0.5))
        assert find_route(*both) is None, "a rule judges interrupts"
        faults.clear()
        assert find_route(*both) is not None
        with pair.world.events.listen(lambda _: None, (Topic.REGISTERS,)):
            assert find_route(*both) is None, "a sink listens to register accesses"
        assert find_route(*both) is not None
        [function] = pair.world.devices["net0"].driver_host.rc.functions
        function.free_irq(both[1].vector)
        assert find_route(*both) is None, "the vector is masked"
