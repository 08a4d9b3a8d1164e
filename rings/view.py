"""A ring as it stands in memory: its words, and each chain with its descriptors. Looking changes nothing.

The areas are copied once and read as a stranger would read them, without trust in either side, so the view of a broken
or hostile ring shows what is wrong with it. A ring that both sides use meanwhile may change between two areas.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import attrs

from rings.errors import MemoryFault
from rings.layout import (
    AVAIL,
    DESC,
    DESC_SIZE,
    INDIRECT,
    LAP,
    NEXT,
    USED,
    WRITE,
    RingAddrs,
    packed_sizes,
    split_sizes,
)
from rings.memory import Addr, Memory
from rings.suppression import AT_POSITION, DISABLED

__all__ = ["ChainView", "DescriptorView", "RingView", "UsedView", "available_heads", "descriptors", "flag_names"]
__all__ += ["lines", "view_packed", "view_split"]

USED_ELEM = struct.Struct("<II")
TABLE_SHOWN = 1024
"""Entries of an indirect table that a view has; a longer table is cut."""
TABLES_SHOWN = 16384
"""Entries of all indirect tables that a view has; further tables are left out."""
RINGS_SHOWN = 4
"""Descriptors that all chains of a split ring's view have, in ring sizes; the chain that reaches it is cut."""
USED_SHOWN = 8
"""Used elements that a view of a split ring has, the latest ones."""
HALF = 1 << 15
"""Entries ahead of an index up to which an event is one to come; beyond, it has passed."""
EVENT_MODES = ("enabled", "disabled", "at position", "reserved")
"""Meanings of the flags of a packed ring's event suppression area (VIRTIO 1.4 section 2.8.10)."""
KICKS, CALLS = ("device", "kick", "available"), ("driver", "call", "used")
"""Each notification: the side that requests or suppresses it, its name, and the entries whose index is compared."""


@attrs.frozen
class DescriptorView:
    """A descriptor of a ring or of an indirect table."""

    index: int
    """Its index in the table or ring that holds it."""
    addr: int
    size: int
    """Bytes."""
    flags: int
    """The flags field; see `flag_names`."""
    last: int
    """The ``next`` field of a split ring, the buffer id of a packed one."""
    table: tuple[DescriptorView, ...] = ()
    """Entries of the indirect table that it refers to."""

    @property
    def writable(self) -> bool:
        """Whether the device writes to the buffer; else it reads from it."""
        return bool(self.flags & WRITE)

    @property
    def is_table(self) -> bool:
        """Whether the buffer is an indirect table."""
        return bool(self.flags & INDIRECT)

    @property
    def action(self) -> str:
        """The use of the buffer, in words."""
        return "indirect table" if self.is_table else "device writes" if self.writable else "device reads"


@attrs.frozen
class ChainView:
    """A chain that the driver made available and that is not used yet."""

    position: int
    """Index of its entry in the available ring (split), index of its first descriptor (packed)."""
    head: int
    """Index of its first descriptor (split), its buffer id (packed)."""
    descriptors: tuple[DescriptorView, ...]
    fault: str = ""
    """Reason why it cannot be followed to its end; empty for a sound chain."""


@attrs.frozen
class UsedView:
    """A used element."""

    position: int
    """Index in the used ring (split) or in the descriptor ring (packed)."""
    head: int
    """Head of the chain (split), buffer id (packed)."""
    written: int
    """Bytes that the device claims to have written."""


@attrs.frozen
class RingView:
    """One ring."""

    format: str
    """Either split or packed."""
    num: int
    """Queue size in descriptors."""
    addrs: RingAddrs
    driver: Mapping[str, int | str]
    """Words of the driver's area, by name in the specification."""
    device: Mapping[str, int | str]
    """Words of the device's area."""
    chains: tuple[ChainView, ...]
    """Outstanding chains, the oldest first."""
    used: tuple[UsedView, ...]
    """Split: the latest used elements, the newest last. Packed: those that the driver has not taken back."""
    kicks: str = ""
    """Suppression of kicks in words; empty if the areas cannot be read."""
    calls: str = ""
    """Suppression of calls (interrupts) in words."""
    areas: tuple[bytes, ...] = ()
    """Bytes of the descriptor, driver and device areas."""
    fault: str = ""
    """Reason why the areas cannot be read, or why the indices contradict each other; empty if neither is the case."""


def flag_names(flags: int) -> str:
    """Return the names of a descriptor's flags (sections 2.7.5 and 2.8.1)."""
    names = ((NEXT, "NEXT"), (WRITE, "WRITE"), (INDIRECT, "INDIRECT"), (AVAIL, "AVAIL"), (USED, "USED"))
    return " ".join(name for bit, name in names if flags & bit)


def descriptors(view: RingView) -> Iterator[DescriptorView]:
    """Yield all descriptors of the ring, without their indirect tables; none if the areas cannot be read."""
    parse = _split_descriptor if view.format == "split" else _packed_descriptor
    return (parse(index, view.areas[0]) for index in range(view.num if view.areas else 0))


def available_heads(view: RingView) -> tuple[int, ...]:
    """Return the heads in all slots of a split ring's available ring; none if the areas cannot be read."""
    return struct.unpack_from(f"<{view.num}H", view.areas[1], 4) if view.areas else ()


class _Tables:
    """The indirect tables of a ring, at most `TABLES_SHOWN` entries of them."""

    def __init__(self, memory: Memory, parse: Callable[[int, bytes], DescriptorView]) -> None:
        self._memory = memory
        self._parse = parse
        self._left = TABLES_SHOWN

    def follow(self, desc: DescriptorView) -> tuple[DescriptorView, str]:
        """Return the descriptor with its indirect table, and why the table is invalid, or ""."""
        if not desc.flags & INDIRECT:
            return desc, ""
        count, odd = divmod(desc.size, DESC_SIZE)
        fault = f"an indirect table of {desc.size} bytes" if odd or not count else ""
        shown = min(count, TABLE_SHOWN, self._left)
        self._left -= shown
        try:
            data = b"".join(self._memory.segments(Addr(desc.addr), shown * DESC_SIZE))
        except MemoryFault as unreachable:
            return desc, str(unreachable)
        table = tuple(self._parse(index, data) for index in range(shown))
        if any(entry.flags & INDIRECT for entry in table):
            fault = fault or "an indirect table inside a table"
        return attrs.evolve(desc, table=table), fault


def view_split(memory: Memory, num: int, addrs: RingAddrs, *, event_idx: bool = False) -> RingView:
    """Return a split ring of ``num`` descriptors (section 2.7), with EVENT_IDX if that is negotiated.

    Outstanding chains are those from the used index to the available index. If the device uses chains out of order,
    their number is right, but some of them may be used already, and older ones outstanding in their place.
    """
    try:
        desc, avail, used = _areas(memory, addrs, split_sizes(num))
    except MemoryFault as unreachable:
        return RingView("split", num, addrs, {}, {}, (), (), fault=str(unreachable))
    avail_words = struct.unpack(f"<{num + 3}H", avail)
    used_flags, used_idx = struct.unpack_from("<HH", used)
    avail_idx = avail_words[1]
    outstanding = avail_idx - used_idx & 0xFFFF
    fault = f"available index {avail_idx} is {outstanding} ahead of used index {used_idx}" if outstanding > num else ""
    tables = _Tables(memory, _split_descriptor)
    positions = [(avail_idx - back & 0xFFFF) % num for back in range(min(outstanding, num), 0, -1)]
    used_event, avail_event = avail_words[-1], struct.unpack_from("<H", used, 4 + 8 * num)[0]
    return RingView(
        "split",
        num,
        addrs,
        {"flags": avail_words[0], "idx": avail_idx, "used_event": used_event},
        {"flags": used_flags, "idx": used_idx, "avail_event": avail_event},
        tuple(_split_chains(tables, desc, num, positions, avail_words[2:-1])),
        tuple(
            UsedView(index % num, *USED_ELEM.unpack_from(used, 4 + 8 * (index % num)))
            for index in (used_idx - back & 0xFFFF for back in range(min(num, used_idx, USED_SHOWN), 0, -1))
        ),
        _split_wish(KICKS, used_flags, avail_idx, avail_event if event_idx else None),
        _split_wish(CALLS, avail_words[0], used_idx, used_event if event_idx else None),
        (desc, avail, used),
        fault,
    )


def _split_wish(names: tuple[str, str, str], flags: int, idx: int, event: int | None) -> str:
    """Return in words which notifications a side requests (sections 2.7.7 and 2.7.10).

    ``names`` are the side, its notification, and the entries that the other side counts by ``idx``. ``event`` is the
    side's event index, None without EVENT_IDX.
    """
    side, notification, entry = names
    if event is None:
        verb = "suppresses" if flags & 1 else "requests"
        return f"the {side} {verb} {notification}s"
    ahead = event - idx & 0xFFFF
    if not ahead:
        return f"the {side} requests a {notification} for the next {entry} entry, {event}"
    until = f" until {entry} entry {event}" if ahead < HALF else f": its event, {entry} entry {event}, has passed"
    return f"the {side} suppresses {notification}s{until}"


def _split_chains(
    tables: _Tables, table: bytes, num: int, positions: Sequence[int], heads: Sequence[int]
) -> Iterator[ChainView]:
    """Yield the chains at ``positions`` of the available ring, whose entries are ``heads``.

    Chains of a broken ring may each be as long as the ring; together they have at most `RINGS_SHOWN` times
    its descriptors.
    """
    left = RINGS_SHOWN * num
    for position in positions:
        chain = _split_chain(tables, table, num, position, heads[position], left)
        left -= len(chain.descriptors)
        yield chain


def _split_chain(tables: _Tables, table: bytes, num: int, position: int, head: int, left: int) -> ChainView:
    chain: list[DescriptorView] = []
    index, fault = head, ""
    while True:
        if index >= num:
            fault = f"names descriptor {index} of {num}"
            break
        if len(chain) == num:
            fault = "loops"
            break
        if len(chain) == left:
            fault = fault or f"cut: the chains have more than {RINGS_SHOWN * num} descriptors"
            break
        desc, why = tables.follow(_split_descriptor(index, table))
        chain.append(desc)
        fault = fault or why
        if not desc.flags & NEXT:
            break
        index = desc.last
    return ChainView(position, head, tuple(chain), fault or _order_fault(chain))


def view_packed(memory: Memory, num: int, addrs: RingAddrs, position: int, outstanding: int | None = None) -> RingView:
    """Return a packed ring of ``num`` descriptors (section 2.8).

    ``position`` is where a driver looks for the next used descriptor: the descriptor's number, with the wrap counter in
    bit 15. A device that uses chains out of order overwrites descriptors of older ones, which are then missing here.
    ``outstanding``, likewise, is where the outstanding chains begin, which the ring alone does not tell: only the
    driver knows how many descriptors a used one stands for. None: at the first that is available.
    """
    try:
        desc, driver, device = _areas(memory, addrs, packed_sizes(num))
    except MemoryFault as unreachable:
        return RingView("packed", num, addrs, {}, {}, (), (), fault=str(unreachable))
    slot, lap = position % LAP, position // LAP & 1
    chains: list[ChainView] = []
    used: list[UsedView] = []
    parts: list[DescriptorView] = []
    faults: list[str] = []
    tables = _Tables(memory, _packed_descriptor)
    for _ in range(num if slot < num else 0):
        raw = _packed_descriptor(slot, desc)
        is_available, is_used = bool(raw.flags & AVAIL), bool(raw.flags & USED)
        if outstanding == slot + lap * LAP:
            outstanding = None
        if is_available is is_used and is_available is bool(lap) and not parts:
            used.append(UsedView(slot, raw.last, raw.size))
        elif outstanding is not None:
            pass  # the rest of what a used descriptor stands for
        elif is_available is bool(lap) and is_used is not bool(lap):
            view, why = tables.follow(raw)
            parts.append(view)
            faults.append(why)
            if not raw.flags & NEXT:
                chains.append(_packed_chain(parts, faults))
                parts, faults = [], []
        else:
            break
        slot += 1
        if slot == num:
            slot, lap = 0, lap ^ 1
    if parts:
        chains.append(attrs.evolve(_packed_chain(parts, faults), fault="NEXT is set on its last available descriptor"))
    return RingView(
        "packed",
        num,
        addrs,
        _event(driver),
        _event(device),
        tuple(chains),
        tuple(used),
        _packed_wish(KICKS, device),
        _packed_wish(CALLS, driver),
        (desc, driver, device),
    )


def _packed_chain(parts: Sequence[DescriptorView], faults: Sequence[str]) -> ChainView:
    fault = next(filter(None, faults), "") or _order_fault(parts)
    return ChainView(parts[0].index, parts[-1].last, tuple(parts), fault)


def _event(area: bytes) -> dict[str, int | str]:
    """Return the words of an event suppression area."""
    position, flags = struct.unpack("<HH", area)
    return {"desc": position % LAP, "wrap": position // LAP, "flags": flags, "meaning": EVENT_MODES[flags & 3]}


def _packed_wish(names: tuple[str, str, str], area: bytes) -> str:
    """Return in words which notifications a side requests (section 2.8.10)."""
    side, notification, _ = names
    position, flags = struct.unpack("<HH", area)
    mode = flags & 3
    if mode == AT_POSITION:
        slot, lap = position % LAP, position // LAP
        return f"the {side} suppresses {notification}s until descriptor {slot} with wrap counter {lap}"
    return f"the {side} {'suppresses' if mode == DISABLED else 'requests'} {notification}s"


def _areas(memory: Memory, addrs: RingAddrs, sizes: Sequence[int]) -> list[bytes]:
    """Return private copies of the areas. Raises MemoryFault."""
    return [b"".join(memory.segments(start, size)) for start, size in zip(attrs.astuple(addrs), sizes, strict=True)]


def _split_descriptor(index: int, table: bytes) -> DescriptorView:
    addr, size, flags, following = DESC.unpack_from(table, DESC_SIZE * index)
    return DescriptorView(index, addr, size, flags, following)


def _packed_descriptor(index: int, table: bytes) -> DescriptorView:
    addr, size, ident, flags = DESC.unpack_from(table, DESC_SIZE * index)
    return DescriptorView(index, addr, size, flags, ident)


def _order_fault(chain: Sequence[DescriptorView]) -> str:
    """Return why the order of a chain's descriptors is invalid (section 2.7.4.2), or ""."""
    if len(chain) == 1 and not chain[0].table:
        return ""
    entries = [entry for desc in chain for entry in (desc.table or (desc,))]
    wrong = any(before.writable and not after.writable for before, after in pairwise(entries))
    return "a readable descriptor after a writable one" if wrong else ""


def lines(view: RingView) -> Iterator[str]:
    """Yield a text of the view, line by line."""
    desc, driver, device = attrs.astuple(view.addrs)
    yield f"{view.format} ring of {view.num} descriptors at {desc:#x}, driver area {driver:#x}, device area {device:#x}"
    for side, words in (("driver", view.driver), ("device", view.device)):
        if words:
            yield f"{side}  " + "  ".join(f"{name} {value}" for name, value in words.items())
    yield from filter(None, (view.kicks, view.calls))
    if view.fault:
        yield f"fault: {view.fault}"
    count = len(view.chains)
    yield f"{count} chain{'' if count == 1 else 's'} outstanding"
    for chain in view.chains:
        name = "head" if view.format == "split" else "id"
        yield f"  {chain.position:>5}: {name} {chain.head}" + (f"  fault: {chain.fault}" if chain.fault else "")
        for one in chain.descriptors:
            yield f"         {_text(one, view.format)}"
            for entry in one.table:
                yield f"            {_text(entry, view.format)}"
    for element in view.used:
        yield f"  {element.position:>5}: used {element.head}, {element.written} bytes written"


def _text(desc: DescriptorView, form: str) -> str:
    following = f" -> {desc.last}" if form == "split" and desc.flags & NEXT else ""
    return f"{desc.index}: {desc.addr:#x} +{desc.size} {desc.action}{following}"
