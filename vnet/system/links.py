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

__all__ = ["Symbols", "build_link"]

Symbols = Callable[[int], str | None]
"""The name of the register at an address downstream, if it has one; a doorbell's has "notify[" in it."""
Sink = Callable[[str], object]
MS = 0.001
NS = 1e-9


def build_link(name: str, spec: LinkSpec, symbols: Symbols, sink: Sink | None = None) -> Link:
    """``sink`` takes the lines of a trace, where one is wanted."""

    def doorbell(addr: int, size: int, value: int) -> bool:
        return "notify[" in (symbols(addr) or "")

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
            symbols=lambda direction, addr: symbols(addr) if direction is Direction.DOWNSTREAM else None,
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
