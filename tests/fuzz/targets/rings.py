"""Both sides of both ring formats against a peer that writes any words, in Python and in C.

After each input: no access outside the granted memory, a bounded number of accesses, no chain and no buffer lost or
returned twice, and, once the ring is made anew, a transfer through it.
"""

from __future__ import annotations

from collections import deque

from fuzz.source import Source
from rings.errors import LocalRingError, MemoryFault, RemoteRingError
from rings.layout import DESC_SIZE
from rings.memory import Addr
from rings.queue import Virtqueue, Vringh
from rings.testing import Act, Desc, PackedDesc
from support.rigs.packed import PackedRig
from support.rigs.ring import SPOT, Rig, add_chains, tokens
from support.rigs.twin import Call, play

__all__ = ["native_packed", "native_split", "packed_device", "packed_driver", "split_device", "split_driver"]

AnyRig = Rig | PackedRig
NUMS = 1, 2, 4, 8
ODD_NUMS = *NUMS, 3, 5
STEPS_MAX = 48
"""Acts of one peer."""
SIZES = 0, 1, 16, 32, 48, 64, 4096, 4097, 1 << 31, (1 << 32) - 1
CALLS = ("add", "chain", "publish", "get", "enable", "take", "complete", "complete_read", "abandon", "call", "rearm")
HOSTILE_CALLS = ("word", "index", "latch", "oversized", "complete_twice")
BLOCK = 512
"""Bytes of the transfer after an input."""


def _rig(source: Source, packed: bool) -> AnyRig:
    flags = source.byte()
    num = source.pick(ODD_NUMS if packed else NUMS)
    kind = PackedRig if packed else Rig
    return kind(num, event_idx=bool(flags & 1), indirect=bool(flags & 2), memory=1 << 15)


def _areas(rig: AnyRig) -> list[tuple[int, int]]:
    """Return address and bytes of each area that the peer may write: the ring's, its tables, memory for buffers."""
    tables = [(rig.tables, rig.num * 4 * DESC_SIZE)] if rig.tables is not None else []
    return [*rig._areas(), *tables, (SPOT, BLOCK)]


def _write(rig: AnyRig, source: Source, areas: list[tuple[int, int]]) -> None:
    """Write a number into one of the areas."""
    start, length = source.pick(areas)
    source.overwrite(rig.memory.view(Addr(start), length, True))


def _write_desc(rig: AnyRig, source: Source, areas: list[tuple[int, int]]) -> None:
    """Write a descriptor with an address that means something, and make it available."""
    addr = source.pick([SPOT, SPOT + 4095, 0, (1 << 64) - 16, *(start for start, _ in areas)])
    size, flags, place = source.pick(SIZES), source.byte() & 7, source.byte()
    if isinstance(rig, PackedRig):
        ident = source.number(1) % (rig.num + 1)
        rig.raw.offer(PackedDesc(addr, size, flags), ident=ident)
    else:
        rig.raw.write(place % rig.num, Desc(addr, size, flags, source.byte() % (rig.num + 1)))
        rig.raw.offer(place % rig.num)


def _device(data: bytes, packed: bool) -> None:
    source = Source(data)
    rig = _rig(source, packed)
    device = rig.device()
    areas = _areas(rig)
    held: deque[int] = deque()
    latched = False
    for _ in range(STEPS_MAX):
        if not source.left:
            break
        act = source.byte()
        if act < 0xA0:
            (_write if act < 0x50 else _write_desc)(rig, source, areas)
            continue
        try:
            _serve(rig, device, act, held)
        except (RemoteRingError, MemoryFault):
            assert not latched, "a latched queue reads as empty"
            device.latch()
            latched = True
    assert device.state().in_flight == len(held) <= rig.num
    device.complete_each([(head, 0) for head in held])
    device.publish()
    rig.check()
    device.close()
    _transfer(rig)


def _serve(rig: AnyRig, device: Vringh, act: int, held: deque[int]) -> None:
    limit = act & 7
    rig.device_side.log.clear()
    match act >> 3:
        case 0x14 | 0x15 | 0x16 | 0x17 | 0x18:
            chains = device.getdescs(limit)
            assert len(chains) <= limit
            for head, _, writable in chains:
                assert head not in held
                for view in writable:
                    view[:16] = b"\xee" * len(view[:16])
            held += [head for head, _, _ in chains]
        case 0x19:
            heads, _, views = device.getbufs(limit)
            held += heads
            for view in views:
                view[:1] = b"\xee"
        case 0x1A | 0x1B:
            done = [held.popleft() for _ in range(min(limit, len(held)))]
            device.complete_each([(head, limit) for head in done])
        case 0x1C:
            # Chains completed out of order may lie among those taken last, and then none is put back.
            try:
                for head in device.abandon(min(limit, len(held))):
                    held.remove(head)
            except LocalRingError as error:
                assert "was completed" in str(error)  # noqa: PT017
        case 0x1D:
            device.publish()
        case 0x1E:
            device.notify_enable()
        case _:
            device.notify_disable()
    assert len(rig.device_side.log) <= 8 + (limit + 1) * 4 * (2 * rig.num + 2), "too many accesses"


def _driver(data: bytes, packed: bool) -> None:
    source = Source(data)
    rig = _rig(source, packed)
    driver = rig.driver()
    rooms: dict[int, int] = {}
    areas = _areas(rig)
    for _ in range(STEPS_MAX):
        if not source.left:
            break
        act = source.byte()
        rig.driver_side.log.clear()
        match act >> 5:
            case 0 | 1 | 2:
                _write(rig, source, areas)
            case 3:
                if not rooms:
                    rooms |= add_chains(driver, [(act & 1, act >> 1 & 3)] * (act >> 3 & 3))
            case 4:
                driver.publish()
            case 5:
                try:
                    _take_back(driver, act & 7, rooms)
                except RemoteRingError:
                    break
            case 6:
                driver.enable_cb()
            case _:
                driver.enable_cb_delayed() if act & 1 else driver.disable_cb()
        assert len(rig.driver_side.acts(Act.LOAD)) <= 8 + 2 * rig.num, "too many loads"
    assert driver.state().in_flight == len(rooms)
    assert sorted(tokens(driver)) == sorted(rooms)
    rig.check()
    driver.close()
    _transfer(rig)


def _take_back(driver: Virtqueue, limit: int, rooms: dict[int, int]) -> None:
    for token, written in driver.get_each(limit):
        assert written <= rooms.pop(token), "more bytes than the buffer has, or a buffer twice"


def _transfer(rig: AnyRig) -> None:
    """Make both sides anew over the same memory, as after a reset, and move a block each way."""
    for start, length in rig._areas():
        rig.memory.view(Addr(start), length, True)[:] = bytes(length)
    driver, device = rig.driver(memory=rig.memory), rig.device(memory=rig.memory)
    there, back = rig.buffer(BLOCK), rig.buffer(BLOCK)
    rig.memory.view(there, BLOCK, True)[:] = bytes(range(256)) * 2
    for readable, writable in ([((there, BLOCK))], []), ([], [((back, BLOCK))]):
        driver.add(readable, writable, 7)
        driver.publish()
        [(head, sources, targets)] = device.getdescs(8)
        if sources:
            arrived = b"".join(bytes(view) for view in sources)
        for view in targets:
            view[:] = arrived[: len(view)]
        device.complete_each([(head, BLOCK if targets else 0)])
        device.publish()
        assert driver.get_each(8) == [(7, BLOCK if targets else 0)]
    assert rig.memory.view(there, BLOCK) == rig.memory.view(back, BLOCK)
    driver.close()
    device.close()
    rig.memory.check()


def split_device(data: bytes) -> None:
    _device(data, packed=False)


def packed_device(data: bytes) -> None:
    _device(data, packed=True)


def split_driver(data: bytes) -> None:
    _driver(data, packed=False)


def packed_driver(data: bytes) -> None:
    _driver(data, packed=True)


def _native(data: bytes, form: str) -> None:
    """Play the same calls on a ring in C and on one in Python: the same words, results and state after each."""
    source = Source(data)
    num, event_idx = source.pick(NUMS), source.flag()
    steps: list[Call] = []
    while source.left and len(steps) < STEPS_MAX:
        act = source.byte()
        names = HOSTILE_CALLS if act & 3 == 3 else CALLS
        wide = names[act >> 2 & 15] if act >> 2 & 15 < len(names) else names[0]
        steps.append((wide, tuple(source.number(8 if wide == "word" else 1) for _ in range(4))))
    play(form, num, event_idx, steps)


def native_split(data: bytes) -> None:
    _native(data, "split")


def native_packed(data: bytes) -> None:
    _native(data, "packed")
