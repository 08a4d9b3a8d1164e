"""The other process's memory, as rings use it: their words are read ahead, and what a device writes is sent by length.

A request takes as long for a word as for 4 KiB. So the first load of a ring's word in a turn reads the whole area, and
those areas besides that the turns before used, and later loads of the turn are from these copies. They end at a fence,
which rings have wherever a load must not be older than a store; when a request of the other end arrives; and when the
task waits. An area is read in the order of the ring, from the loaded word on, and the areas in the order in which they
were used. So no load is older than one before it that it depends on: available index, entries, descriptors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import attrs
import trio

from rings.chain import Chain
from rings.errors import MemoryFault
from rings.observers.observed import ObservedVringh, Observer
from rings.queue import Vringh
from vnet.link.remote_memory import COPIES_MAX, COPY_MAX, Copies, RemoteAccess, RemoteRange, Words
from vnet.linux.memory import full_fence

__all__ = ["Dma", "StreamCopies", "StreamRange"]

AREA_MAX = 64 << 10
"""Most bytes of an area that is read ahead."""
TOO_LARGE = "more than is copied of memory that is not shared"
AREAS_MAX = 8
"""Most areas of a turn that are read together with those of others."""
TURNS = 3
"""Turns after which an area that none of them used is no longer read with others."""


class Dma(RemoteAccess):
    """Requests to the owner of memory, several at a time."""

    def read_each(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | bytearray]:
        """Return the bytes of each range, an address and a size. Raises MemoryFault."""
        raise NotImplementedError


@attrs.define(eq=False)
class _Written:
    """The copy of a buffer that a device takes. It begins with zeroes: what the driver has in it is not read."""

    address: int
    data: bytearray
    write: Callable[[int, bytes], None]

    def send(self, written: int) -> int:
        """Send what was written, ``written`` bytes of the chain from here on; return how many are behind this buffer.

        A driver must not rely on bytes behind the used length (2.7.8), except for the status of a failed request:
        so a buffer that the length does not reach is sent if the device has changed it.
        """
        size = min(written, len(self.data))
        if size:
            self._send(0, size)
        elif any(self.data):
            self._send(len(self.data) - len(self.data.lstrip(b"\0")), len(self.data.rstrip(b"\0")))
        return written - size

    def _send(self, start: int, end: int) -> None:
        try:
            self.write(self.address + start, cast("bytes", memoryview(self.data)[start:end]))
        except MemoryFault:
            pass  # lost, as a posted write is


class StreamCopies(Copies):
    """Copies of buffers and of ring areas."""

    def __init__(self) -> None:
        super().__init__()
        self._batch: list[_Written] | None = None
        """Copies for the chains that are being taken; None at other times."""
        self._written = 0
        """Bytes of the copies that devices have."""
        self._areas: list[AreaWords] = []
        """Areas with a copy, in the order in which they were read."""
        self._used: list[AreaWords] = []
        """Those that were used since, in the order of their first use."""
        self._turns: deque[list[AreaWords]] = deque(maxlen=TURNS)
        """Those that were used between two calls of `drop`, the last ones."""
        self._before: list[AreaWords] = []
        """All of these."""

    # Buffers

    def take(self) -> None:
        """Make the buffers that follow parts of chains, until `taken`."""
        self._batch = []

    def taken(self) -> dict[int, _Written]:
        """Return the copies made since `take`, by the identity of their bytes."""
        batch, self._batch = self._batch or [], None
        return {id(copy.data): copy for copy in batch}

    def end(self, copies: Sequence[_Written]) -> None:
        """Forget copies of chains that are completed or put back."""
        self._written -= sum(len(copy.data) for copy in copies)

    def make(self, access: RemoteAccess, address: int, size: int, writable: bool) -> memoryview:
        if not writable or self._batch is None:
            return super().make(access, address, size, writable)
        if size > COPY_MAX or size + self._written > COPIES_MAX:
            raise MemoryFault(address, size, write=True, reason=TOO_LARGE)
        copy = _Written(address, bytearray(size), access.write)
        self._batch.append(copy)
        self._written += size
        return memoryview(copy.data)

    # Ring areas

    def read_ahead(self, words: AreaWords, index: int) -> None:
        """Read an area from the word at ``index`` on, then those that were used before. Raises MemoryFault."""
        before = [each for each in self._before if each is not words and each.dma is words.dma and each.lacking]
        areas, ranges = [words, *before], words.spans(index)
        for each in before:
            ranges += each.spans(0)
        parts = words.dma.read_each(ranges)
        for each in areas:
            count = each.parts
            each.show(parts[:count])
            parts = parts[count:]
        self._areas += areas
        self._copied.set()

    def note_use(self, words: AreaWords) -> None:
        """Note the first load of an area from its copy."""
        self._used.append(words)

    def drop(self) -> None:
        """End the copies of ring areas."""
        for words in self._areas:
            words.forget()
        self._areas.clear()
        if self._used:
            # A turn begins with the available index and goes on to descriptors, or ends with a look at an event alone.
            self._turns.append(self._used[:AREAS_MAX])
            self._used = []
            self._before = list(dict.fromkeys(words for turn in reversed(self._turns) for words in turn))

    def flush(self) -> None:
        if self.held:
            super().flush()

    async def run(self) -> None:
        while True:
            await self._copied.wait()
            self._copied = trio.Event()
            self.flush()
            self.drop()


class AreaWords(Words):
    """A stand-in for a pinned view of ring words, with a copy of all of them while that is fresh."""

    def __init__(self, dma: Dma, copies: StreamCopies, address: int, size: int, form: str) -> None:
        super().__init__(dma, copies, address, size, form)
        self.dma = dma
        self._ahead = copies
        self._data: bytearray | None = None
        self._copy: Any = None
        self._at = 0
        self._fresh = False

    @property
    def lacking(self) -> bool:
        """Whether the area has no copy and may be read."""
        return self._copy is None and not self._released

    @property
    def parts(self) -> int:
        """Number of its `spans`."""
        return 2 if self._at else 1

    def spans(self, index: int) -> list[tuple[int, int]]:
        """Return the ranges of the area, from a word to the end, then from the beginning to that word."""
        at = self._at = index * self._size
        return [(self.address + at, self.nbytes - at), *([(self.address, at)] if at else [])]

    def show(self, parts: Sequence[bytes | bytearray]) -> None:
        """Take the bytes of the area."""
        self._data = bytearray().join(reversed(parts))
        self._copy = memoryview(self._data).cast(self._form)  # type: ignore[call-overload]
        self._fresh = True

    def forget(self) -> None:
        """End the copy."""
        self._copy = self._data = None

    def __getitem__(self, index: int | slice) -> Any:
        copy = self._copy
        if copy is None or self._released:
            self._check()
            if self.nbytes > AREA_MAX:
                return super().__getitem__(index)
            at = (index.start or 0) if isinstance(index, slice) else index
            self._ahead.read_ahead(self, at)
            self._check()
            copy = self._copy
        if self._fresh:
            self._fresh = False
            self._ahead.note_use(self)
        return copy[index].tolist() if isinstance(index, slice) else copy[index]

    def __setitem__(self, index: int, value: int) -> None:
        super().__setitem__(index, value)
        if self._copy is not None:
            self._copy[index] = value


class _SentWrites(Observer):
    """Sends what a device has written to a chain, when it completes the chain."""

    def __init__(self, copies: StreamCopies) -> None:
        self._copies = copies
        self._taken: dict[int, list[_Written]] = {}

    def taking(self) -> None:
        self._copies.take()

    def took(self, chains: Sequence[Chain], /) -> None:
        copies = self._copies.taken()
        for head, _, writable in chains:
            mine = [copies.pop(id(view.obj), None) for view in writable] if writable else []
            self._taken[head] = [copy for copy in mine if copy is not None]
        self._copies.end(list(copies.values()))  # of a chain that was not taken after all

    def put_back(self, heads: Sequence[int], /) -> None:
        for head in heads:
            self._copies.end(self._taken.pop(head, []))

    def completed(self, done: Sequence[tuple[int, int]], /) -> None:
        for head, written in done:
            copies = self._taken.pop(head, [])
            rest = written
            for copy in copies:
                rest = copy.send(rest)
            self._copies.end(copies)

    def closed(self) -> None:
        self.put_back(list(self._taken))


class _SendingVringh(ObservedVringh):
    def getdescs(self, limit: int, /) -> list[Chain]:
        try:
            return super().getdescs(limit)
        except BaseException:
            self.observer.took(())
            raise


class StreamRange(RemoteRange):
    """A range of the other process's memory. Implements `rings.memory.RemoteBytes`."""

    def __init__(self, dma: Dma, copies: StreamCopies, address: int, size: int) -> None:
        super().__init__(dma, copies, address, size, readonly=False)
        self._dma = dma
        self._ahead = copies

    def part(self, start: int, end: int) -> StreamRange:
        return StreamRange(self._dma, self._ahead, self._address + start, end - start)

    def pin(self, start: int, size: int, form: str) -> memoryview:
        return cast("memoryview", AreaWords(self._dma, self._ahead, self._address + start, size, form))

    def fence(self) -> None:
        """Make later loads of ring words fresh."""
        full_fence()
        self._ahead.drop()

    def observe(self, ring: Vringh) -> Vringh:
        """Return a device's side that sends what the device writes to buffers."""
        return _SendingVringh(ring, _SentWrites(self._ahead))
