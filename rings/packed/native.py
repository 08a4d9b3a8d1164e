"""Both sides of a packed virtqueue with the plain path in C. Their state is that of the classes in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rings.chain import NO_PLAIN, Chain, Plain
from rings.errors import BadRing, QueueFull
from rings.layout import RingAddrs
from rings.memory import Addr, Memory
from rings.native import _rings
from rings.native.device import PlainFirst
from rings.packed.virtqueue import PackedVirtqueue
from rings.packed.vringh import PackedVringh
from rings.sides import IN_FLIGHT

__all__ = ["NativePackedVirtqueue", "NativePackedVringh"]

NOWHERE = -1


class NativePackedVringh(PlainFirst, PackedVringh):
    """A device's side that moves batches of plain chains in C."""

    def __init__(self, memory: Memory, num: int, addrs: RingAddrs, **settings: Any) -> None:
        super().__init__(memory, num, addrs, **settings)
        self.native = self._areas.has_views()
        self._last_writable = self._last_tables = False

    def getplain(self, limit: int, writable: bool, /) -> Plain:
        if self.broken or self._budget <= 0 or self._backlog:
            return NO_PLAIN
        region = self._region(writable)
        if region is None:
            return NO_PLAIN
        base, view, _ = region
        num, slot, lap, in_flight = self.num, self._slot, self._lap, self._in_flight
        chains = _rings.packed_take(
            self._desc, self._states, self._counts, IN_FLIGHT, base, len(view), num, slot, lap,
            min(limit, num - in_flight), self._batch, writable,
        )  # fmt: skip
        self._took(chains)
        return view, chains

    def _gettables(self, limit: int) -> list[Chain]:
        if self.broken or self._budget <= 0 or self._backlog:
            return []
        region = self._region(False)
        if region is None or not self._allows_tables:
            return []
        chains, self._budget = _rings.packed_tables(
            self._desc, self._states, self._counts, IN_FLIGHT, *region, self._table_max, self.num, self._slot,
            self._lap, min(limit, self.num - self._in_flight), self._batch, self._budget,
        )  # fmt: skip
        self._took(chains)
        return chains

    def _took(self, chains: Sequence[tuple[int, object, object]]) -> None:
        """Move behind chains of one ring descriptor each."""
        count = len(chains)
        if count:
            self._taken.extend([head for head, _, _ in chains])
            slot, lap = self._slot + count, self._lap
            if slot >= self.num:
                slot, lap = slot - self.num, lap ^ 1
            self._advance(slot, lap, self._in_flight + count, count)

    def _complete(self, done: Sequence[tuple[int, ...]], count: int, unwritten: bool) -> bool:
        if not self.native or self._from_backlog:
            return False
        slot = self._used_slot
        moved = _rings.packed_complete(
            self._desc, self._states, self._counts, IN_FLIGHT, self._batch, done, self.num, slot, self._used_lap,
            self._first_slot, count, unwritten,
        )  # fmt: skip
        if moved is None:
            return False
        self._used_slot, self._used_lap, descs, first_word = moved
        if first_word != NOWHERE:
            self._first_slot, self._first_word = slot if self._first_slot == NOWHERE else self._first_slot, first_word
        self._unpublished += descs
        self._returned += count
        return True


class NativePackedVirtqueue(PackedVirtqueue):
    """A driver's side that moves batches of plain chains in C."""

    def __init__(self, memory: Memory, num: int, addrs: RingAddrs, **settings: Any) -> None:
        super().__init__(memory, num, addrs, **settings)
        self.native = self._areas.has_views()

    def add_each(self, buffers: Sequence[tuple[Addr, int, int]], writable: bool, /) -> None:
        count = len(buffers)
        if count > self.num_free:
            raise QueueFull(f"{count} descriptors wanted, {self.num_free} free")
        if not count:
            return None
        slot = self._slot
        added = None
        if self.native and isinstance(buffers, list):
            added = _rings.packed_add(
                self._desc, buffers, self._writable, self._counts, self._tokens, self._ids, self.num, slot, self._lap,
                self._first_slot, writable,
            )  # fmt: skip
        if added is None:
            return super().add_each(buffers, writable)
        del self._ids[len(self._ids) - count :]
        self._slot, self._lap, first_word = added
        if first_word != NOWHERE:
            self._first_slot, self._first_word = slot if self._first_slot == NOWHERE else self._first_slot, first_word
        self._unpublished += count
        self._unpublished_chains += count
        self.num_free -= count
        self._chains += count
        return None

    def get_each(self, limit: int, /) -> list[tuple[int, int]]:
        if not self.native or self._violation is not None or self._in_order:
            return super().get_each(limit)
        done, self._used_slot, self._used_lap, rest = _rings.packed_get(
            self._desc, self._writable, self._counts, self._tokens, self._ids, self.num, self._used_slot,
            self._used_lap, self._in_flight, limit,
        )  # fmt: skip
        taken = len(done)
        self._in_flight -= taken
        self.num_free += taken
        self._returned += taken
        if rest:
            try:
                done += super().get_each(limit - taken)
            except BadRing:
                if not done:
                    raise
        return done
