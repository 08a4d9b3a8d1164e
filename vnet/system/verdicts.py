"""Verdicts on a running system: what is wrong with a device, and where to look next. Derived from its view alone.

`RULES` is the one table of them, the most severe first. The first rule that applies to a device gives its verdict: the
others would name what follows from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from drivers.bus.virtio import REQUESTED
from vnet.names import system_option
from vnet.views.system import DeviceView, QueueView, VerdictView

__all__ = ["OFTEN", "RULES", "STALLED", "VerdictRule", "judge"]

OFTEN = 3
"""Resets in a row for one reason that are a loop."""
LOOP = 10.0
"""Seconds after the last of them in which a device is in a loop: longer than the longest pause between two."""
STALLED = 3.0
"""Seconds that a chain may be outstanding before its queue stands still."""
INBOUND = ("receiveq", "eventq")
"""Starts of the names of queues whose chains wait until something arrives."""

Faults = Iterator[tuple[str, str]]
"""Pairs of a queue, empty if the whole device is meant, and a sentence."""


@attrs.frozen
class VerdictRule:
    """A rule for devices."""

    name: str
    find: Callable[[DeviceView], Faults]
    """Yields what is wrong by this rule. The first one counts."""
    look: str
    """Command that shows more; {name} stands for the option of the system, {device} and {queue} for the names."""


def judge(system: str, name: str, device: DeviceView) -> VerdictView | None:
    """Return the verdict on the device ``name`` of a system; None if it is well."""
    option = system_option(system)
    for rule in RULES:
        for queue, text in rule.find(device):
            return VerdictView(rule.name, queue, text, rule.look.format(name=option, device=name, queue=queue).rstrip())
    return None


# Rules


def _reset_loop(device: DeviceView) -> Faults:
    reset = device.driver.last_reset
    if reset.in_a_row >= OFTEN and (reset.pause or reset.age < LOOP):
        requested = reset.reason == REQUESTED and device.device.failures
        cause = f"{_last_failure(device)} ({REQUESTED})" if requested else reset.reason
        yield "", f"reset {reset.in_a_row} times in a row: {cause}"


def _last_failure(device: DeviceView) -> str:
    """Return why the device asked for a reset, with the section of the specification."""
    last = device.device.failures[-1]
    faults = (f"{queue.view.name}: {queue.fault}" for queue in device.device.queues)
    return next((fault for fault in faults if fault.startswith(last)), last)


def _broken(device: DeviceView) -> Faults:
    for queue in device.device.queues:
        if queue.view.ring is not None and queue.view.ring.broken and queue.fault:
            yield queue.view.name, f"{queue.view.name} broke and waits for a reset by the driver: {queue.fault}"
    for own in device.driver.queues:
        if own.fault:
            yield own.view.name, f"{own.fault}: the device broke the ring"


def _needs_reset(device: DeviceView) -> Faults:
    if "NEEDS_RESET" in device.device.status and device.device.failures:
        yield "", f"waits for a reset by the driver: {_last_failure(device)}"


def _down(device: DeviceView) -> Faults:
    if not device.up:
        yield "", f"down: {device.trouble}"


def _waiting(device: DeviceView) -> Iterator[QueueView]:
    """Yield the queues with a chain that should have been used by now, as the side sees them that knows its age."""
    return (
        queue
        for _, _, queue in device.queues()
        if (queue.waited or 0.0) >= STALLED and not queue.name.startswith(INBOUND)
    )


def _silent(device: DeviceView) -> Faults:
    actor = "the back end" if device.device.foreign else "the device"
    for queue in _waiting(device):
        if not queue.returned:
            text = f"{actor} has answered none of {_chains(queue)}, the oldest for at least {queue.waited:.0f} s"
            yield queue.name, f"{queue.name}: {text}"


def _stalled(device: DeviceView) -> Faults:
    for queue in _waiting(device):
        text = f"{_chains(queue)} outstanding, the oldest for at least {queue.waited:.0f} s"
        yield queue.name, f"{queue.name} stands still: {text}"


def _chains(queue: QueueView) -> str:
    count = 0 if queue.ring is None else queue.ring.in_flight
    return f"{count} chain{'' if count == 1 else 's'}"


def _lost(device: DeviceView) -> Faults:
    """Yield the queues whose notifications got lost, the one with most losses first."""
    losses: list[tuple[int, str, str]] = []
    others = {queue.view.name: queue for queue in device.device.queues}
    for own in device.driver.queues:
        mine, other = own.view, others.get(own.view.name)
        if other is not None and other.view.rescues:
            sent, arrived = mine.counters.kicks, other.view.counters.kicks + other.spurious_kicks
            losses.append(_losses(mine.name, "kick", sent, arrived, other.view.rescues))
        if mine.rescues:
            sent = mine.counters.calls if other is None else other.view.counters.calls
            losses.append(_losses(mine.name, "call", sent, mine.counters.calls, mine.rescues))
    return ((queue, text) for _, queue, text in sorted(losses, reverse=True))


def _losses(queue: str, kind: str, sent: int, arrived: int, rescues: int) -> tuple[int, str, str]:
    """Return the number of losses, the queue and the sentence."""
    times = f"{rescues} time{'' if rescues == 1 else 's'}"
    if sent <= arrived:  # the other process does not say what it sent, or the notification came late
        return rescues, queue, f"{queue}: a re-check found work without a {kind} {times}"
    share = f"{sent - arrived} of {sent} {kind}s did not arrive"
    return rescues, queue, f"{queue}: {share}; a re-check found the work {times}"


SHOW = "vnet show{name} {device} {queue}"
RULES = (
    VerdictRule("reset-loop", _reset_loop, SHOW),
    VerdictRule("broken-queue", _broken, SHOW),
    VerdictRule("needs-reset", _needs_reset, SHOW),
    VerdictRule("down", _down, "vnet show{name} {device}"),
    VerdictRule("no-answer", _silent, SHOW),
    VerdictRule("stalled-queue", _stalled, SHOW),
    VerdictRule("lost-notifications", _lost, "vnet capture{name} --on {device} --events rings"),
)
"""Rules by severity."""
