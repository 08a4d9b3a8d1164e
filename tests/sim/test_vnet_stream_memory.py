"""Rings in memory behind a stream: few round trips, no stale descriptor, and writes as the used length says."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rings.features import RingFeature
from rings.formats import FORMATS
from rings.memory import Addr, MappedMemory
from rings.queue import Virtqueue, Vringh
from vnet.errors import UnsupportedRequest
from vnet.stream.memory import Dma, StreamCopies, StreamRange

RING, TABLES, DATA, SIZE = 0, 0x4000, 0x8000, 1 << 20
FEATURES = 1 << RingFeature.EVENT_IDX | 1 << RingFeature.INDIRECT_DESC


class CountingDma(Dma):
    """The other host's memory in this process: counts round trips, and notes writes."""

    def __init__(self) -> None:
        self.memory = bytearray(SIZE)
        self.trips: list[int] = []
        """Ranges of each round trip."""
        self.writes: list[tuple[int, bytes]] = []
        self.refuses = range(0)

    def read_each(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | bytearray]:
        self.trips.append(len(ranges))
        for at, size in ranges:
            if at in self.refuses:
                raise UnsupportedRequest(at, size, write=False, reason="refused")
        return [bytes(self.memory[at : at + size]) for at, size in ranges]

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.read_each([(address, size)])[0])

    def write(self, address: int, data: bytes) -> None:
        self.writes.append((address, bytes(data)))
        self.memory[address : address + len(data)] = data

    def before(self, address: int, size: int) -> bytes:
        return self.read(address, size)


class End:
    """Rings of one format: the driver on the memory itself, the device through the stream."""

    def __init__(self, name: str) -> None:
        self.dma, self.copies = CountingDma(), StreamCopies()
        form, near, far = FORMATS[name], MappedMemory(), MappedMemory()
        near.add(Addr(0), memoryview(self.dma.memory))
        everything = StreamRange(self.dma, self.copies, 0, SIZE)
        far.add(Addr(0), everything)
        far.fence, far.observe = everything.fence, everything.observe  # type: ignore[attr-defined]
        addrs, _ = form.contiguous(64, Addr(RING), 64)
        self.driver: Virtqueue = form.driver(near, 64, addrs, event_idx=True, indirect=Addr(TABLES), indirect_max=4)
        self.device: Vringh = form.vringh(far, 64, addrs, FEATURES, meter=None)
        self.dma.trips.clear()
        self.dma.writes.clear()

    def written(self) -> list[tuple[int, bytes]]:
        """Return the writes to buffers so far."""
        return [(at, data) for at, data in self.dma.writes if at >= DATA]


@pytest.fixture(params=["split", "packed"])
def end(request: pytest.FixtureRequest) -> End:
    return End(request.param)


def test_a_batch_costs_a_round_trip_for_the_ring_and_one_for_each_buffer(end: End) -> None:
    for number in range(3):
        at = DATA + 8192 * number
        end.dma.memory[at : at + 4] = b"%04d" % number
        end.driver.add([(Addr(at), 5000)], [], number)
    end.driver.publish()
    chains = end.device.getdescs(32)
    assert [bytes(readable[0][:4]) for _, readable, _ in chains] == [b"0000", b"0001", b"0002"]
    assert len(end.dma.trips) <= 5, "the split ring's areas are two round trips the first time"
    end.device.complete_each([(head, 0) for head, _, _ in chains])
    end.device.publish()
    end.device.notify_enable()
    end.dma.trips.clear()
    end.driver.add([(Addr(DATA), 100)], [], 9)
    end.driver.publish()
    end.copies.drop()  # as the kick does
    [(_, readable, _)] = end.device.getdescs(32)
    assert bytes(readable[0][:4]) == b"0000"
    assert len(end.dma.trips) == 2


def test_a_fence_shows_what_the_driver_has_added(end: End) -> None:
    assert end.device.getdescs(4) == []
    end.driver.add([(Addr(DATA), 8)], [], 1)
    end.driver.publish()
    assert end.device.notify_enable(), "work is left"
    assert len(end.device.getdescs(4)) == 1


def test_the_used_length_says_what_is_sent(end: End) -> None:
    end.dma.memory[DATA : DATA + 64] = b"d" * 64
    end.driver.add([], [(Addr(DATA), 64), (Addr(DATA + 4096), 1)], 5)
    end.driver.publish()
    [(head, _, (data, status))] = end.device.getdescs(1)
    data[:10], status[0] = b"0123456789", 7
    assert end.written() == [], "nothing is sent before"
    end.device.complete_each([(head, 10)])
    assert end.written() == [(DATA, b"0123456789"), (DATA + 4096, b"\7")], "a status that is not 0"
    end.device.publish()
    assert end.driver.get_each(4) == [(5, 10)]
    assert bytes(end.dma.memory[DATA : DATA + 64]) == b"0123456789" + b"d" * 54


def test_chains_that_are_put_back_are_not_written_and_come_again(end: End) -> None:
    for number in range(4):
        end.driver.add([], [(Addr(DATA + 4096 * number), 4096)], number)
    end.driver.publish()
    heads, sizes, views = end.device.getbufs(4)
    assert (len(heads), sizes, len(views)) == (4, [4096] * 4, 4)
    views[0][:3] = views[1][:3] = b"abc"
    end.device.complete_each([(heads[0], 3)])
    end.device.abandon(3)
    assert end.written() == [(DATA, b"abc")]
    assert len(end.device.getbufs(4)[0]) == 3


def test_a_buffer_that_can_not_be_read_fails_its_batch_and_takes_none(end: End) -> None:
    end.driver.add([(Addr(DATA), 64)], [], 1)
    end.driver.publish()
    end.dma.refuses = range(DATA, DATA + 1)
    with pytest.raises(UnsupportedRequest):
        end.device.getdescs(4)
    assert end.device.state().in_flight == 0
