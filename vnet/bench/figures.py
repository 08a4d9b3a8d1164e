"""Counts and measurements as values, with their arithmetic: differences, medians, ratios."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import attrs

from vnet.system.snapshot import QueueRow

__all__ = [
    "Machine",
    "QueueFigures",
    "Result",
    "Results",
    "Sample",
    "between",
    "from_samples",
    "median_of",
    "queue_figures",
]


@attrs.frozen
class QueueFigures:
    """One queue, seen from both sides."""

    queue: str
    packets: int
    kicks: int
    """Sent by the driver."""
    calls: int
    """Sent by the device."""
    driver_batches: tuple[int, ...]
    """Batches the driver moved, by size: of 1, 2-3, 4-7, ... packets; the last number counts all larger ones."""
    device_batches: tuple[int, ...]


def queue_figures(rows: Iterable[QueueRow]) -> tuple[QueueFigures, ...]:
    """Join the driver's and the device's row of each queue."""
    sides = {(row.device, row.queue, row.side): row.counters for row in rows}
    return tuple(
        QueueFigures(
            queue,
            packets=counters.packets,
            kicks=sides[device, queue, "driver"].kicks,
            calls=counters.calls,
            driver_batches=sides[device, queue, "driver"].batches,
            device_batches=counters.batches,
        )
        for (device, queue, side), counters in sides.items()
        if side == "device"
    )


def between(before: Sequence[QueueFigures], after: Sequence[QueueFigures]) -> tuple[QueueFigures, ...]:
    """The difference of two counts of the same queues."""

    def less(new: tuple[int, ...], old: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(n - o for n, o in zip(new, old, strict=True))

    return tuple(
        QueueFigures(
            new.queue,
            new.packets - old.packets,
            new.kicks - old.kicks,
            new.calls - old.calls,
            less(new.driver_batches, old.driver_batches),
            less(new.device_batches, old.device_batches),
        )
        for old, new in zip(before, after, strict=True)
    )


@attrs.frozen
class Sample:
    """One run of one workload on one contestant; None for a figure that was not measured."""

    bits_per_second: float | None = None
    """Payload that arrived."""
    packets_per_second: float | None = None
    """UDP: datagrams that arrived."""
    rtt_average: float | None = None
    """Milliseconds."""
    rtt_median: float | None = None
    """Milliseconds."""
    cpu_seconds_per_gigabyte: float | None = None
    """User and system time of the forwarding process per 10^9 bytes of payload."""
    notifications_per_packet: float | None = None
    """Kicks and calls, of all queues in both directions."""
    kicks_per_batch: float | None = None
    """Per batch that the driver moved."""
    calls_per_batch: float | None = None
    """Per batch that the device moved."""
    queues: tuple[QueueFigures, ...] = ()

    def with_queues(self, queues: tuple[QueueFigures, ...]) -> Sample:
        """Add the queues' counts, and the notifications per packet and per batch."""

        def ratio(part: int, whole: int) -> float | None:
            return part / whole if whole else None

        kicks, calls = sum(queue.kicks for queue in queues), sum(queue.calls for queue in queues)
        return attrs.evolve(
            self,
            queues=queues,
            notifications_per_packet=ratio(kicks + calls, sum(queue.packets for queue in queues)),
            kicks_per_batch=ratio(kicks, sum(sum(queue.driver_batches) for queue in queues)),
            calls_per_batch=ratio(calls, sum(sum(queue.device_batches) for queue in queues)),
        )


FIGURES = tuple(field.name for field in attrs.fields(Sample) if field.name != "queues")


def median_of(values: Iterable[float | None]) -> float | None:
    """The median of the values that are not None; None if there is none."""
    there = [value for value in values if value is not None]
    return median(there) if there else None


@attrs.frozen
class Result:
    """One workload on one contestant over all rounds."""

    median: Mapping[str, float]
    """Medians over the rounds, by figure; a figure that was not measured is absent."""
    ratio: Mapping[str, float]
    """Medians over the rounds of each round's ratio to the reference, by figure."""
    rounds: tuple[Sample | None, ...]
    """None for a run that failed."""


def from_samples(rounds: Sequence[Sample | None], reference: Sequence[Sample | None]) -> Result:
    """Pair the two by round: a disturbance of a round meets both alike."""

    def ratios(name: str) -> Iterable[float | None]:
        for ours, theirs in zip(rounds, reference, strict=False):
            value, unit = getattr(ours, name, None), getattr(theirs, name, None)
            yield value / unit if value is not None and unit else None

    def measured(values: Callable[[str], Iterable[float | None]]) -> dict[str, float]:
        medians = {name: median_of(values(name)) for name in FIGURES}
        return {name: value for name, value in medians.items() if value is not None}

    return Result(
        median=measured(lambda name: [getattr(sample, name, None) for sample in rounds]),
        ratio=measured(ratios),
        rounds=tuple(rounds),
    )


@attrs.frozen
class Machine:
    """The machine that was measured on."""

    cores: int
    cpu: str
    kernel: str
    python: str


@attrs.frozen
class Results:
    """All figures of a suite."""

    machine: Machine
    rounds: int
    seconds: int
    """Length of each throughput run."""
    congestion: str
    """The algorithm that TCP used."""
    reference: str
    """The contestant that the others are compared with."""
    workloads: Mapping[str, Mapping[str, Result]]
    """Results by workload, then by contestant."""
    peak_memory: Mapping[str, int | None]
    """Peak resident bytes of each contestant's forwarding process."""
    failures: tuple[str, ...]
    """Runs that gave no figures, and why."""
    left_out: Mapping[str, str] = attrs.field(factory=dict)
    """Contestants that can't be set up on this machine, and why."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON: the names of the fields are its keys."""
        return attrs.asdict(self)
