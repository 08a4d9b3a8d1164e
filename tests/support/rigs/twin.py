"""Twin rings, one with the plain path in C, one in Python: the same calls leave the same words, results and state."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import attrs
from hypothesis import strategies as st

from rings.errors import MemoryFault, RingError
from rings.formats import FORMATS
from rings.layout import DESC_SIZE
from rings.memory import Addr
from rings.native.device import PlainFirst
from rings.packed.virtqueue import PackedVirtqueue
from rings.packed.vringh import PackedVringh
from rings.queue import Virtqueue, Vringh
from rings.sides import DeviceSide, DriverSide
from rings.split.virtqueue import SplitVirtqueue
from rings.split.vringh import SplitVringh
from rings.testing import Guarded

__all__ = ["HOSTILE", "LAWFUL", "NUMS", "PAYLOAD", "Call", "every_batch_in_c", "makers", "play", "twin"]

PAYLOAD, OTHER = Addr(0x20_0000), Addr(0x30_0000)
BLOCK = 4096
TABLES, TABLE_MAX = Addr(PAYLOAD + BLOCK // 2), 4
"""Indirect tables, and descriptors of the longest; longer chains are in the ring itself."""
Makers = tuple[Callable[..., Virtqueue], Callable[..., Vringh]]
PYTHON: dict[str, Makers] = {
    "split": (SplitVirtqueue, SplitVringh),
    "packed": (PackedVirtqueue, PackedVringh),
}
NUMS = st.sampled_from([1, 2, 4, 8])

Call = tuple[str, tuple[int, ...]]


def calls(**arguments: st.SearchStrategy[int]) -> st.SearchStrategy[Call]:
    """A call with a name, and its arguments."""
    [(name, strategy)] = arguments.items()
    return st.tuples(st.just(name), st.lists(strategy, min_size=4, max_size=4).map(tuple))


SMALL = st.integers(0, 9)
ADDRS = st.sampled_from([PAYLOAD, PAYLOAD + 100, PAYLOAD + BLOCK - 1, OTHER, 0, 0x10_1000, (1 << 64) - 16])
SIZES = st.sampled_from([0, 1, 16, 100, BLOCK, BLOCK + 1, (1 << 32) - 1, 1 << 32])
LAWFUL = (
    calls(add=st.integers(0, 100)),
    calls(add=st.integers(0, 100)),
    calls(chain=SMALL),
    calls(oversized=SMALL),
    calls(publish=SMALL),
    calls(get=SMALL),
    calls(enable=SMALL),
    calls(take=SMALL),
    calls(take=SMALL),
    calls(complete=SMALL),
    calls(complete=SMALL),
    calls(complete_read=SMALL),
    calls(complete_twice=SMALL),
    calls(abandon=SMALL),
    calls(call=SMALL),
    calls(rearm=SMALL),
)
HOSTILE = (
    calls(word=st.integers(0, 1 << 64) | SMALL),
    calls(word=SMALL | ADDRS | SIZES),
    calls(index=st.integers(0, 0xFFFF) | SMALL),
    calls(latch=SMALL),
)


def outcome(call: Callable[[], object]) -> object:
    """The result of a call, or the class and the words of its error."""
    try:
        return call()
    except (RingError, MemoryFault) as error:
        return type(error), str(error)


def state(side: object) -> dict[str, object]:
    """All that a side keeps, without memory."""
    plain = int, str, list, deque, dict, set, tuple, type(None)
    names = [*vars(side), *(DriverSide.__slots__ if isinstance(side, DriverSide) else DeviceSide.__slots__)]
    kept: dict[str, object] = {name: value for name in names if isinstance(value := getattr(side, name), plain)}
    kept.pop("native", None)
    if isinstance(side, PlainFirst):
        kept.pop("_last_writable")
        kept.pop("_last_tables")
    return kept


@attrs.define(eq=False)
class Twin:
    """A ring with both of its sides."""

    memory: Guarded
    driver: SplitVirtqueue | PackedVirtqueue
    device: SplitVringh | PackedVringh
    token: int = 0
    heads: list[int] = attrs.field(factory=list)
    """Chains that the device took and neither completed nor abandoned."""

    def add(self, at: int, size: int, count: int, writable: int) -> object:
        buffers = []
        for i in range(count % 5):
            self.token += 1
            buffers.append((Addr(PAYLOAD + at + i), size, self.token))
        return self.driver.add_each(buffers, bool(writable % 2))

    def chain(self, readable: int, writable: int, *_: int) -> object:
        self.token += 1
        segs = [(Addr(PAYLOAD + 16 * at), 16) for at in range(3)]
        return self.driver.add(segs[: readable % 4], segs[: writable % 4], self.token)

    def oversized(self, *_: int) -> object:
        return self.driver.add_each([(PAYLOAD, 1, 1 << 20), (PAYLOAD, 1 << 32, 1 << 21)], False)

    def publish(self, *_: int) -> object:
        return self.driver.publish()

    def get(self, limit: int, *_: int) -> object:
        return self.driver.get_each(limit)

    def enable(self, delayed: int, *_: int) -> object:
        return self.driver.enable_cb_delayed() if delayed % 2 else self.driver.enable_cb()

    def take(self, limit: int, *_: int) -> object:
        self.memory.view(PAYLOAD, 1)  # the region that C may access is the last one
        chains = self.device.getdescs(limit)
        self.heads += [head for head, _, _ in chains]
        return [(head, *([view.tobytes() for view in views] for views in both)) for head, *both in chains]

    def complete(self, count: int, written: int, backwards: int, _: int) -> object:
        heads = self.heads[: count or 1]
        del self.heads[: count or 1]
        return self.device.complete_each([(head, written) for head in (heads[::-1] if backwards % 2 else heads)])

    def complete_read(self, count: int, *_: int) -> object:
        chains = [(head, 0, 0) for head in self.heads]
        done, self.heads = self.heads[:count], self.heads[count:]
        return self.device.complete_read(chains, len(done))

    def complete_twice(self, *_: int) -> object:
        return self.device.complete_each([(head, 1) for head in self.heads[:1] * 2]) if self.heads else None

    def abandon(self, count: int, *_: int) -> object:
        heads = self.device.abandon(count)
        self.heads = [head for head in self.heads if head not in heads]
        return heads

    def call(self, *_: int) -> object:
        return self.device.publish()

    def rearm(self, *_: int) -> object:
        return self.device.notify_enable()

    # A hostile side

    def word(self, area: int, at: int, value: int, size: int) -> object:
        start, length = [*self.memory.ranges[:3], (TABLES, self.device.num * TABLE_MAX * DESC_SIZE)][area % 4]
        view = self.memory.view(Addr(start), length, True)
        size = min(1 << size % 4, length)
        at = at % (length // size) * size
        view[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        return None

    def index(self, area: int, value: int, *_: int) -> object:
        start, _length = self.memory.ranges[1 + area % 2]
        self.memory.view(Addr(start), 4, True)[2:4] = (value & 0xFFFF).to_bytes(2, "little")
        return None

    def latch(self, *_: int) -> object:
        return self.device.latch()


@contextmanager
def every_batch_in_c() -> Iterator[None]:
    former, PlainFirst.PLAIN_FROM = PlainFirst.PLAIN_FROM, 1
    try:
        yield
    finally:
        PlainFirst.PLAIN_FROM = former


def makers(form: str, native: bool) -> Makers:
    """Return the makers of both sides of a ring, which take plain chains in C, or do all in Python."""
    if native:
        return FORMATS[form].driver, FORMATS[form].device
    return PYTHON[form]


def twin(form: str, num: int, event_idx: bool, native: bool) -> Twin:
    memory = Guarded(1 << 15)
    addrs = memory.grant_ring(num, form == "packed")
    for at in (PAYLOAD, OTHER):
        memory.add(at, memoryview(bytearray(range(256)) * (BLOCK // 256)))
    make_driver, make_device = makers(form, native)
    driver = make_driver(memory, num, addrs, event_idx=event_idx, indirect=TABLES, indirect_max=TABLE_MAX)
    device = make_device(memory, num, addrs, event_idx=event_idx, indirect=True)
    assert isinstance(driver, SplitVirtqueue | PackedVirtqueue)
    assert isinstance(device, SplitVringh | PackedVringh)
    assert (type(device) in PYTHON[form]) is not native
    return Twin(memory, driver, device)


def play(form: str, num: int, event_idx: bool, steps: list[Call]) -> tuple[Twin, Twin]:
    """The same calls on a native ring and on one in Python, compared after each."""
    native, python = twin(form, num, event_idx, True), twin(form, num, event_idx, False)
    with every_batch_in_c():
        for name, arguments in steps:
            results = [outcome(partial(getattr(ring, name), *arguments)) for ring in (native, python)]
            assert results[0] == results[1], name
            assert native.memory._whole == python.memory._whole, name
            for ours, theirs in ((native.driver, python.driver), (native.device, python.device)):
                assert state(ours) == state(theirs), name
    native.memory.check()
    return native, python
