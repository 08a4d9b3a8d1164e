"""``python -m isolation.victim FOLDER SEED CPU``: for each line SECONDS, read a disk for so long, and print figures."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

import trio

from drivers.devices.blk.layout import HEADER, RequestType
from isolation.front import bring_up, wait
from vnet.check.split import Buffer
from vnet.check.vhost_user import VhostUserFront

DEPTH, SIZE, BLOCKS = 16, 4096, (64 << 20) // 4096
"""Requests at a time, bytes of one, and blocks of the disk."""


class Victim:
    """A driver that reads blocks at random, several at a time."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._random = random.Random(seed)
        front = self._front = trio.run(bring_up, folder / "victim.sock", VhostUserFront, {0: 64})
        self._arena, self._vring = front.arena, front.rings[0]
        self._headers: dict[int, tuple[int, int]] = {}
        for _ in range(DEPTH):
            header = self._arena.alloc(HEADER.size)
            parts = Buffer(header, HEADER.size), Buffer(self._arena.alloc(SIZE, SIZE), SIZE, True)
            status = self._arena.put(b"\xff")
            self._headers[self._vring.split.chain([*parts, Buffer(status, 1, True)])] = header, status
        self._started: dict[int, float] = {}

    def _begin(self, heads: list[int]) -> None:
        for head in heads:
            sector = self._random.randrange(BLOCKS) * (SIZE // 512)
            header, status = self._headers[head]
            self._arena.write(status, b"\xff")
            self._arena.write(header, HEADER.pack(RequestType.IN, 0, sector))
        self._vring.split.offer(*heads)
        if not self._vring.split.used_flags & 1:
            self._vring.kick()
        now = time.monotonic()
        self._started.update(dict.fromkeys(heads, now))

    def _take(self, times: list[float]) -> list[int]:
        answers = self._vring.ring.answers()
        if not answers:
            wait(self._front)
            answers = self._vring.ring.answers()
        heads = [head for head, _ in answers]
        now = time.monotonic()
        assert not any(self._arena.read(self._headers[head][1], 1)[0] for head in heads), "a read failed"
        times += [now - self._started.pop(head) for head in heads]
        return heads

    def run(self, seconds: float) -> dict[str, float]:
        """Read for so long. Returns requests, and their times in microseconds."""
        times: list[float] = []
        start, used = time.monotonic(), time.process_time()
        self._begin(list(self._headers))
        while time.monotonic() < start + seconds:
            if heads := self._take(times):
                self._begin(heads)
        took, count, used = time.monotonic() - start, len(times), time.process_time() - used
        while self._started:
            self._take(times)
        times = sorted(times) or [0.0]
        places = {"p50": 0.5, "p99": 0.99, "max": 1.0}
        at = {name: times[min(len(times) - 1, int(part * len(times)))] for name, part in places.items()}
        micros = {f"{name}_us": round(1e6 * each) for name, each in at.items()}
        return {"requests": count, "seconds": round(took, 3), "victim_cpu_s": round(used, 3), **micros}


def main(folder: Path, seed: int, cpu: int) -> None:
    os.sched_setaffinity(0, [cpu])
    victim = Victim(folder, seed)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(victim.run(float(line))), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
