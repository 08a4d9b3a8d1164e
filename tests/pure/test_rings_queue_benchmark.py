"""The cost of a descriptor: add, publish, getdesc, complete, publish, get. ``pytest --benchmark-enable`` measures."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from rings.formats import FORMATS
from rings.layout import RingAddrs
from rings.memory import Addr, MappedMemory
from rings.queue import Segment, Virtqueue, Vringh, complete, getdesc
from support.rigs.ring import get

NUM = 256
BATCH = 64
PIECES: tuple[Segment, ...] = tuple((Addr(0x8000 + at * 2048), size) for at, size in enumerate((12, 54, 1434)))
ADDRS = RingAddrs(Addr(0), Addr(0x1000), Addr(0x2000))
FORMAT = pytest.mark.parametrize("name", FORMATS)


def pair(name: str, *, indirect: bool) -> tuple[Virtqueue, Vringh]:
    ring = FORMATS[name]
    memory = MappedMemory()
    memory.add(Addr(0), memoryview(bytearray(1 << 16)))
    tables = Addr(0x3000) if indirect else None
    return (
        ring.driver(memory, NUM, ADDRS, event_idx=True, indirect=tables, indirect_max=3 if indirect else 0),
        ring.device(memory, NUM, ADDRS, event_idx=True, indirect=indirect),
    )


@FORMAT
@pytest.mark.parametrize("written", [False, True], ids=["readable", "writable"])
def test_a_batch_goes_round_by_the_batch(benchmark: BenchmarkFixture, name: str, written: bool) -> None:
    """64 buffers there and back as devices move them: divide by 64 for the cost of a descriptor."""
    driver, device = pair(name, indirect=False)
    buffers = [(Addr(0x8000), 1500, token) for token in range(BATCH)]

    def batch() -> int:
        driver.add_each(buffers, written)
        driver.publish()
        device.complete_each([(head, 0) for head, _, _ in device.getdescs(BATCH)])
        device.notify_enable()
        device.publish()
        moved = len(driver.get_each(BATCH))
        driver.enable_cb()
        return moved

    benchmark.group = "64 chains"
    assert benchmark(batch) == BATCH
    assert driver.num_free == NUM
    assert driver.statistics().suppressed == 0


@FORMAT
@pytest.mark.parametrize("written", [False, True], ids=["readable", "writable"])
@pytest.mark.parametrize(
    ("count", "indirect"), [(1, False), (3, False), (3, True)], ids=["single", "chain of 3", "table of 3"]
)
def test_a_batch_goes_round_one_by_one(
    benchmark: BenchmarkFixture, name: str, count: int, indirect: bool, written: bool
) -> None:
    """64 chains there and back; the report's times are for the batch: divide by 64, and by 3 for descriptors."""
    driver, device = pair(name, indirect=indirect)
    segs = PIECES[:count] if count > 1 else ((Addr(0x8000), 1500),)
    readable, writable = ((), segs) if written else (segs, ())

    def batch() -> int:
        add = driver.add
        for token in range(BATCH):
            add(readable, writable, token)
        driver.publish()
        while (chain := getdesc(device)) is not None:
            complete(device, chain[0], 0)
        device.notify_enable()
        device.publish()
        moved = 0
        while get(driver) is not None:
            moved += 1
        driver.enable_cb()
        return moved

    benchmark.group = "64 chains"
    assert benchmark(batch) == BATCH
    assert driver.num_free == NUM
    assert driver.statistics().suppressed == 0
