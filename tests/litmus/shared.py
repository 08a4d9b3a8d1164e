"""Memory that two processes share, and the processes."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import attrs

from support.children import environment

__all__ = ["PAGE", "Role", "Shared", "processors", "run_pair", "seen_pages"]

PAGE = 4096
SPINS = 20_000
"""Loads of the other side's counter before a side lets other processes run."""
POLL = 0.05
"""Seconds between two looks at processes that run."""


def processors() -> list[int]:
    """Return the processors that this process may use."""
    return sorted(os.sched_getaffinity(0))


@attrs.frozen
class Role:
    """One of two processes: 0 or 1, and what its arguments say."""

    me: int
    arguments: Mapping[str, int | str]

    def number(self, name: str) -> int:
        return int(self.arguments[name])


class Shared:
    """Pages of shared memory. The first one has the counters with which both sides begin a round together."""

    def __init__(self, fd: int) -> None:
        self.map = mmap.mmap(fd, os.fstat(fd).st_size)
        self.bytes = memoryview(self.map)
        self._counters = self.bytes[:PAGE].cast("Q")

    def meet(self, me: int, number: int) -> None:
        """Wait until the other side has come to the same round, numbered from 1."""
        mine, theirs, spins = 64 * me // 8, 64 * (1 - me) // 8, 0
        counters = self._counters
        counters[mine] = number
        while counters[theirs] < number:
            spins += 1
            if spins > SPINS:
                os.sched_yield()

    def results(self, me: int) -> memoryview:
        """Return ten 64-bit words that ``me`` writes and the test reads."""
        return self.bytes[PAGE * (1 + me) : PAGE * (1 + me) + 80].cast("Q")

    def seen(self, me: int, start: int, rounds: int) -> memoryview:
        """Return a byte for each round, in which ``me`` writes whether it saw the other side's store.

        ``start`` is the first of the `seen_pages` of both sides, in bytes.
        """
        each = PAGE * seen_pages(rounds) // 2
        return self.bytes[start + each * me : start + each * (me + 1)][:rounds]

    def count_seen(self, start: int, rounds: int) -> None:
        """Count rounds in which neither side saw the other's store, and those in which both did: side 0's results."""
        sides = zip(self.seen(0, start, rounds), self.seen(1, start, rounds), strict=True)
        sums = [first + second for first, second in sides]
        results = self.results(0)
        results[0], results[1] = sums.count(0), sums.count(2)


def seen_pages(rounds: int) -> int:
    """Return the number of pages for `Shared.seen` of both sides."""
    return 2 * -(-rounds // PAGE)


@contextmanager
def _memory(pages: int) -> Iterator[int]:
    fd = os.memfd_create("litmus")
    try:
        os.ftruncate(fd, PAGE * pages)
        yield fd
    finally:
        os.close(fd)


def run_pair(
    place: str,
    pages: int,
    arguments: Mapping[str, int | str],
    watch: Callable[[Shared], None] | None = None,
) -> list[list[int]]:
    """Run ``module:function`` of this package in two processes; return the ten result words of each.

    ``watch`` is called again and again meanwhile. Raises AssertionError with the error of a process that failed.
    """
    first, *rest = processors()
    cpus = first, (rest or [first])[0]
    with _memory(pages) as fd:
        shared = Shared(fd)
        command = [sys.executable, "-P", "-m", "litmus.side", place]
        pair: list[subprocess.Popen[str]] = []
        try:
            for me in range(2):
                argv = [*command, json.dumps({**arguments, "me": me, "fd": fd, "cpu": cpus[me]})]
                pair.append(subprocess.Popen(argv, pass_fds=[fd], env=environment(), stderr=subprocess.PIPE, text=True))
            while any(each.poll() is None for each in pair) and not any(each.poll() for each in pair):
                try:
                    pair[0].wait(POLL)
                except subprocess.TimeoutExpired:
                    pass
                if watch is not None:
                    watch(shared)
        finally:
            for each in pair:
                each.kill()  # the other side of one that failed, or both if this process is interrupted
            errors = [each.communicate()[1] for each in pair]
        results = [list(shared.results(me)) for me in range(2)]
    failed = next((error for each, error in zip(pair, errors, strict=True) if each.returncode and error), None)
    assert failed is None, failed
    return results
