"""The plain path in C while another process rewrites the ring all the time: typed errors, and no byte outside."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rings.errors import MemoryFault, RemoteRingError
from rings.formats import FORMATS
from rings.memory import Addr, MappedMemory
from support.native import NEEDS_NATIVE
from support.rigs.twin import every_batch_in_c

pytestmark = NEEDS_NATIVE

NUM, ROUNDS = 16, 150
RING, CANARY, BUFFERS, SIZE, END = 4096, 8192, 12288, 256, 16384
ATTACKER = """
import array, mmap, random, sys
ring, base, size, num, packed = map(int, sys.argv[1:])
memory = mmap.mmap(ring, 0)
random.seed(1)
words = memoryview(memory)[base : base + size].cast("Q")
halves = memoryview(memory)[base : base + size].cast("H")
count = memoryview(memory)[:8].cast("Q")
print(flush=True)
while True:
    count[0] += 1
    for _ in range(20):
        flags = random.choice((0, 2, 0x80, 0x82, 0x8000, 0x8002, 0x8080, 0x8082, random.getrandbits(16)))
        addr = random.choice((12288, 12544, 16383, 8192, 0, random.getrandbits(64)))
        at = random.randrange(num)
        words[2 * at] = addr
        words[2 * at + 1] = random.choice((16, 256, 0xFFFFFFFF)) | flags << (48 if packed else 32) | at << 32 * packed
        halves[random.randrange(len(halves))] = random.choice((at, random.getrandbits(16)))
        if not packed:  # index and entries of the available ring, then of the used ring
            halves[8 * num + 1] = random.randrange(num + 2)
            halves[8 * num + 2 + at] = random.randrange(num)
            halves[10 * num + 1] = random.randrange(num + 2)
            halves[10 * num + 2 + 4 * at : 10 * num + 6 + 4 * at] = array.array("H", (random.randrange(num), 0, 16, 0))
"""


@contextmanager
def attacked(packed: bool) -> Iterator[mmap.mmap]:
    """Memory of 16 KiB whose ring another process rewrites. Nothing but ring and buffers has changed afterwards."""
    fd = os.memfd_create("race")
    os.ftruncate(fd, END)
    arguments = map(str, (fd, RING, CANARY - RING, NUM, int(packed)))
    attacker = subprocess.Popen(
        [sys.executable, "-c", ATTACKER, *arguments], pass_fds=[fd], stdout=subprocess.PIPE, env={}
    )
    assert attacker.stdout is not None
    try:
        assert attacker.stdout.readline() == b"\n"
        whole = mmap.mmap(fd, END)
        whole[CANARY:BUFFERS] = b"\xca" * (BUFFERS - CANARY)
        yield whole
        assert whole[CANARY:BUFFERS] == b"\xca" * (BUFFERS - CANARY)
        assert whole[8:RING] == bytes(RING - 8)
        assert attacker.poll() is None
    finally:
        attacker.kill()
        attacker.wait()
        attacker.stdout.close()
        os.close(fd)


def wait_for_changes(whole: mmap.mmap) -> None:
    """Return once the attacker has run again, which else may rest for many rounds on a busy machine."""
    before = whole[:8]
    while whole[:8] == before:
        os.sched_yield()


@pytest.mark.hostile("R01", "R05")
@pytest.mark.parametrize("form", ["split", "packed"])
def test_a_driver_that_rewrites_the_ring_all_the_time_harms_nothing_else(form: str) -> None:
    with attacked(form == "packed") as whole, every_batch_in_c():
        memory = MappedMemory()
        for start, end in ((RING, CANARY), (BUFFERS, END)):  # not the canaries
            memory.add(Addr(start), memoryview(whole)[start:end])
        addrs, _ = FORMATS[form].contiguous(NUM, Addr(RING), 64)
        for _ in range(ROUNDS):
            wait_for_changes(whole)
            device = FORMATS[form].device(memory, NUM, addrs, event_idx=True, indirect=True)
            memory.view(Addr(BUFFERS), 1)
            try:
                for writable in (False, True):
                    view, chains = device.getplain(NUM, writable)
                    for head, at, size in chains:
                        assert head < NUM
                        assert 0 <= at <= at + size <= END - BUFFERS
                        view[at : at + size] = bytes(size)
                    device.complete_read(chains, len(chains))
                    done = device.getdescs(NUM)
                    device.complete_each([(head, 0) for head, _, _ in done])
                device.publish()
                device.notify_enable()
            except (RemoteRingError, MemoryFault):
                pass
            finally:
                device.close()
        memory.close()


@pytest.mark.hostile("D01", "D02")
@pytest.mark.parametrize("form", ["split", "packed"])
def test_a_device_that_rewrites_the_ring_all_the_time_gets_no_buffer_twice(form: str) -> None:
    with attacked(form == "packed") as whole:
        memory = MappedMemory()
        memory.add(Addr(RING), memoryview(whole)[RING:CANARY])
        addrs, _ = FORMATS[form].contiguous(NUM, Addr(RING), 64)
        for _ in range(ROUNDS):
            wait_for_changes(whole)
            driver = FORMATS[form].driver(memory, NUM, addrs, event_idx=True)
            out: set[int] = set()
            try:
                for turn in range(4):
                    buffers = [(Addr(BUFFERS), SIZE, NUM * turn + i) for i in range(driver.num_free)]
                    driver.add_each(buffers, True)
                    out |= {token for _, _, token in buffers}
                    driver.publish()
                    for token, written in driver.get_each(NUM):
                        out.remove(token)
                        assert written <= SIZE
                    assert driver.num_free == NUM - len(out)
            except RemoteRingError:
                pass
            finally:
                driver.close()
        memory.close()
