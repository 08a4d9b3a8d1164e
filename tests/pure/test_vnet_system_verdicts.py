"""Verdicts: a row per condition of a device, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from drivers.bus.virtio import REQUESTED
from rings.queue import QueueState
from vnet.system.verdicts import RULES, STALLED, judge
from vnet.views.ends import EndView
from vnet.views.system import (
    DeviceQueueView,
    DeviceSideView,
    DeviceView,
    DriverQueueView,
    DriverSideView,
    QueueCounters,
    QueueView,
    ResetView,
    VerdictView,
)

END = EndView("api", True)
COUNTERS = QueueCounters(0, 0, 0, 0, 0, {}, (0,))
RING = QueueState(num=8, avail=5, used=3, in_flight=2)
FAULT = "chain 3: next descriptor 99 of 64"
SECTION = f"{FAULT} (VIRTIO 1.4, 2.7.5)"
QUEUE = QueueView(1, "transmitq1", True, RING, 5, 3, 0, 0, None, COUNTERS)
OLD = attrs.evolve(QUEUE, waited=STALLED + 1)
FRESH = attrs.evolve(QUEUE, waited=STALLED - 0.1)
LOOP = ResetView(REQUESTED, 3, 2.5, 1.0)


def queue(name: str = "transmitq1", view: QueueView = QUEUE, **changes: object) -> QueueView:
    return attrs.evolve(view, name=name, **changes)  # type: ignore[arg-type]


def counted(*, kicks: int = 0, calls: int = 0, rescues: int = 0) -> QueueView:
    return attrs.evolve(QUEUE, counters=attrs.evolve(COUNTERS, kicks=kicks, calls=calls), rescues=rescues)


def device(
    mine: Sequence[QueueView] = (QUEUE,),
    other: Sequence[QueueView] = (QUEUE,),
    *,
    reset: ResetView | None = None,
    failures: Sequence[str] = (),
    fault: str = "",
    driver_fault: str = "",
    status: Sequence[str] = (),
    spurious: int = 0,
    trouble: str = "",
    foreign: str = "",
) -> DeviceView:
    """A device that is well but for what is said; ``foreign`` is the side that is in another process."""
    driver = DriverSideView(
        host="rc",
        foreign=foreign == "driver",
        queues=() if foreign == "driver" else tuple(DriverQueueView(each, driver_fault) for each in mine),
        last_reset=reset or ResetView(),
        port=END,
    )
    side = DeviceSideView(
        host="ep",
        foreign=foreign == "device",
        queues=() if foreign == "device" else tuple(DeviceQueueView(q, True, 8, spurious, fault) for q in other),
        failures=tuple(failures),
        status=tuple(status),
        port=END,
    )
    return DeviceView("net", "pci", "pcie0", "pcie0", "0000:01:00.0", not trouble, trouble, driver, side)


BROKEN = queue(ring=attrs.evolve(RING, broken=True))
WELL = {
    "a device that is well": device(),
    "two resets in a row": device(reset=attrs.evolve(LOOP, in_a_row=2)),
    "resets that are over": device(reset=ResetView("the link went down", 9, 0.0, 60.0)),
    "a chain that is young": device([FRESH]),
    "receive buffers that wait": device([queue("receiveq1", OLD), queue("eventq", OLD)]),
    "a fault that was mended": device(fault=SECTION, failures=[f"transmitq1: {FAULT}"]),
}
UNWELL = {
    "reset loop": (
        device(reset=LOOP, failures=["older", f"transmitq1: {FAULT}"], fault=SECTION, trouble="down as well"),
        "reset-loop",
        f"reset 3 times in a row: transmitq1: {SECTION} ({REQUESTED})",
        "vnet show --name t net0",
    ),
    "reset loop of a driver with a reason of its own": (
        device(reset=ResetView("transmitq1: used entry 4", 7, 0.0, 0.1)),
        "reset-loop",
        "reset 7 times in a row: transmitq1: used entry 4",
        "vnet show --name t net0",
    ),
    "reset loop of a device that does not say why": (
        device(reset=LOOP, foreign="device"),
        "reset-loop",
        f"reset 3 times in a row: {REQUESTED}",
        "vnet show --name t net0",
    ),
    "broken queue": (
        device(other=[BROKEN], fault=SECTION, status=["NEEDS_RESET"], failures=[f"transmitq1: {FAULT}"]),
        "broken-queue",
        f"transmitq1 broke and waits for a reset by the driver: {SECTION}",
        "vnet show --name t net0 transmitq1",
    ),
    "queue that the device broke": (
        device(driver_fault="transmitq1: used entry 4"),
        "broken-queue",
        "transmitq1: used entry 4: the device broke the ring",
        "vnet show --name t net0 transmitq1",
    ),
    "needs a reset": (
        device(status=["DRIVER_OK", "NEEDS_RESET"], failures=["the store is gone"]),
        "needs-reset",
        "waits for a reset by the driver: the store is gone",
        "vnet show --name t net0",
    ),
    "down": (device([OLD], trouble="no driver is connected"), "down", "down: no driver is connected", None),
    "no answer of a device": (
        device([queue(view=OLD, returned=0)]),
        "no-answer",
        "transmitq1: the device has answered none of 2 chains, the oldest for at least 4 s",
        "vnet show --name t net0 transmitq1",
    ),
    "no answer of a back end": (
        device([queue("requestq1", OLD, returned=0, ring=attrs.evolve(RING, in_flight=1))], foreign="device"),
        "no-answer",
        "requestq1: the back end has answered none of 1 chain, the oldest for at least 4 s",
        "vnet show --name t net0 requestq1",
    ),
    "stalled queue": (
        device([queue("receiveq1", OLD), OLD]),
        "stalled-queue",
        "transmitq1 stands still: 2 chains outstanding, the oldest for at least 4 s",
        "vnet show --name t net0 transmitq1",
    ),
    "stalled queue of a served device": (
        device(other=[queue("requestq1", OLD)], foreign="driver"),
        "stalled-queue",
        "requestq1 stands still: 2 chains outstanding, the oldest for at least 4 s",
        "vnet show --name t net0 requestq1",
    ),
    "lost kicks": (
        device([counted(kicks=340)], [counted(kicks=320, rescues=10)], spurious=8),
        "lost-notifications",
        "transmitq1: 12 of 340 kicks did not arrive; a re-check found the work 10 times",
        "vnet capture --name t --on net0 --events rings",
    ),
    "lost calls": (
        device([counted(calls=3, rescues=1)], [counted(calls=4)]),
        "lost-notifications",
        "transmitq1: 1 of 4 calls did not arrive; a re-check found the work 1 time",
        "vnet capture --name t --on net0 --events rings",
    ),
    "lost calls of a back end": (
        device([counted(calls=3, rescues=2)], foreign="device"),
        "lost-notifications",
        "transmitq1: a re-check found work without a call 2 times",
        "vnet capture --name t --on net0 --events rings",
    ),
}


@pytest.mark.parametrize("name", WELL)
def test_a_device_that_is_well_has_no_verdict(name: str) -> None:
    assert judge("t", "net0", WELL[name]) is None


@pytest.mark.parametrize("name", UNWELL)
def test_a_device_that_is_unwell_has_one_verdict(name: str) -> None:
    view, rule, text, look = UNWELL[name]
    verdict = judge("t", "net0", view)
    assert isinstance(verdict, VerdictView)
    assert (verdict.rule, verdict.text) == (rule, text)
    assert verdict.look == (look or "vnet show --name t net0")


def test_every_rule_has_a_row() -> None:
    assert {rule for _, rule, _, _ in UNWELL.values()} == {rule.name for rule in RULES}


def test_a_system_of_the_default_name_needs_no_option() -> None:
    verdict = judge("vnet", "net0", device(trouble="gone"))
    assert verdict is not None
    assert verdict.look == "vnet show net0"
