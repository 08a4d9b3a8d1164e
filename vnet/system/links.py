"""Builds a link from its topology record: ideal, then timed, faulty and traced as required."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
import trio

from drivers.carriers.transport import Transport
from drivers.contracts.events import Events, LinkMoved, Source
from vnet.link.base import Direction, Link
from vnet.link.faults import MS, Flap, Rule, rates
from vnet.link.faulty import FaultyLink
from vnet.link.ideal import IdealLink
from vnet.link.timed import NS, READ_LATENCY, TimedLink
from vnet.link.tlp import PcieParameters
from vnet.link.traced import TracedLink
from vnet.link.wire.impairments import Impairments
from vnet.link.wire.impairments import rates as wire_rates
from vnet.link.wire.link import WireLink
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.pcie.rc import RootComplex
from vnet.spec import FaultSpec, LinkSpec, WireSpec
from vnet.topology import Topology
from vnet.transports import TRANSPORTS

__all__ = ["BuiltLink", "FoundRegister", "LinkRegisters", "build_link", "chances"]

Sink = Callable[[str], object]
"""Takes a line of a trace."""


@attrs.frozen
class FoundRegister:
    """A register of a function at an address on a link."""

    function: PciFunctionHandle
    device: str
    """Name of the device that the function carries; empty without one."""
    transport: Transport | None
    bar: int
    offset: int

    @property
    def name(self) -> str:
        """Name of the register, or its BAR and offset if it has none."""
        name = None if self.transport is None else self.transport.register_name(self.bar, self.offset)
        return name or f"BAR {self.bar}+{self.offset:#x}"


@attrs.frozen(eq=False)
class LinkRegisters:
    """The registers that a link's root complex has enumerated, by their address on the link."""

    link: str
    topology: Topology
    rc: RootComplex

    def name(self, direction: Direction, addr: int) -> str | None:
        """Return the name of the register at a downstream address, for traces; None if there is none."""
        register = self.find(addr) if direction is Direction.DOWNSTREAM else None
        return None if register is None else f"{register.function.name} {register.name}"

    def is_notify(self, addr: int, size: int, value: int) -> bool:
        """Return whether a downstream write notifies a device of buffers."""
        register = self.find(addr)
        return (
            register is not None
            and register.transport is not None
            and register.transport.is_notify(register.bar, register.offset)
        )

    def find(self, addr: int) -> FoundRegister | None:
        """Return the register at a downstream address; None if no function has the address."""
        for function in self.rc.functions:
            for bar in function.bars:
                if 0 <= addr - bar.address < bar.size:
                    carried = self.topology.carried(self.link, function.number)
                    name, transport = ("", None) if carried is None else (carried[0], TRANSPORTS[carried[1].transport])
                    return FoundRegister(function, name, transport, bar.index, addr - bar.address)
        return None


@attrs.frozen(eq=False)
class LinkReporter:
    """Emits an event each time that ``link`` goes up or down. Implements `drivers.contracts.hw.LinkEvents`."""

    link: Link
    events: Events

    def link_up(self) -> None:
        self._report(True)

    def link_down(self) -> None:
        self._report(False)

    def _report(self, up: bool) -> None:
        if (emit := self.events.links) is not None:
            emit(LinkMoved(trio.current_time(), Source(link=self.link.name), up, self.link.epoch))


@attrs.frozen(eq=False)
class BuiltLink:
    """A link, and the parts of it that change while it runs."""

    link: Link
    faults: FaultyLink
    timed: TimedLink | None
    """None if accesses take no time."""
    wire: WireLink | None
    """None if requests do not travel as packets."""


def build_link(
    name: str, spec: LinkSpec, registers: LinkRegisters, events: Events, sink: Sink | None = None
) -> BuiltLink:
    """Return the link of a record; ``sink``, if given, takes the lines of its trace."""
    given = {field.name: getattr(spec, field.name) for field in attrs.fields(PcieParameters)}
    parameters = PcieParameters(**{key: value for key, value in given.items() if value is not None})
    wire = None if spec.wire is None else _wire(name, spec, spec.wire, parameters, events)
    link: Link = wire or IdealLink(name, lossy=spec.lossy)
    link.watch(LinkReporter(link, events))
    timed = None
    if spec.timed:
        latency = READ_LATENCY if spec.read_latency_ns is None else spec.read_latency_ns * NS
        link = timed = TimedLink(link, parameters, read_latency=latency, events=events)
    link = faults = _faulty(link, spec.faults or FaultSpec(), registers, events)
    if sink is not None:
        link = TracedLink(link, sink, symbols=registers.name, doorbell=registers.is_notify)
    return BuiltLink(link, faults, timed, wire)


def chances(spec: FaultSpec | WireSpec) -> dict[str, float]:
    """Return the probabilities of a record by the names of faults."""
    return attrs.asdict(spec, filter=lambda field, _: bool(field.metadata.get("chance")))


def _wire(name: str, spec: LinkSpec, wire: WireSpec, parameters: PcieParameters, events: Events) -> WireLink:
    impairments = Impairments(wire_rates(**chances(wire)), random.Random(wire.seed))
    return WireLink(name, parameters, impairments, lossy=spec.lossy, events=events)


def _faulty(link: Link, spec: FaultSpec, registers: LinkRegisters, events: Events) -> FaultyLink:
    rules: list[Rule | Flap] = [*rates(**chances(spec))]
    if spec.flap_every_ms is not None:
        every = spec.flap_every_ms * MS
        rules.append(Flap(every, spec.flap_length_ms * MS, every, float("inf")))
    return FaultyLink(
        link,
        random.Random(spec.seed),
        rules,
        delay=spec.delay_ms * MS,
        flap=spec.flap_length_ms * MS,
        doorbell=registers.is_notify,
        events=events,
    )
