"""The view of a whole system: hosts, links, NTBs and devices by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import attrs

from rings.queue import QueueState
from vnet.views.ends import EndView
from vnet.views.link import LinkView
from vnet.views.pci import BusView, ControllerView, NtbView, RootStatistics
from vnet.views.plain import INLINE

__all__ = [
    "BindingView",
    "DeviceQueueView",
    "DeviceSideView",
    "DeviceView",
    "DriverQueueView",
    "DriverSideView",
    "HostView",
    "ProcessView",
    "QueueCounters",
    "QueueView",
    "RegionView",
    "ResetView",
    "SandboxView",
    "SocketView",
    "StatusView",
    "SystemView",
    "VerdictView",
]


@attrs.frozen
class RegionView:
    """A slot on the platform bus."""

    name: str
    address: int
    size: int
    """Size in bytes."""
    irq: int
    occupied: bool
    asserted: bool
    """Whether its interrupt is asserted."""
    interrupts: int
    """Interrupts that a driver handled."""
    unhandled: int


@attrs.frozen
class SocketView:
    """A host's end of a vhost-user socket."""

    name: str
    connections: int
    """Number of connections so far."""


@attrs.frozen
class HostView:
    """A host."""

    netns: str | None
    """Namespace of its first port that has one."""
    pci: tuple[BusView, ...]
    interrupts: RootStatistics
    controllers: tuple[ControllerView, ...]
    platform: tuple[RegionView, ...]
    sockets: tuple[SocketView, ...]


@attrs.frozen
class QueueCounters:
    """Counters of a queue on one side, since the device exists."""

    kicks: int
    """Kicks sent (driver) or received (device)."""
    calls: int
    """Interrupts (calls) received (driver) or sent (device)."""
    suppressed: int
    """Kicks (driver) or calls (device) suppressed by the other side."""
    packets: int
    """Number of packets, messages or requests."""
    bytes: int
    """Bytes of payload, without virtio_net_hdr."""
    drops: Mapping[str, int]
    """Number of drops by cause, without those of the ports."""
    batches: tuple[int, ...]
    """Number of batches of 1, 2-3, 4-7, ... packets; the last number counts all larger ones."""


@attrs.frozen
class QueueView:
    """A queue, seen from one side."""

    index: int
    name: str
    live: bool
    ring: QueueState | None
    """None while there is no ring."""
    chains: int
    """Chains added (driver) or taken (device) since the queue was enabled."""
    returned: int
    """Used chains received (driver) or completed (device) since then."""
    bad_lengths: int
    """Used lengths larger than the buffer since then."""
    rescues: int
    """Re-checks that found work whose notification was lost."""
    waited: float | None
    """Seconds that the oldest chain has been outstanding at least, according to earlier looks; 0 at a first look. None
    if no chain is, or if the other side knows it."""
    counters: QueueCounters = attrs.field(metadata=INLINE)
    path: str = ""
    """"native" if plain chains are moved in C now, else "python"; empty without a ring."""


@attrs.frozen
class DriverQueueView:
    """A queue, seen from the driver's side."""

    view: QueueView = attrs.field(metadata=INLINE)
    fault: str
    """Reason why the queue is broken; empty if it is not."""


@attrs.frozen
class DeviceQueueView:
    """A queue, seen from the device's side."""

    view: QueueView = attrs.field(metadata=INLINE)
    enabled: bool
    max_num: int
    """Largest number of entries that the device offers."""
    spurious_kicks: int
    """Kicks for a queue that was not running."""
    fault: str
    """Last rule that the driver violated, or access that failed, with the section of the specification; empty if there
    was none."""


@attrs.frozen
class ResetView:
    """The last reset by a driver."""

    reason: str = ""
    """Empty if there was none."""
    in_a_row: int = 0
    """Resets for this reason, without another one between them."""
    pause: float = 0.0
    """Seconds until the next bring-up; 0 if none is due."""
    age: float = 0.0
    """Seconds since the reset."""


@attrs.frozen
class BindingView:
    """A device on its bus."""

    driver: str | None
    """None if no driver matches."""
    state: str
    error: str
    """Reason why the last probe was deferred or failed."""


@attrs.frozen(kw_only=True)
class DriverSideView:
    """The driver's side of a device. The defaults are those of a device that is not enumerated yet."""

    host: str
    foreign: bool = False
    """Whether the driver is in another process."""
    enumerated: bool = False
    """Whether the host has enumerated the device."""
    name: str = ""
    binding: BindingView = attrs.field(default=BindingView(None, "", ""), metadata=INLINE)
    status: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    restarts: int = 0
    last_reset: ResetView = ResetView()
    failures: tuple[str, ...] = ()
    early_interrupts: int = 0
    """Interrupts before DRIVER_OK."""
    queues: tuple[DriverQueueView, ...] = ()
    port: EndView


@attrs.frozen(kw_only=True)
class DeviceSideView:
    """The device's side of a device. The defaults are those of a device in another process."""

    host: str
    foreign: bool = True
    """Whether the device is in another process."""
    name: str = ""
    registers: Mapping[str, int] = attrs.field(factory=dict)
    """Registers or scratchpads that the driver reads; empty if all reads are trapped."""
    binding: BindingView = attrs.field(default=BindingView(None, "", ""), metadata=INLINE)
    status: tuple[str, ...] = ()
    device_features: tuple[str, ...] = ()
    driver_features: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    resets: int = 0
    failures: tuple[str, ...] = ()
    queues: tuple[DeviceQueueView, ...] = ()
    port: EndView


@attrs.frozen
class VerdictView:
    """The fault of a device that is unwell."""

    rule: str
    """Name of the rule that found it, such as stalled-queue."""
    queue: str
    """Name of the queue; empty if the whole device is meant."""
    text: str
    look: str
    """Command that shows more."""

    @property
    def words(self) -> str:
        """The verdict on one line, with the command that shows more."""
        return f"unwell: {self.text}; see {self.look}"


@attrs.frozen
class DeviceView:
    """A device, seen from both sides."""

    type: str
    transport: str
    link: str | None
    on: str | None
    """Link, host or NTB that carries it."""
    location: str
    """Name on the driver's host."""
    up: bool
    """Whether it carries data."""
    trouble: str
    """Reason why it is not up."""
    driver: DriverSideView
    device: DeviceSideView
    verdict: VerdictView | None = None
    """Its fault; None if it is well."""

    @property
    def sides(self) -> tuple[tuple[str, DriverSideView | DeviceSideView], ...]:
        """Both sides, each with its name."""
        return ("driver", self.driver), ("device", self.device)

    def queues(self) -> Iterator[tuple[str, str, QueueView]]:
        """Yield the queues of both sides, each with the host and the name of the side."""
        for side, own in self.sides:
            for queue in own.queues:
                yield own.host, side, queue.view


@attrs.frozen
class SandboxView:
    """Rights that the process of a system still has."""

    mode: Literal["off", "on", "strict"] = "off"
    capabilities: int = 0
    """Number of capabilities that it has."""
    no_new_privs: bool = False
    """Whether programs that it runs can gain no right."""
    calls: int = 0
    """Number of system calls that are allowed; 0: all."""
    landlock: int = 0
    """Version of Landlock that limits it to the files it was given; 0: none does."""


@attrs.frozen
class ProcessView:
    """The process of a device that is served by a supervisor."""

    pid: int | None
    """None while it does not run."""
    system: str
    """Name of its system; empty until it serves."""
    age: float
    """Seconds since it was started; 0 while it does not run."""
    restarts: int
    last_end: str
    """How its last predecessor ended; empty if there is none."""


@attrs.frozen
class SystemView:
    """A running system."""

    name: str
    hosts: Mapping[str, HostView]
    links: Mapping[str, LinkView]
    ntbs: Mapping[str, NtbView]
    devices: Mapping[str, DeviceView]
    drops: Mapping[str, int]
    """Lost traffic as "device.side.place.cause"."""
    sandbox: SandboxView = SandboxView()
    """Sandbox of its process."""
    processes: Mapping[str, ProcessView] = attrs.field(factory=dict)
    """Processes that it supervises, by the name of their device."""

    def drops_of(self, *names: str) -> dict[str, int]:
        """Return the lost traffic of a device, or of one side of it, by the rest of its key."""
        start = "".join(f"{name}." for name in names)
        return {key.removeprefix(start): count for key, count in self.drops.items() if key.startswith(start)}


@attrs.frozen
class StatusView:
    """Names of the parts of a running system, and which of them are up."""

    hosts: tuple[str, ...]
    links: Mapping[str, bool]
    devices: Mapping[str, bool]
    verdicts: Mapping[str, VerdictView]
    """The fault of each device that is unwell, by its name."""
    ntbs: tuple[str, ...] = ()
    luns: tuple[str, ...] = ()
    """LUNs of devices, as DEVICE:TARGET:LUN."""
