"""A ring as a wheel: its slots around a circle, and the indices of both sides as hands that turn with the traffic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import cos, pi, sin

from rings.layout import LAP
from rings.queue import QueueState
from vnet.svg import document, label
from vnet.views.ring import RingSlots, SlotRun

__all__ = ["ring_wheel"]

SIZE = 260.0
"""Pixels of the picture's edge."""
MIDDLE, INNER, OUTER = SIZE / 2, 84.0, 104.0
"""Pixels from the edge to the centre, and radii of the band of slots."""
BAND, BUSY, DRIVER, DEVICE = "#868e96", "#1864ab", "#212529", "#c2410c"
HANDS = (
    ("driver", "avail", "driver adds", DRIVER, OUTER + 20, ""),
    ("device", "avail", "device takes", DEVICE, OUTER + 10, "4 2"),
    ("device", "used", "device uses", DEVICE, INNER - 9, "4 2"),
    ("driver", "used", "driver gets", DRIVER, INNER - 18, ""),
)
"""Hands: side, attribute of `QueueState`, meaning, colour, radius of the far end in pixels, dashes."""
LINE_GAP = 15.0
"""Pixels between two lines in the middle."""


def ring_wheel(title: str, slots: RingSlots) -> str:
    """Return the wheel of a ring as SVG: dark slots are outstanding; outer hands point at the next slot to make
    available or to take, inner ones at the next used slot. The numbers in the middle say the same.
    """
    num = slots.num
    if not num:
        return document(SIZE, SIZE, title, [_line(0, "no ring"), _circle(INNER), _circle(OUTER)])
    parts = [_circle(INNER), _circle(OUTER), *_slots(slots.busy, num)]
    states: dict[str, QueueState | None] = {"driver": slots.driver, "device": slots.device}
    texts = [f"{slots.outstanding} outstanding", f"of {num}, {slots.format}"]
    for side, name, meaning, colour, far, dashes in HANDS:
        if (state := states[side]) is not None:
            index = getattr(state, name)
            slot = (index if slots.format == "split" else index % LAP) % num
            parts.append(_hand(slot, num, colour, far, dashes))
            texts.append(f"{meaning} {slot}")
    parts += [_line(row - (len(texts) - 1) / 2, text) for row, text in enumerate(texts)]
    return document(SIZE, SIZE, title, parts)


def _slots(runs: Iterable[SlotRun], num: int) -> Iterator[str]:
    """Yield an arc for each run of slots."""
    for run in runs:
        first, count = run.first, run.count
        if count == num:
            yield (
                f'<circle cx="{MIDDLE}" cy="{MIDDLE}" r="{(INNER + OUTER) / 2}" fill="none" stroke="{BUSY}" '
                f'stroke-width="{OUTER - INNER}"/>'
            )
            continue
        (x1, y1), (x2, y2) = _point(first, num, OUTER), _point(first + count, num, OUTER)
        (x3, y3), (x4, y4) = _point(first + count, num, INNER), _point(first, num, INNER)
        large = int(count * 2 > num)
        yield (
            f'<path d="M {x1:.1f} {y1:.1f} A {OUTER} {OUTER} 0 {large} 1 {x2:.1f} {y2:.1f} L {x3:.1f} {y3:.1f} '
            f'A {INNER} {INNER} 0 {large} 0 {x4:.1f} {y4:.1f} z" fill="{BUSY}"/>'
        )


def _hand(slot: int, num: int, colour: str, far: float, dashes: str) -> str:
    """Return the hand at the beginning of a slot, from the band to ``far``."""
    near = OUTER if far > OUTER else INNER
    (x1, y1), (x2, y2) = _point(slot, num, near), _point(slot, num, far)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="4"{dashed}/>'


def _point(slot: float, num: int, radius: float) -> tuple[float, float]:
    """Return a point at the beginning of a slot; slot 0 is at the top, the next one clockwise."""
    angle = 2 * pi * slot / num
    return MIDDLE + radius * sin(angle), MIDDLE - radius * cos(angle)


def _circle(radius: float) -> str:
    return f'<circle cx="{MIDDLE}" cy="{MIDDLE}" r="{radius}" fill="none" stroke="{BAND}"/>'


def _line(row: float, text: str) -> str:
    return label(MIDDLE, MIDDLE + 4 + LINE_GAP * row, text, size=11, anchor="middle")
