"""The device's side of a ring as raw words: it judges each word of the driver. Split rings (VIRTIO 1.4 section 2.7)."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

import attrs

from vnet.check.driver.clauses import Observations
from vnet.check.driver.memory import DriverError, SharedRegions
from vnet.check.front import EVENT_IDX, INDIRECT_DESC
from vnet.check.split import DESC, INDIRECT, NEXT, WRITE
from vnet.linux.memory import full_fence

__all__ = ["LARGEST", "Chain", "Entry", "WatchedRing", "WatchedSplit"]

Entry = tuple[int, int, int, str]
"""Address, size, flags and bytes of a descriptor."""
LARGEST = 1 << 15
"""Most descriptors of a ring."""


@attrs.frozen
class Chain:
    """A request: its head, and its buffers as views."""

    head: int
    readable: bytes
    """All readable bytes; requests of the checked types are small enough to be copied."""
    writable: tuple[memoryview, ...]

    @property
    def room(self) -> int:
        return sum(map(len, self.writable))

    def fill(self, data: bytes) -> int:
        """Write ``data`` into the writable buffers in order; return the bytes that fit."""
        left = memoryview(data)
        for view in self.writable:
            size = min(len(view), len(left))
            view[:size] = left[:size]
            left = left[size:]
        return len(data) - len(left)


class WatchedRing(ABC):
    """A started ring of either format."""

    packed: ClassVar[bool]
    order: ClassVar[str]
    """Clause of readable buffers before writable ones."""

    def __init__(self, memory: SharedRegions, num: int, features: int, seen: Observations) -> None:
        """Raises DriverError for a queue size that no ring can have."""
        if not 0 < num <= LARGEST:
            raise DriverError(f"set a queue size of {num}")
        self.memory, self.num, self.seen = memory, num, seen
        self.event_idx, self.indirect = bool(features >> EVENT_IDX & 1), bool(features >> INDIRECT_DESC & 1)

    @property
    @abstractmethod
    def base(self) -> int:
        """Where the ring goes on after a stop, as GET_VRING_BASE replies."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """Chains that are available and not taken, or 1 if they can't be counted. Raises DriverError."""

    @abstractmethod
    def ask_for_kick(self) -> None:
        """Ask for a notification of the next chain."""

    @abstractmethod
    def judge_flags(self) -> None:
        """Judge the driver's flags of notification."""

    @abstractmethod
    def judge_kick(self, came: bool) -> None:
        """Count a notification that came with chains, or one that should have come."""

    @abstractmethod
    def take(self) -> Chain:
        """Return the next chain. Raises DriverError."""

    @abstractmethod
    def give(self, head: int, written: int) -> bool:
        """Give a chain back; return whether the driver wants to be told."""

    @property
    @abstractmethod
    def next_element(self) -> int:
        """Place of the next used element."""

    @abstractmethod
    def overwrite(self, place: int, head: int, written: int) -> None:
        """Write a used element, and show it to the driver if it is the next one."""

    def chain(self, ident: int, entries: Iterable[Entry]) -> Chain:
        """Return a chain of these descriptors, and judge their order. Raises DriverError."""
        self.seen.requests += 1
        readable: list[bytes] = []
        writable: list[memoryview] = []
        ordered, total, words = True, 0, []
        for addr, size, flags, text in entries:
            words.append(text)
            total += size
            if flags & WRITE:
                writable.append(self.memory.view(addr, size))
            else:
                ordered = ordered and not writable
                readable.append(bytes(self.memory.view(addr, size)))
        evidence = f"id {ident}: descriptors {' '.join(words)}"
        self.seen.judge(self.order, ordered, evidence)
        self.judge_total(total, evidence)
        return Chain(ident, b"".join(readable), tuple(writable))

    def judge_total(self, total: int, evidence: str) -> None:  # noqa: B027  packed rings have no such sentence
        """Judge the bytes of a chain."""


class WatchedSplit(WatchedRing):
    """A started split ring."""

    packed = False
    order = "SPLIT-DRV-3"

    def __init__(
        self, memory: SharedRegions, num: int, addrs: tuple[int, int, int], base: int, features: int, seen: Observations
    ) -> None:
        """``addrs`` are those of table, used and available ring in the front end. Raises DriverError."""
        desc, used, avail = addrs
        seen.judge("SPLIT-DRV-2", 0 < num <= LARGEST and not num & num - 1, f"queue size {num}")
        seen.judge("SPLIT-DRV-1", not (desc % 16 or avail % 2 or used % 4), f"areas at {desc:#x} {avail:#x} {used:#x}")
        super().__init__(memory, num, features, seen)
        self._table = memory.view(desc, 16 * num, user=True)
        self._avail = memory.view(avail, 6 + 2 * num, user=True).cast("H")
        self._used = memory.view(used, 6 + 8 * num, user=True)
        self._used_words = self._used[:4].cast("H")
        self._avail_event = self._used[4 + 8 * num :].cast("H")
        self.last = base & 0xFFFF
        self._done = int(self._used_words[1])
        if not base:
            seen.judge("SPLIT-DRV-20", not self._used_words[0], f"used flags {self._used_words[0]:#x}")

    @property
    def waiting(self) -> int:
        index = int(self._avail[1])
        count = index - self.last & 0xFFFF
        good = count <= self.num
        if count or not good:
            self.seen.judge(
                "SPLIT-DRV-13", good, f"available index {self.last:#06x} -> {index:#06x}, queue size {self.num}"
            )
        if not good:
            raise DriverError(f"moved the available index from {self.last} to {index} in a ring of {self.num}")
        return count

    def ask_for_kick(self) -> None:
        self._avail_event[0] = self.last
        full_fence()  # the driver stores its available index, then loads avail_event

    def judge_flags(self) -> None:
        flags = int(self._avail[0])
        if self.event_idx:
            self.seen.judge("SPLIT-DRV-15", not flags, f"available flags {flags:#x}")
        else:
            self.seen.judge("SPLIT-DRV-14", flags in (0, 1), f"available flags {flags:#x}")

    def judge_kick(self, came: bool) -> None:
        ident = "SPLIT-DRV-25" if self.event_idx else "SPLIT-DRV-23"
        words = f"avail_event {self._avail_event[0]}" if self.event_idx else "used flags 0"
        self.seen.judge(ident, came, f"available index {self._avail[1]}, {words}, no kick within 0.5 s")

    def take(self) -> Chain:
        head = int(self._avail[2 + self.last % self.num])
        self.last = self.last + 1 & 0xFFFF
        return self.chain(head, self._walk(head))

    def judge_total(self, total: int, evidence: str) -> None:
        self.seen.judge("SPLIT-DRV-5", total <= 1 << 32, evidence)

    @property
    def base(self) -> int:
        return self.last

    def _walk(self, head: int) -> Iterator[Entry]:
        """Yield the descriptors of a chain, those of an indirect table in its place. Raises DriverError."""
        count, index, table, num = 0, head, self._table, self.num
        nested = False
        while True:
            if index >= num:
                raise DriverError(f"made descriptor {index} of {num} available, or linked to it")
            desc = bytes(table[16 * index : 16 * index + 16])
            addr, size, flags, index = DESC.unpack(desc)
            if flags & INDIRECT:
                if not self._judge_table(desc, flags, nested):
                    raise DriverError(f"made an invalid indirect table available: descriptor {desc.hex()}")
                table, num, index, nested = self.memory.view(addr, size - size % 16), size // 16, 0, True
                continue
            count += 1
            if not self.seen.judge("SPLIT-DRV-10", count <= self.num, f"head {head}: more than {self.num} descriptors"):
                raise DriverError(f"made a chain of more than {self.num} descriptors available")
            yield addr, size, flags, desc.hex()
            if not flags & NEXT:
                break
        if nested:
            self.seen.judge("SPLIT-DRV-9", True)
        elif not self.indirect:
            self.seen.judge("SPLIT-DRV-8", True)

    def _judge_table(self, desc: bytes, flags: int, nested: bool) -> bool:
        evidence = f"descriptor {desc.hex()}"
        good = self.indirect or self.seen.judge("SPLIT-DRV-8", False, evidence)
        good = self.seen.judge("SPLIT-DRV-11", not flags & NEXT, evidence) and good
        return (not nested or self.seen.judge("SPLIT-DRV-9", False, evidence)) and good

    @property
    def next_element(self) -> int:
        return self._done % self.num

    def overwrite(self, place: int, head: int, written: int) -> None:
        self._used[4 + 8 * place : 12 + 8 * place] = struct.pack("<II", head, written)

    def show_index(self, change: Callable[[int], int]) -> str:
        """Write a used index that lies; return it as words. The next chain is given back at the right one."""
        index = change(self._done) & 0xFFFF
        self._used_words[1] = index
        return f"used index {self._done} -> {index}"

    def scribble(self) -> None:
        """Overwrite the descriptor table, which belongs to the driver."""
        self._table[:] = b"\xff" * len(self._table)

    def give(self, head: int, written: int) -> bool:
        self.overwrite(self.next_element, head, written)
        before, self._done = self._done, self._done + 1 & 0xFFFF
        self._used_words[1] = self._done
        full_fence()  # the driver stores its suppression field, then loads the used index
        if self.event_idx:
            event = int(self._avail[2 + self.num])
            return (self._done - event - 1 & 0xFFFF) < (self._done - before & 0xFFFF)
        return not self._avail[0] & 1
