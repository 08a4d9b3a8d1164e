"""The collector of a Prometheus registry: it asks the system when it is read, and keeps nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from vnet.errors import ControlError
from vnet.metrics.table import PARTS, QUEUE, Metric, Part, queue_rows
from vnet.views.system import SystemView

__all__ = ["SystemCollector"]


class SystemCollector(Collector):
    """The metrics of the system ``name``. ``look`` returns its view; raises ControlError, OSError."""

    def __init__(self, name: str, look: Callable[[], SystemView]) -> None:
        self._name = name
        self._look = look

    def describe(self) -> Iterator[Family]:
        """Yield no family: a registry must not ask the system when the collector is added."""
        return iter(())

    def collect(self) -> Iterator[Family]:
        """Yield the families. A system that does not answer has only ``vnet_up`` 0."""
        try:
            system = self._look()
        except (ControlError, OSError):
            system = None
        up = GaugeMetricFamily("vnet_up", "Whether the system answers.", labels=("system",))
        up.add_metric((self._name,), system is not None)
        yield up
        if system is not None:
            for part in PARTS:
                yield from (self._family(part, metric, system) for metric in part.metrics)
            yield self._batches(system)

    def _family(self, part: Part, metric: Metric, system: SystemView) -> Family:
        labels = ("system", *part.labels, *((metric.label,) if metric.label else ()))
        make = CounterMetricFamily if metric.counter else GaugeMetricFamily
        family = make(f"vnet_{part.name}_{metric.name}", metric.help, labels=labels)
        for values, record in part.rows(system):
            figure = metric.figure(record)
            counts: Mapping[str, object] = figure if isinstance(figure, Mapping) else {"": figure}
            for key, count in counts.items():
                assert isinstance(count, int | float)
                family.add_metric((self._name, *values, *((key,) if metric.label else ())), count)
        return family

    def _batches(self, system: SystemView) -> Family:
        """Return the histogram of the sizes of batches."""
        family = HistogramMetricFamily("vnet_queue_batch_packets", "Packets of a batch.", labels=("system", *QUEUE))
        for values, queue in queue_rows(system):
            family.add_metric((self._name, *values), _buckets(queue.counters.batches), queue.counters.packets)
        return family


def _buckets(batches: Sequence[int]) -> list[tuple[str, float]]:
    """Return the cumulated numbers of batches of at most 1, 3, 7, ... packets."""
    total, buckets = 0, []
    for power, count in enumerate(batches, 1):
        total += count
        bound = "+Inf" if power == len(batches) else str(float((1 << power) - 1))
        buckets.append((bound, float(total)))
    return buckets
