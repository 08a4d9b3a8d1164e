"""One ring as lines: its words, both sides' indices, each outstanding chain, and its bytes."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from rings.layout import LAP
from rings.queue import QueueState
from rings.view import RingView, lines
from vnet.views.ring import RingReport

__all__ = ["ring_tree"]

ROW = 16
"""Bytes of memory per line."""


def ring_tree(report: RingReport, with_bytes: bool) -> Iterator[str]:
    """Yield a ring line by line, at the end its bytes if they are wanted."""
    if report.ring is None:
        yield "no ring: the driver has set up none"
        return
    yield from lines(report.ring)
    for side, own in (("driver", report.driver), ("device", report.device)):
        if own is not None:
            yield f"{side}'s own indices: {_indices(own, report.ring.format)}"
    if report.age:
        yield report.age
    if with_bytes:
        yield from _bytes(report.ring)


def _indices(state: QueueState, form: str) -> str:
    """Return the indices of one side; a position in a packed ring is a descriptor and a wrap counter."""
    avail, used = (
        (str(at) if form == "split" else f"{at % LAP} (wrap counter {at // LAP})") for at in (state.avail, state.used)
    )
    return f"avail {avail}, used {used}, in flight {state.in_flight}" + (", broken" if state.broken else "")


def _bytes(view: RingView) -> Iterator[str]:
    """Yield the bytes of the areas in hex, with addresses; ``*`` stands for lines equal to the one before."""
    names = ("descriptor area", "driver area", "device area")
    for name, start, area in zip(names, attrs.astuple(view.addrs), view.areas, strict=False):
        yield f"{name}, {len(area)} bytes"
        before, repeated = b"", False
        for at in range(0, len(area), ROW):
            row = area[at : at + ROW]
            if row == before:
                if not repeated:
                    yield "  *"
                repeated = True
                continue
            before, repeated = row, False
            yield f"  {start + at:#010x}  {row.hex(' ')}"
