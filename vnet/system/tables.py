"""The parts of a running system by name, which change while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rings.native import NATIVE
from vnet.ends.base import End
from vnet.ends.running import RunningDevice
from vnet.host.host import Host
from vnet.link.base import Link
from vnet.link.faulty import FaultyLink
from vnet.link.timed import TimedLink
from vnet.link.wire.errors import ErrorWire
from vnet.link.wire.link import WireLink
from vnet.linux.ipc import LocalIpc
from vnet.linux.poller import Poller
from vnet.pcie.ntb import NtbFunction
from vnet.pcie.rc import RootComplex
from vnet.ports.packet.interface_watch import Watches
from vnet.ports.packet.memory import MemoryPort
from vnet.system.bring_up import UP_TIMEOUT
from vnet.system.data_path import DataPath
from vnet.system.device import Device
from vnet.system.events import EventHub
from vnet.system.links import LinkRegisters, build_link
from vnet.system.readiness import Readiness
from vnet.system.rechecks import Rechecks
from vnet.system.remote import Remote
from vnet.system.ring_looks import RingLooks
from vnet.system.shuttles import Shuttles
from vnet.system.supervisor import Supervised
from vnet.system.trace_file import TraceFile
from vnet.topology import Topology

__all__ = ["System"]


class System:
    """The parts of a running system, and what they share."""

    def __init__(
        self, name: str, topology: Topology, poller: Poller | None = None, *, allow_unsealed: bool = False
    ) -> None:
        """``allow_unsealed``: whether other processes may share memory that is not sealed against shrinking."""
        self.name = name
        self.topology = topology
        self.ring_looks = RingLooks()
        self.events = EventHub()
        """All events of the system, for sinks."""
        self.hosts: dict[str, Host] = {}
        """Hosts of this process by name."""
        self.links: dict[str, Link] = {}
        self.faults: dict[str, FaultyLink] = {}
        """Faults of each link."""
        self.timed: dict[str, TimedLink] = {}
        """Timing of each link whose accesses take time."""
        self.wires: dict[str, WireLink] = {}
        """Wire of each link whose requests travel as packets."""
        self.registers: dict[str, LinkRegisters] = {}
        """Registers behind each link, with its root complex."""
        self.remotes: dict[str, Remote] = {}
        """The other process at one end of a link, by link."""
        self.buses: dict[str, int] = {}
        """Bus number at the root complex, by link."""
        self.traces: dict[str, TraceFile] = {}
        """Trace file by link."""
        self.ntbs: dict[str, NtbFunction] = {}
        self.devices: dict[str, Device] = {}
        self.poller = poller or Poller()
        self.watches: Watches | None = None
        """Watches of the interfaces of all ports."""
        self.ipc = LocalIpc(self.poller, allow_unsealed=allow_unsealed)
        self.shuttles = Shuttles(self.poller) if NATIVE else None
        """Shuttles of network devices; None without the native plain path."""
        self.processes: Sequence[Supervised] = ()
        """Processes of devices that this one supervises."""
        self.readiness = Readiness(self.events, self.devices)
        self.data_path = DataPath(self.events, topology, self.hosts, self.links, self.registers, self.devices)

    def add_link(self, name: str, rc: RootComplex, sink: Callable[[str], object] | None = None) -> Link:
        """Make a link of the topology below a root complex, and return it. ``sink`` takes the lines of its trace."""
        registers = self.registers[name] = LinkRegisters(name, self.topology, rc)
        built = build_link(name, self.topology.links[name], registers, self.events, sink)
        self.links[name], self.faults[name] = built.link, built.faults
        if built.timed is not None:
            self.timed[name] = built.timed
        if built.wire is not None:
            self.wires[name] = built.wire
        built.faults.watch_losses(Rechecks(name, self.devices).switch)
        return built.link

    def error_wire(self, name: str) -> ErrorWire | None:
        """Return the wire of a link for Advanced Error Reporting; None without it."""
        spec = self.topology.links[name].wire
        return self.wires[name] if spec is not None and spec.aer else None

    def remove_link(self, name: str) -> None:
        """Take a link away, behind which no function is left. Harmless if it was not made."""
        link, registers = self.links.pop(name, None), self.registers.pop(name, None)
        for table in (self.faults, self.timed, self.wires, self.remotes, self.buses):
            table.pop(name, None)
        if link is not None and registers is not None:
            link.set_present(False)
            registers.rc.detach(link)
            self.data_path.forget(link)

    def close(self) -> None:
        """Close the memory of all hosts and the traces of all links. Calling it twice is harmless."""
        for host in self.hosts.values():
            host.close()
        for trace in self.traces.values():
            trace.close()

    def netns(self, host: str) -> str:
        """Return the namespace of a host's ports that name no other."""
        return f"{self.name}-{host}"

    def ends(self, device: str) -> tuple[End, End]:
        """Return the two ends that programs use; in mediated mode, the second one is the local driver's end."""
        return self.devices[device].ends

    def running(self, device: str) -> RunningDevice[Any, Any]:
        """Return a device of the topology as its demonstration and its exercise use it."""
        spec = self.topology.devices[device]
        return RunningDevice(self.name, device, spec, self.topology.ends(spec), self.ends(device))

    def memory_port(self, device: str, end: str) -> MemoryPort:
        """Return the in-memory port at the ``driver`` or ``device`` end. Raises TypeError for other ports."""
        port = getattr(self.ends(device)[end == "device"].settings, "port", None)
        if not isinstance(port, MemoryPort):
            raise TypeError(f"the port at the {end} end of {device} is no memory port")
        return port

    async def wait_up(self, timeout: float = UP_TIMEOUT) -> None:
        """Return when every device is up whose driver is in this process.

        A device has ``timeout`` seconds from the start of its own bring-up.

        Raises ProbeError if a device failed, or is not up in time.
        """
        await self.readiness.wait_up(timeout)
