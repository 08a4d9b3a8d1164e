"""A ring as one self-contained SVG picture, made from the record of a look at it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import attrs

from rings.layout import LAP, NEXT
from rings.queue import QueueState
from rings.view import ChainView, DescriptorView, RingView, available_heads, descriptors
from vnet.ring_picture.table import MARKER, Arrow, Kind, Place, Row, Table, draw_arrows, draw_tables
from vnet.svg import CHAR, LINE, document, label
from vnet.views.ring import RingReport

__all__ = ["ring_picture"]

WHOLE = 64
"""Descriptors of the largest ring that is drawn whole; of a larger ring, only those of `CHAINS` chains are drawn."""
CHAINS, ROWS = 32, 128
"""Chains of a larger ring that are drawn, the oldest first, and descriptors of them."""
TABLES, ENTRIES = 16, 16
"""Indirect tables that are drawn, and entries of each."""
FAULTS = 8
"""Faults of chains that are listed."""
MARGIN, BETWEEN = 24.0, 84.0
"""Pixels around the picture, and between two columns."""
WRAP = 110
"""Characters of a line of text."""
BLACK, RED = "#212529", "#c92a2a"
RING, AVAILABLE, LATEST = "descriptor", "available slot", "used slot"
"""Names of tables that arrows point to."""
OWN = (
    ("driver", "avail", "next to make available"),
    ("driver", "used", "next to take back"),
    ("device", "avail", "next to take"),
    ("device", "used", "next to use"),
)
"""Indices that each side keeps for itself: side, attribute of `QueueState`, meaning."""


@attrs.frozen
class _Index:
    """An index or position, with the entry of the ring that it names."""

    table: str
    name: str
    value: str
    target: tuple[str, int] | None = None


def ring_picture(title: str, report: RingReport) -> str:
    """Return the picture of a ring as SVG. It is valid and of limited size for any contents of the memory."""
    view = report.ring
    if view is None:
        words = "no ring: the driver has set up none"
        return _document(title, [label(MARGIN, 62, words)], CHAR * max(2 * len(title), len(words)), 80)
    heading: list[str] = []
    y = 62.0
    chains = view.chains if view.num <= WHOLE else view.chains[:CHAINS]
    for text, colour in _texts(view, chains, report.age):
        for line in textwrap.wrap(text, WRAP):
            heading.append(label(MARGIN, y, line, colour=colour))
            y += LINE
    indices = [*(_split_words if view.format == "split" else _packed_words)(view), *_own_indices(view, report)]
    columns = [_index_tables(indices), *(_split if view.format == "split" else _packed)(view, chains, indices)]
    columns.append(_indirect_tables(chains, view.format))
    parts: list[str] = []
    places: dict[tuple[str, int], Place] = {}
    x, bottom = MARGIN, y
    for tables in columns:
        if tables:
            drawn, own, right, lower = draw_tables(tables, x, y + 8)
            parts += drawn
            places |= own
            x, bottom = right + BETWEEN, max(bottom, lower)
    arrows = [*_index_arrows(indices), *_chain_arrows(view, chains)]
    return _document(title, [*heading, *parts, *draw_arrows(arrows, places)], max(x, CHAR * WRAP), bottom)


def _document(title: str, parts: Sequence[str], width: float, height: float) -> str:
    heading = label(MARGIN, 36, title, size=20, weight="bold")
    return document(width + 2 * MARGIN, height + MARGIN, title, [MARKER, heading, *parts])


def _texts(view: RingView, chains: Sequence[ChainView], age: str) -> Iterator[tuple[str, str]]:
    """Yield the text above the tables, with its colour."""
    yield f"{view.format} ring of {view.num} descriptors at {view.addrs.desc:#x}", BLACK
    for text in filter(None, (view.kicks, view.calls)):
        yield text, BLACK
    count = len(view.chains)
    yield f"{count} chain{'' if count == 1 else 's'} outstanding", BLACK
    parts = _parts(chains)
    omitted = {
        "chains": count - len(chains),
        "descriptors": len(parts) - ROWS if view.num > WHOLE else 0,
        "indirect tables": sum(bool(desc.table) for desc in parts.values()) - TABLES,
    }
    if more := [f"{number} {name}" for name, number in omitted.items() if number > 0]:
        yield f"not drawn: {', '.join(more)}", BLACK
    if age:
        yield age, BLACK
    if view.fault:
        yield f"fault: {view.fault}", RED
    faults = [f"fault of the chain at {chain.position}: {chain.fault}" for chain in view.chains if chain.fault]
    for fault in faults[:FAULTS]:
        yield fault, RED
    if len(faults) > FAULTS:
        yield f"{len(faults) - FAULTS} more chains with faults", RED


def _parts(chains: Sequence[ChainView]) -> dict[int, DescriptorView]:
    """Return the descriptors of the chains by index.

    The first chain's view of a descriptor counts: a view has only so many entries of tables, and later ones are cut.
    """
    parts: dict[int, DescriptorView] = {}
    for chain in chains:
        for desc in chain.descriptors:
            parts.setdefault(desc.index, desc)
    return parts


def _split_words(view: RingView) -> Iterator[_Index]:
    """Yield the words of both areas; an index names the slot that is filled next."""
    for side, words, table in (("driver area", view.driver, AVAILABLE), ("device area", view.device, LATEST)):
        for name, value in words.items():
            target = (table, int(value) % view.num) if name == "idx" else None
            yield _Index(side, name, str(value), target)


def _packed_words(view: RingView) -> Iterator[_Index]:
    for side, words in (("driver area", view.driver), ("device area", view.device)):
        for name, value in words.items():
            yield _Index(side, name, str(value))


def _own_indices(view: RingView, report: RingReport) -> Iterator[_Index]:
    states: Mapping[str, QueueState | None] = {"driver": report.driver, "device": report.device}
    for side, name, meaning in OWN:
        if (state := states[side]) is not None:
            value: int = getattr(state, name)
            if view.format == "split":
                target = (AVAILABLE if name == "avail" else LATEST, value % view.num)
                yield _Index("own indices", f"{side}: {meaning}", str(value), target)
            else:
                slot, lap = value % LAP, value // LAP
                yield _Index("own indices", f"{side}: {meaning}", f"{slot}, wrap {lap}", (RING, slot))


def _index_tables(indices: Sequence[_Index]) -> list[Table]:
    rows: dict[str, list[Row]] = {}
    for number, index in enumerate(indices):
        rows.setdefault(index.table, []).append(Row(number, (index.name, index.value)))
    return [Table("index", name, ("name", "value"), own) for name, own in rows.items()]


def _index_arrows(indices: Sequence[_Index]) -> Iterator[Arrow]:
    for number, index in enumerate(indices):
        if index.target is not None:
            yield Arrow(("index", number), index.target, dashed=True)


def _split(view: RingView, chains: Sequence[ChainView], indices: Sequence[_Index]) -> list[list[Table]]:
    """Return the columns of a split ring: available and used ring, descriptor table."""
    by_slot = {chain.position: chain for chain in chains}
    named = {index.target for index in indices}
    slots = [
        _slot(slot, head, by_slot.get(slot))
        for slot, head in enumerate(available_heads(view))
        if view.num <= WHOLE or slot in by_slot or (AVAILABLE, slot) in named
    ]
    latest = {element.position: element for element in view.used}
    used = [
        Row(slot, (str(slot), str(latest[slot].head), str(latest[slot].written)), "busy")
        if slot in latest
        else Row(slot, (str(slot), "", ""))
        for slot in sorted(latest.keys() | {slot for table, slot in filter(None, named) if table == LATEST})
    ]
    rings = [
        Table(AVAILABLE, "available ring (driver writes)", ("slot", "head", "state"), slots),
        Table(LATEST, "used ring, latest (device writes)", ("slot", "head", "bytes written"), used),
    ]
    return [rings, [_ring(view, chains, "descriptor table (driver writes)", "next")]]


def _slot(slot: int, head: int, chain: ChainView | None) -> Row:
    if chain is None:
        return Row(slot, (str(slot), str(head), ""))
    if chain.fault:
        return Row(slot, (str(slot), str(head), "fault"), "fault")
    return Row(slot, (str(slot), str(head), "outstanding"), "busy")


def _packed(view: RingView, chains: Sequence[ChainView], _: Sequence[_Index]) -> list[list[Table]]:
    """Return the column of a packed ring."""
    return [[_ring(view, chains, "descriptor ring (both write)", "id")]]


def _ring(view: RingView, chains: Sequence[ChainView], title: str, last: str) -> Table:
    """Return the descriptors: all of a small ring, of a larger one those of the chains that are drawn."""
    outstanding = _parts(chains)
    used = {element.position for element in view.used} if view.format == "packed" else set()
    if view.num <= WHOLE:
        shown = [outstanding.get(desc.index, desc) for desc in descriptors(view)]
    else:
        shown = sorted([*outstanding.values()][:ROWS], key=lambda desc: desc.index)
    rows = [_descriptor(desc, view.format, desc.index in outstanding, desc.index in used) for desc in shown]
    return Table(RING, title, ("#", "address", "bytes", "state", last), rows)


def _descriptor(desc: DescriptorView, form: str, outstanding: bool, used: bool) -> Row:
    kind: Kind = "plain"
    state = ""
    if outstanding:
        kind = "table" if desc.is_table else "writable" if desc.writable else "readable"
        state = desc.action
    elif used:
        kind, state = "busy", "used"
    last = str(desc.last) if form == "packed" or desc.flags & NEXT else ""
    return Row(desc.index, (str(desc.index), f"{desc.addr:#x}", str(desc.size), state, last), kind)


def _indirect_tables(chains: Sequence[ChainView], form: str) -> list[Table]:
    """Return the indirect tables of the chains, each up to `ENTRIES` entries."""
    tables: list[Table] = []
    for owner in [desc for desc in _parts(chains).values() if desc.table][:TABLES]:
        rows = [_descriptor(entry, form, outstanding=True, used=False) for entry in owner.table[:ENTRIES]]
        title = f"{len(owner.table)} entries" if len(owner.table) > ENTRIES else ""
        title = f"table of descriptor {owner.index}" + (f": {ENTRIES} of {title}" if title else "")
        tables.append(
            Table(
                _indirect(owner), title, ("#", "address", "bytes", "state", "next" if form == "split" else "id"), rows
            )
        )
    return tables


def _indirect(owner: DescriptorView) -> str:
    return f"entry of the table of descriptor {owner.index},"


def _chain_arrows(view: RingView, chains: Sequence[ChainView]) -> Iterator[Arrow]:
    """Yield the arrows from a chain's slot to its head, to the next descriptor, and to indirect tables."""
    for chain in chains:
        if view.format == "split":
            yield Arrow((AVAILABLE, chain.position), (RING, chain.head))
        yield from _next_arrows(RING, chain.descriptors, view.format)
        for desc in chain.descriptors:
            if desc.table:
                yield Arrow((RING, desc.index), (_indirect(desc), 0))
                yield from _next_arrows(_indirect(desc), desc.table[:ENTRIES], view.format)
    if view.format == "split":
        for element in view.used:
            yield Arrow((LATEST, element.position), (RING, element.head), dashed=True)


def _next_arrows(table: str, parts: Sequence[DescriptorView], form: str) -> Iterator[Arrow]:
    """Yield an arrow per descriptor that another one follows: the next field names it, in a packed ring its place."""
    if form == "split":
        for desc in parts:
            if desc.flags & NEXT:
                yield Arrow((table, desc.index), (table, desc.last))
    else:
        for before, after in pairwise(parts):
            yield Arrow((table, before.index), (table, after.index))
