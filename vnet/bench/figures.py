"""What is counted and measured, as values, and the arithmetic on them: differences, medians, ratios."""

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
    """The two sides of each queue put together."""
    sides = {(row.device, row.queue, row.side): row for row in rows}
    return tuple(
        QueueFigures(
            queue,
            packets=row.packets,
            kicks=sides[device, queue, "driver"].kicks,
            calls=row.calls,
            driver_batches=tuple(sides[device, queue, "driver"].batches),
            device_batches=tuple(row.batches),
        )
        for (device, queue, side), row in sides.items()
        if side == "device"
    )


def between(before: Sequence[QueueFigures], after: Sequence[QueueFigures]) -> tuple[QueueFigures, ...]:
    """What was counted in the meantime."""

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
    """One run of one workload on one contestant; None is what was not, or could not be, measured."""

    bits_per_second: float | None = None
    """Payload that arrived."""
    packets_per_second: float | None = None
    """UDP: datagrams that arrived."""
    rtt_average: float | None = None
    """Milliseconds."""
    rtt_median: float | None = None
    """Milliseconds."""
    cpu_seconds_per_gigabyte: float | None = None
    """Of the forwarding process, user and system, per 10^9 bytes of payload."""
    notifications_per_packet: float | None = None
    """Kicks and calls, of all queues in both directions."""
    kicks_per_batch: float | None = None
    """Per batch that the driver moved."""
    calls_per_batch: float | None = None
    """Per batch that the device moved."""
    queues: tuple[QueueFigures, ...] = ()

    def with_queues(self, queues: tuple[QueueFigures, ...]) -> Sample:
        """This sample and what its notifications come to."""

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
    """The median of what was measured; None where nothing was."""
    there = [value for value in values if value is not None]
    return median(there) if there else None


@attrs.frozen
class Result:
    """One workload on one contestant over all rounds."""

    median: Mapping[str, float]
    """By figure, over the rounds; what was not measured is not in it."""
    ratio: Mapping[str, float]
    """By figure: the median over the rounds of each round's ratio to the reference."""
    rounds: tuple[Sample | None, ...]
    """None for a run that failed."""


def from_samples(rounds: Sequence[Sample | None], reference: Sequence[Sample | None]) -> Result:
    """The two are paired by round: what disturbs a round disturbs both alike."""

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
    """Where it was measured."""

    cores: int
    cpu: str
    kernel: str
    python: str


@attrs.frozen
class Results:
    """Everything."""

    machine: Machine
    rounds: int
    seconds: int
    """Of each throughput run."""
    congestion: str
    """The algorithm that TCP used."""
    reference: str
    """The contestant that the others are compared with."""
    workloads: Mapping[str, Mapping[str, Result]]
    """By workload, by contestant."""
    peak_memory: Mapping[str, int | None]
    """Bytes resident at most, of each contestant's forwarding process."""
    failures: tuple[str, ...]
    """Runs that gave no figures, and why."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON: the names of the fields are its keys."""
        return attrs.asdict(self)
