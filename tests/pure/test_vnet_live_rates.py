"""Rates are what counters have grown by between two snapshots."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import pytest

from rings.queue import QueueState
from vnet.live.rates import QueueRates, Rates, rates_between
from vnet.views.ends import EndView
from vnet.views.system import (
    DeviceQueueView,
    DeviceSideView,
    DeviceView,
    DriverQueueView,
    DriverSideView,
    QueueCounters,
    QueueView,
    SystemView,
    VerdictView,
)

END = EndView("memory", True)
ZERO = QueueCounters(0, 0, 0, 0, 0, {}, (0, 0, 0))


def system(
    counters: QueueCounters = ZERO,
    *,
    ring: QueueState | None = None,
    live: bool = True,
    resets: int = 0,
    rescues: int = 0,
    drops: Mapping[str, int] | None = None,
) -> SystemView:
    """A system with one device, whose sides have one queue with the same figures."""
    queue = QueueView(0, "receiveq1", live, ring, 0, 0, 0, rescues, None, counters)
    driver = DriverSideView(host="rc", queues=(DriverQueueView(queue, ""),), port=END)
    other = DeviceSideView(host="ep", queues=(DeviceQueueView(queue, True, 256, 0, ""),), resets=resets, port=END)
    device = DeviceView("net", "pci", "pcie0", "pcie0", "0000:01:00.0", True, "", driver, other)
    return SystemView("t", {}, {}, {}, {"net0": device}, drops or {})


def rates(before: SystemView, after: SystemView, seconds: float = 2.0) -> tuple[Rates, QueueRates, QueueRates]:
    result = rates_between(before, after, seconds)
    mine, other = result.queues
    return result, mine, other


def test_a_rate_is_per_second_and_payload_is_in_bits() -> None:
    after = attrs.evolve(ZERO, kicks=10, calls=4, packets=100, bytes=1000, drops={"a": 3, "b": 1}, batches=(10, 5, 5))
    result, mine, other = rates(system(), system(after, rescues=6))
    assert (mine.packets, mine.bits, mine.kicks, mine.calls, mine.drops, mine.rescues) == (50, 4000, 5, 2, 2, 3)
    assert mine.batch == 100 / 20
    assert mine.notifications_per_packet == 0.1, "a driver sends kicks"
    assert other.notifications_per_packet == 0.04, "a device sends calls"
    assert (result.system, result.seconds) == ("t", 2)
    assert (mine.host, mine.side, other.host, other.side) == ("rc", "driver", "ep", "device")


def test_without_packets_there_is_no_mean() -> None:
    _, mine, _ = rates(system(), system())
    assert (mine.packets, mine.notifications_per_packet, mine.batch, mine.fill) == (0, None, None, None)


def test_a_ring_is_filled_by_the_chains_in_flight() -> None:
    ring = QueueState(num=4, avail=3, used=1, in_flight=2, broken=False)
    _, mine, _ = rates(system(), system(ring=ring))
    assert (mine.fill, mine.num, mine.state) == (0.5, 4, "live")
    _, mine, _ = rates(system(), system(ring=attrs.evolve(ring, broken=True), live=False))
    assert mine.state == "broken"
    assert rates(system(), system(live=False))[1].state == "stopped"


def test_a_counter_that_started_again_has_grown_from_0() -> None:
    _, mine, _ = rates(system(attrs.evolve(ZERO, packets=100)), system(attrs.evolve(ZERO, packets=10)))
    assert mine.packets == 5


def test_a_device_has_the_drops_of_both_ends_and_its_resets() -> None:
    before = system(drops={"net0.device.port.too_long": 1})
    after = system(
        drops={"net0.device.port.too_long": 4, "net0.driver.port.refused": 1, "net1.driver.a.b": 7}, resets=4
    )
    [device] = rates_between(before, after, 2.0).devices
    assert device.drops == 2
    assert device.resets == 2
    assert device.causes == {"device.port.too_long": 4, "driver.port.refused": 1}


def test_a_device_that_is_unwell_has_its_verdict_on_one_line() -> None:
    after = system()
    verdict = VerdictView("down", "", "down: a reason", "vnet show net0")
    unwell = attrs.evolve(after, devices={"net0": attrs.evolve(after.devices["net0"], verdict=verdict)})
    assert rates_between(after, unwell, 1.0).devices[0].verdict == "unwell: down: a reason; see vnet show net0"
    assert rates_between(unwell, after, 1.0).devices[0].verdict == ""


@pytest.mark.parametrize("empty", [SystemView("t", {}, {}, {}, {}, {})])
def test_a_new_device_has_no_rates_yet(empty: SystemView) -> None:
    result, mine, _ = rates(empty, system(attrs.evolve(ZERO, packets=100), resets=3))
    assert mine.packets == 0
    assert result.devices[0].resets == 0
