"""The metrics of a running system: for each kind of part, its labels and the figures of its record.

Names follow Prometheus: base units in the name, and ``_total`` for counters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter

import attrs

from vnet.views.ends import PortView
from vnet.views.link import LinkTraffic
from vnet.views.system import QueueView, SystemView

__all__ = ["PARTS", "QUEUE", "Metric", "Part", "Row", "queue_rows"]

Row = tuple[tuple[str, ...], object]
"""Values of a part's labels, and its record."""
SIDE = ("host", "device", "side")
"""Labels of one side of a device."""
QUEUE = (*SIDE, "queue")
"""Labels of a queue."""


@attrs.frozen
class Metric:
    """A figure of a part."""

    name: str
    """Its end; the whole name is ``vnet_PART_NAME``."""
    help: str
    figure: Callable[[object], object]
    """Returns a number, or with ``label`` numbers by its value, from the record."""
    label: str = ""

    @property
    def counter(self) -> bool:
        """Whether the figure only grows, until the system ends."""
        return self.name.endswith("_total")


@attrs.frozen
class Part:
    """A kind of part."""

    name: str
    labels: tuple[str, ...]
    rows: Callable[[SystemView], Iterator[Row]]
    metrics: tuple[Metric, ...]


def _field(path: str) -> Callable[[object], object]:
    return attrgetter(path)


def _devices(system: SystemView) -> Iterator[Row]:
    for name, device in system.devices.items():
        yield (name, device.type, device.transport), device


def queue_rows(system: SystemView) -> Iterator[tuple[tuple[str, ...], QueueView]]:
    """Yield the queues of both sides of all devices, with the values of the labels `QUEUE`."""
    for name, device in system.devices.items():
        for host, side, queue in device.queues():
            yield (host, name, side, queue.name), queue


def _rings(system: SystemView) -> Iterator[Row]:
    for values, queue in queue_rows(system):
        if queue.ring is not None:
            yield values, queue.ring


def _ports(system: SystemView) -> Iterator[Row]:
    for name, device in system.devices.items():
        for side, own in device.sides:
            if isinstance(own.port, PortView):
                yield (own.host, name, side), own.port


def _links(system: SystemView) -> Iterator[Row]:
    for name, link in system.links.items():
        yield (name,), link.figures


def _link_traffic(system: SystemView) -> Iterator[Row]:
    for name, link in system.links.items():
        for kind, traffic in link.figures.requests.items():
            yield (name, kind), traffic


def _directions(system: SystemView) -> Iterator[Row]:
    for name, link in system.links.items():
        timing = link.figures.timing
        if timing is not None:
            for direction, figures in timing.directions.items():
                yield (name, direction), figures


def _hosts(system: SystemView) -> Iterator[Row]:
    for name, host in system.hosts.items():
        yield (name,), host.interrupts


def _ntbs(system: SystemView) -> Iterator[Row]:
    for name, ntb in system.ntbs.items():
        yield (ntb.host, name), ntb


def _requests(traffic: object) -> Mapping[str, int]:
    assert isinstance(traffic, LinkTraffic)
    return attrs.asdict(traffic)


PARTS: tuple[Part, ...] = (
    Part(
        "device",
        ("device", "type", "transport"),
        _devices,
        (
            Metric("up", "Whether the device carries data.", _field("up")),
            Metric("restarts_total", "Restarts by the driver.", _field("driver.restarts")),
            Metric("resets_total", "Resets that the device has seen.", _field("device.resets")),
        ),
    ),
    Part(
        "queue",
        QUEUE,
        queue_rows,
        (
            Metric("live", "Whether the queue carries data.", _field("live")),
            Metric("packets_total", "Packets, messages or requests.", _field("counters.packets")),
            Metric("bytes_total", "Payload in bytes.", _field("counters.bytes")),
            Metric("kicks_total", "Kicks sent (driver) or received (device).", _field("counters.kicks")),
            Metric("calls_total", "Interrupts received (driver) or sent (device).", _field("counters.calls")),
            Metric(
                "suppressed_notifications_total",
                "Kicks (driver) or calls (device) that the other side suppressed.",
                _field("counters.suppressed"),
            ),
            Metric("rescues_total", "Lost notifications: re-checks that found work.", _field("rescues")),
            Metric("drops_total", "Drops by cause.", _field("counters.drops"), "cause"),
        ),
    ),
    Part(
        "ring",
        QUEUE,
        _rings,
        (
            Metric("size_descriptors", "Queue size in descriptors.", _field("num")),
            Metric("in_flight_chains", "Chains that this side holds or waits for.", _field("in_flight")),
            Metric("broken", "Whether the ring broke a rule and waits for a reset.", _field("broken")),
        ),
    ),
    Part(
        "port",
        SIDE,
        _ports,
        (
            Metric("live", "Whether the port can carry data.", _field("live")),
            Metric("rx_packets_total", "Packets from the interface.", _field("rx_packets")),
            Metric("rx_bytes_total", "Bytes from the interface.", _field("rx_bytes")),
            Metric("tx_packets_total", "Packets to the interface.", _field("tx_packets")),
            Metric("tx_bytes_total", "Bytes to the interface.", _field("tx_bytes")),
            Metric("drops_total", "Frames that the port dropped, by cause.", _field("drops"), "cause"),
        ),
    ),
    Part(
        "link",
        ("link",),
        _links,
        (
            Metric("up", "Whether the link is up.", _field("up")),
            Metric("epoch", "Number of the link's epoch; each link-up begins one.", _field("epoch")),
            Metric("windows", "Open windows into the other host's memory.", _field("windows")),
            Metric("faults_total", "Injected faults by kind.", _field("faults"), "fault"),
        ),
    ),
    Part(
        "link",
        ("link", "kind"),
        _link_traffic,
        (Metric("requests_total", "Requests by kind and result.", _requests, "result"),),
    ),
    Part(
        "link",
        ("link", "direction"),
        _directions,
        (
            Metric("tlps_total", "Transaction layer packets of a timed link, by type.", _field("tlps"), "type"),
            Metric("payload_bytes_total", "Data in them in bytes.", _field("payload")),
            Metric("wire_bytes_total", "Bytes on the link, with headers and framing.", _field("wire")),
        ),
    ),
    Part(
        "host",
        ("host",),
        _hosts,
        (
            Metric("msi_interrupts_total", "MSI-X interrupts with a handler.", _field("msi")),
            Metric("spurious_msi_interrupts_total", "MSI-X interrupts without a handler.", _field("msi_spurious")),
            Metric("intx_interrupts_total", "INTx interrupts with a handler.", _field("intx")),
            Metric("spurious_intx_interrupts_total", "INTx interrupts without a handler.", _field("intx_spurious")),
        ),
    ),
    Part(
        "ntb",
        ("host", "ntb"),
        _ntbs,
        (
            Metric("link_up", "Whether the link between the two hosts is up.", _field("link_up")),
            Metric("link_epoch", "Number of that link's epoch.", _field("link_epoch")),
        ),
    ),
)
