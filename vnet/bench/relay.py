"""The yardstick in two processes: `vnet.bench.forwarder`, but what one process reads another one writes.

``python -m vnet.bench.relay FD MEMORY KICK KICKED SIDE`` is one of them, until its standard input ends: it joins a
non-blocking TUN descriptor, opened and set up by the parent process, to the other process. ``MEMORY`` holds `SHARED`
bytes of zeroes that both have, ``KICK`` is the eventfd that wakes the other, ``KICKED`` that which it is woken by,
``SIDE`` 0 or 1.
"""

from __future__ import annotations

import argparse
import mmap
import os
import select

from vnet.bench.forwarder import BATCH, BUFFER_SIZE, REFUSED
from vnet.linux.memory import full_fence

__all__ = ["SHARED", "relay"]

SLOTS = 32
"""Packets between the two, in each direction: what all of them hold stays in the cache."""
PAGE = 4096
PITCH = -(-BUFFER_SIZE // PAGE) * PAGE
LANE = PAGE + SLOTS * PITCH
SHARED = 2 * LANE
"""Bytes: a lane for each direction."""
PRODUCED, CONSUMED, EMPTY, FULL, SIZES = 0, 8, 16, 24, 32
"""Words of a lane: packets ever put in and taken out; whether who takes them out, or who puts them in, has to be woken;
their sizes.
"""
ROUNDS = 64
"""After which a process that is never idle looks whether it shall stop."""


class Lane:
    """Packets one way. ``EMPTY`` and ``FULL`` are set by who waits, and cleared by who wakes it."""

    def __init__(self, memory: memoryview) -> None:
        self.words = memory[:PAGE].cast("Q")
        self.slots = [memory[PAGE + i * PITCH :][:BUFFER_SIZE] for i in range(SLOTS)]
        self.into = [[slot] for slot in self.slots]


def relay(fd: int, out: Lane, back: Lane, kick: int, kicked: int, stop: int) -> None:
    """Put what comes from ``fd`` into one lane and write what is in the other, until ``stop`` is readable or closed.

    Raises OSError when the interface is gone.
    """
    sent, got = out.words, back.words
    with select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        epoll.register(kicked, select.EPOLLIN | select.EPOLLET)
        epoll.register(stop, select.EPOLLIN)
        rounds = 0
        while True:
            took, put = _write(fd, back), _read(fd, out)
            full_fence()
            if (put and sent[EMPTY]) or (took and got[FULL]):
                sent[EMPTY] = got[FULL] = 0
                os.eventfd_write(kick, 1)
            rounds += 1
            busy = took or put
            if busy and rounds % ROUNDS:
                continue
            if not busy:
                full = sent[PRODUCED] - sent[CONSUMED] == SLOTS
                got[EMPTY] = 1
                sent[FULL] = int(full)
                full_fence()
                busy = got[PRODUCED] != got[CONSUMED] or (full and sent[PRODUCED] - sent[CONSUMED] < SLOTS)
            if any(ready == stop for ready, _ in epoll.poll(0 if busy else None)):
                return


def _write(fd: int, lane: Lane) -> int:
    """Write what is in a lane, a batch of it; how many packets."""
    words, slots, write = lane.words, lane.slots, os.write
    first = at = words[CONSUMED]
    last = min(words[PRODUCED], first + BATCH)
    while at < last:
        slot = at % SLOTS
        try:
            write(fd, slots[slot][: words[SIZES + slot]])
        except OSError as error:
            if error.errno not in REFUSED:
                raise
        at += 1
        words[CONSUMED] = at
    return at - first


def _read(fd: int, lane: Lane) -> int:
    """Read into a lane, a batch at most, and show it to the other side; how many packets."""
    words, into, readv = lane.words, lane.into, os.readv
    first = at = words[PRODUCED]
    last = min(words[CONSUMED] + SLOTS, first + BATCH)
    try:
        while at < last:
            slot = at % SLOTS
            words[SIZES + slot] = readv(fd, into[slot])
            at += 1
    except OSError as error:
        if error.errno not in REFUSED:
            raise
    words[PRODUCED] = at
    return at - first


def main() -> None:
    parser = argparse.ArgumentParser(description="One of two processes between two TUN descriptors.")
    for name in ("fd", "memory", "kick", "kicked", "side"):
        parser.add_argument(name, type=int)
    args = parser.parse_args()
    memory = memoryview(mmap.mmap(args.memory, SHARED))
    lanes = [Lane(memory[at : at + LANE]) for at in (0, LANE)]
    relay(args.fd, lanes[args.side], lanes[1 - args.side], args.kick, args.kicked, stop=0)


if __name__ == "__main__":
    main()
