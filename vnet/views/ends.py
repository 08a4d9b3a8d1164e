"""Views of the two ends of a device. Each device type adds the fields of its own ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs

from vnet.views.plain import INLINE

__all__ = [
    "CoalescingView",
    "EndView",
    "Figures",
    "ForeignView",
    "NetworkView",
    "OtherEndView",
    "PairView",
    "PortView",
    "ReceptionView",
    "SteeringView",
]


@attrs.frozen
class EndView:
    """One end of a device; base of the record of each device type."""

    TYPE: ClassVar[str] = "other"
    """Name of the record in plain data, see `vnet.views.parse`."""
    type: str = attrs.field(init=False, default=attrs.Factory(lambda self: self.TYPE, takes_self=True))
    kind: str
    """Kind of the end, such as tun or api."""
    live: bool
    """Whether the end can carry data now."""


@attrs.frozen
class OtherEndView(EndView):
    """An end whose record this program does not have."""

    facts: Mapping[str, object] = attrs.field(metadata=INLINE)
    type: str = attrs.field(default=EndView.TYPE, kw_only=True)
    """Name of the record in the program that sent it."""


@attrs.frozen
class Figures:
    """Counts of one queue, taken on one side, or of one direction of a pair of queues."""

    packets: int
    """Number of packets, messages or requests."""
    bytes: int
    """Bytes of payload."""
    drops: Mapping[str, int]
    """Number of drops or errors by cause."""


@attrs.frozen
class PairView:
    """Traffic of one pair of queues."""

    received: Figures
    """From the other side, sent out of the port."""
    sent: Figures
    """Read from the port, sent to the other side."""


@attrs.frozen
class ReceptionView:
    """A receive filter."""

    modes: tuple[str, ...]
    """Switches that are on, such as promisc."""
    unicast: tuple[str, ...]
    multicast: tuple[str, ...]
    vlans: tuple[int, ...] | None
    """None: all."""


@attrs.frozen
class CoalescingView:
    """The device calls after so many packets, or so long after the first of them."""

    max_packets: int
    max_usecs: int


@attrs.frozen
class SteeringView:
    """Receive-side scaling: the low bits of a frame's hash choose an entry of a table, which names a queue."""

    types: tuple[str, ...]
    """Types of packets that are hashed."""
    entries: Mapping[str, int]
    """Number of entries by name of the queue."""
    unclassified: str
    """Name of the queue of frames without a hash."""


@attrs.frozen(kw_only=True)
class NetworkView:
    """A network device as ``ethtool`` shows an interface, from one side. The defaults are those of a device down."""

    speed: int | None
    """Mbit/s; None: unknown."""
    duplex: str
    by_pair: tuple[PairView, ...]
    commands: Mapping[str, int]
    """Counters of the control queue."""
    pairs: int = 0
    """Pairs of queues in use."""
    max_pairs: int = 0
    mac: str | None = None
    carrier: bool | None = None
    """None at the driver's side, which reads it from the device."""
    mtu: int | None = None
    """None at the driver's side, which reads it from the device."""
    offloads: tuple[str, ...] = ()
    coalescing: Mapping[str, CoalescingView] = attrs.field(factory=dict)
    """Notification coalescing by name of the queue, of the queues that have any."""
    steering: SteeringView | None = None
    """None: automatic, by the queue that a flow is sent on."""
    hashes: tuple[str, ...] = ()
    """Types of packets whose hash the device reports (HASH_REPORT)."""
    reports: Mapping[str, int] = attrs.field(factory=dict)
    """Frames that the driver received, by the type of packets in their hash report."""
    receives: ReceptionView | None = None
    device_counts: Mapping[str, Mapping[str, int]] = attrs.field(factory=dict)
    """The device's own counters by name of the queue, as the driver was last told (DEVICE_STATS)."""


@attrs.frozen
class PortView(EndView):
    """An end of a network device: a port."""

    TYPE = "port"
    network: NetworkView
    netns: str | None
    ifname: str | None
    """None if the port has no interface."""
    addresses: tuple[str, ...]
    """Addresses in the topology."""
    lost: str
    """Reason why the interface is gone; empty if it is not."""
    caps: Mapping[str, object]
    """Capabilities of the port."""
    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int
    drops: Mapping[str, int]
    """Frames that the port dropped, by cause."""


@attrs.frozen
class ForeignView(EndView):
    """The end of a side in another process."""

    TYPE = "foreign"
    socket: str
    """Path of the socket."""
