"""Rates of queues and devices between two snapshots of one system."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from vnet.views.system import DeviceView, QueueView, SystemView

__all__ = ["DeviceRates", "LinkRule", "QueueRates", "Rates", "rates_between"]


@attrs.frozen
class QueueRates:
    """A queue, seen from one side."""

    device: str
    host: str
    side: str
    """Either driver or device."""
    queue: str
    state: str
    """live, stopped or broken."""
    packets: float
    """Packets, messages or requests per second."""
    bits: float
    """Bits of payload per second."""
    kicks: float
    """Kicks per second."""
    calls: float
    """Interrupts (calls) per second."""
    notifications_per_packet: float | None
    """Kicks (driver) or calls (device) sent per packet; None without packets."""
    batch: float | None
    """Mean number of packets of a batch; None without batches."""
    in_flight: int
    """Chains outstanding (driver) or held (device)."""
    num: int
    """Queue size in descriptors; 0 without a ring."""
    drops: float
    """Drops per second."""
    rescues: float
    """Lost notifications per second: re-checks that found work."""

    @property
    def fill(self) -> float | None:
        """Chains in flight as a part of the queue size; None without a ring."""
        return self.in_flight / self.num if self.num else None


@attrs.frozen
class DeviceRates:
    """A device."""

    name: str
    type: str
    transport: str
    up: bool
    trouble: str
    """Reason why it is not up."""
    restarts: int
    """Restarts by the driver since the device exists."""
    resets: float
    """Resets per second that the device has seen."""
    drops: float
    """Lost packets per second at both ends, those of the ports included."""
    causes: Mapping[str, int]
    """Lost packets since the start, as "side.place.cause"."""
    verdict: str = ""
    """Its verdict on one line; empty if it is well."""


@attrs.frozen
class LinkRule:
    """A rule of a link's faults."""

    link: str
    name: str
    words: str
    """The rule on one line, with what it has done."""


@attrs.frozen
class Rates:
    """A system."""

    system: str
    seconds: float
    """Time between the two snapshots."""
    links: Mapping[str, bool]
    """Whether each link is up."""
    devices: tuple[DeviceRates, ...]
    queues: tuple[QueueRates, ...]
    rules: tuple[LinkRule, ...] = ()
    """Rules of faults of all links."""


def rates_between(before: SystemView, after: SystemView, seconds: float) -> Rates:
    """Return the rates between two snapshots, which are ``seconds`` apart.

    A counter that is smaller than before has started again, with the system. New queues and devices have no rates yet.
    """
    old_queues = {key: queue for key, _, queue in _queues(before)}
    return Rates(
        after.name,
        seconds,
        {name: link.figures.up for name, link in after.links.items()},
        tuple(_device(name, device, before, after, seconds) for name, device in after.devices.items()),
        tuple(_queue(key, host, queue, old_queues.get(key), seconds) for key, host, queue in _queues(after)),
        tuple(
            LinkRule(name, rule.name, rule.words) for name, link in after.links.items() for rule in link.figures.rules
        ),
    )


Key = tuple[str, str, str]
"""Names of a device, a side and a queue."""


def _queues(system: SystemView) -> Iterator[tuple[Key, str, QueueView]]:
    for name, device in system.devices.items():
        for host, side, queue in device.queues():
            yield (name, side, queue.name), host, queue


def _queue(key: Key, host: str, queue: QueueView, old: QueueView | None, seconds: float) -> QueueRates:
    new, before = queue.counters, (old or queue).counters
    packets = _grown(new.packets, before.packets)
    kicks = _grown(new.kicks, before.kicks)
    calls = _grown(new.calls, before.calls)
    batches = _grown(sum(new.batches), sum(before.batches))
    sent = kicks if key[1] == "driver" else calls
    ring = queue.ring
    return QueueRates(
        key[0],
        host,
        key[1],
        key[2],
        "broken" if ring is not None and ring.broken else "live" if queue.live else "stopped",
        packets / seconds,
        8 * _grown(new.bytes, before.bytes) / seconds,
        kicks / seconds,
        calls / seconds,
        sent / packets if packets else None,
        packets / batches if batches else None,
        0 if ring is None else ring.in_flight,
        0 if ring is None else ring.num,
        _grown(sum(new.drops.values()), sum(before.drops.values())) / seconds,
        _grown(queue.rescues, (old or queue).rescues) / seconds,
    )


def _device(name: str, device: DeviceView, before: SystemView, after: SystemView, seconds: float) -> DeviceRates:
    causes, old = after.drops_of(name), before.devices.get(name, device)
    return DeviceRates(
        name,
        device.type,
        device.transport,
        device.up,
        device.trouble,
        device.driver.restarts,
        _grown(device.device.resets, old.device.resets) / seconds,
        _grown(sum(causes.values()), sum(before.drops_of(name).values())) / seconds,
        causes,
        "" if device.verdict is None else device.verdict.words,
    )


def _grown(new: int, old: int) -> int:
    """Return the growth of a counter. One that started again has grown from 0."""
    return new - old if new >= old else new
