"""Builds a link from its topology record: ideal, then timed, faulty and traced as required."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs

from vnet.link.base import Direction, Link
from vnet.link.faults import Flap, rates
from vnet.link.faulty import FaultyLink
from vnet.link.ideal import IdealLink
from vnet.link.timed import READ_LATENCY, TimedLink
from vnet.link.tlp import PcieParameters
from vnet.link.traced import TracedLink
from vnet.spec import FaultSpec, LinkSpec

__all__ = ["RegisterName", "build_link"]

RegisterName = Callable[[int], str | None]
"""Returns the name of the register at a downstream address, or None; names of doorbells contain "notify["."""
Sink = Callable[[str], object]
"""Takes a line of a trace."""
MS = 0.001
"""Seconds in a millisecond."""
NS = 1e-9
"""Seconds in a nanosecond."""


def build_link(name: str, spec: LinkSpec, register_name: RegisterName, sink: Sink | None = None) -> Link:
    """Return the link of a record; ``sink``, if given, takes the lines of its trace."""

    def doorbell(addr: int, size: int, value: int) -> bool:
        return "notify[" in (register_name(addr) or "")

    link: Link = IdealLink(name)
    if spec.timed:
        given = {field.name: getattr(spec, field.name) for field in attrs.fields(PcieParameters)}
        parameters = PcieParameters(**{key: value for key, value in given.items() if value is not None})
        latency = READ_LATENCY if spec.read_latency_ns is None else spec.read_latency_ns * NS
        link = TimedLink(link, parameters, read_latency=latency)
    if spec.faults is not None:
        link = _faulty(link, spec.faults, doorbell)
    if sink is not None:
        link = TracedLink(
            link,
            sink,
            symbols=lambda direction, addr: register_name(addr) if direction is Direction.DOWNSTREAM else None,
            doorbell=doorbell,
        )
    return link


def _faulty(link: Link, spec: FaultSpec, doorbell: Callable[[int, int, int], bool]) -> Link:
    flaps = []
    if spec.flap_every_ms is not None:
        every = spec.flap_every_ms * MS
        flaps = [Flap(every, spec.flap_length_ms * MS, every, float("inf"))]
    chances = attrs.asdict(spec, filter=lambda field, _: bool(field.metadata.get("chance")))
    return FaultyLink(
        link,
        random.Random(spec.seed),
        rates(**chances),
        flaps,
        delay=spec.delay_ms * MS,
        flap=spec.flap_length_ms * MS,
        doorbell=doorbell,
    )
