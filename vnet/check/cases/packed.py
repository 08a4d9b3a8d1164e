"""Packed rings: honest requests, and invalid entries (VIRTIO 1.4 section 2.8, hostile rows P01 to P06)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from vnet.check.case import Table
from vnet.check.cases.honest import expect_call, readable_unchanged
from vnet.check.front import EVENT_IDX, INDIRECT_DESC, Front, Reaction, Vring
from vnet.check.kinds import Request
from vnet.check.packed import AVAIL, USED
from vnet.check.split import INDIRECT, NEXT, WRITE, Desc
from vnet.check.trial import Trial
from vnet.check.verdicts import Broken, Level, Skipped

__all__ = ["PACKED"]

PACKED = Table("packed")
add = PACKED.add
MUST = Level.MUST


def write(front: Front, vring: Vring, entries: Sequence[tuple[int, int, int, int]]) -> None:
    """Write descriptors of (address, size, id, flags) from position 0 on, the first one last."""
    for position, (addr, size, ident, flags) in reversed(list(enumerate(entries))):
        vring.as_packed.write(position, addr, size, ident, flags)
        front.note(
            f"ring {vring.index}: descriptor {position}: addr {addr:#x}, len {size:#x}, id {ident}, flags {flags:#x}"
        )
    vring.as_packed.next_avail = len(entries)


def entries_of(vring: Vring, request: Request, ident: int = 0) -> list[tuple[int, int, int, int]]:
    """Return the descriptors of an honest request from position 0 on."""
    last = len(request.buffers) - 1
    return [
        (
            one.addr,
            one.size,
            ident,
            (WRITE if one.writable else 0) | (NEXT if at < last else 0) | vring.as_packed.available(at),
        )
        for at, one in enumerate(request.buffers)
    ]


# Honest


async def laps(num: int, trial: Trial) -> str:
    front = await trial.up(packed=True, num=num)
    vring = trial.main(front)
    count = 0
    while vring.as_packed.next_avail < 5 * num:
        request = trial.kind.request(front)
        if len(request.buffers) > num:
            return "no request fits into such a ring"
        await trial.serve(front, vring, request)
        count += 1
    return f"{count} requests in five laps"


for _id, _num in (("PACKED-DEV-3", 16), ("P05.odd", 7), ("P05.large", 1000)):
    add(_id, f"A ring of {_num} descriptors, five laps", "2.8.1", MUST)(partial(laps, _num))


@add("P05.one", "A ring of one descriptor", "2.8.10", MUST)
async def one_descriptor(trial: Trial) -> str:
    front = await trial.up(packed=True, num=1)
    vring = trial.main(front)
    for _ in range(6):
        request = trial.kind.request(front).joined(front)
        if len(request.buffers) > 1:
            raise Skipped(f"a request has at least {len(request.buffers)} buffers")
        await trial.serve(front, vring, request)
    return "six requests"


@add("PACKED-DEV-5", "One used descriptor for each list, and the device skips the rest of it", "2.8.6", MUST)
async def one_used_each(trial: Trial) -> str:
    front = await trial.up(packed=True, num=64)
    vring = trial.main(front)
    requests = [trial.kind.request(front) for _ in range(5)]
    idents = [vring.ring.submit(request.buffers) for request in requests]
    vring.kick()
    answers = await front.answers(vring, 5)
    if sorted(ident for ident, _ in answers) != sorted(idents):
        raise Broken(f"answered ids {[ident for ident, _ in answers]}, and the requests have {idents}")
    lengths = dict(answers)
    for ident, request in zip(idents, requests, strict=True):
        if error := request.judge(lengths[ident]):
            raise Broken(f"one of five failed: {error}")
    return "five answers to five lists"


@add("PACKED-DEV-4", "A used descriptor has both flags equal to the wrap counter", "2.8.1", MUST)
async def used_flags(trial: Trial) -> str:
    front = await trial.up(packed=True)
    vring = trial.main(front)
    await trial.honest(front)
    _, _, flags = vring.as_packed.read(0)
    if flags & (AVAIL | USED) != AVAIL | USED:
        raise Broken(f"the flags are {flags:#x} in the first lap")
    return f"the flags are {flags:#x}"


@add("PACKED-DEV-9", "A notification at the position that the driver names", "2.8.10", MUST)
async def event_position(trial: Trial) -> str:
    front = await trial.up(EVENT_IDX, packed=True, num=64)
    vring = trial.main(front)
    for _ in range(4):
        position = vring.as_packed.next_used
        vring.as_packed.suppress(position % 64 | vring.as_packed.lap(position) << 15, 2)
        await expect_call(trial, front)
    return "four of four came"


@add("PACKED-DEV-10", "Read-only buffers are not written", "2.8.15", MUST)
async def packed_readable_unchanged(trial: Trial) -> str:
    return await readable_unchanged(trial, packed=True)


# Hostile


@add("P01.ahead", "A descriptor of the next lap", "2.8.1")
async def lap_ahead(trial: Trial) -> str:
    front = await trial.up(packed=True)
    vring, request = trial.main(front), trial.kind.request(front)
    entries = [(addr, size, ident, flags & ~AVAIL | USED) for addr, size, ident, flags in entries_of(vring, request)]
    write(front, vring, entries)
    vring.kick()
    # USED differs from AVAIL, but it is not this lap's: the device must not take it for available.
    if await front.reaction(vring) is Reaction.ANSWERED:
        raise Broken("used a descriptor that was not available", Level.MUST)
    return "did not take it for available"


@add("P01.both", "A descriptor with AVAIL and USED set, then an honest one", "2.8.1")
async def both_flags(trial: Trial) -> str:
    front = await trial.up(packed=True)
    vring, request = trial.main(front), trial.kind.request(front)
    vring.as_packed.write(0, request.buffers[0].addr, 16, 0, AVAIL | USED)
    front.note("descriptor 0 with flags 0x8080; kick")
    vring.kick()
    await trio.sleep(0.1)
    if front.hung_up():
        return "closed the connection"
    await trial.honest(front)
    return "served the honest one"


@add("P02", "Two lists with the same buffer id", "2.8.11")
async def same_id(trial: Trial) -> str:
    front = await trial.up(packed=True)
    vring = trial.main(front)
    for _ in range(2):
        request = trial.kind.request(front)
        front.note_request(vring, request.buffers, "; buffer id 5")
        vring.as_packed.submit(request.buffers, 5)
    vring.kick()
    await front.reaction(vring)
    return "closed the connection" if front.hung_up() else "went on"


@add("P02.huge", "A buffer id that is larger than the ring", "2.8.11")
async def huge_id(trial: Trial) -> str:
    front = await trial.up(packed=True)
    vring, request = trial.main(front), trial.kind.request(front)
    front.note_request(vring, request.buffers, "; buffer id 65535")
    vring.as_packed.submit(request.buffers, 0xFFFF)
    vring.kick()
    reaction = await front.reaction(vring)
    return reaction.value


@add("P03", "A descriptor with every flag set", "2.8.14")
async def all_flags(trial: Trial) -> str:
    front = await trial.up(packed=True)
    vring, request = trial.main(front), trial.kind.request(front)
    addr, size = request.buffers[0].addr, request.buffers[0].size
    write(front, vring, [(addr, size, 0, 0xFFFF & ~USED)])
    vring.kick()
    return (await front.reaction(vring)).value


@add("P04", "A position for events that is behind the ring", "2.8.10", MUST)
async def bad_event(trial: Trial) -> str:
    front = await trial.up(EVENT_IDX, packed=True)
    vring = trial.main(front)
    vring.as_packed.suppress(0x7FFF, 2)
    for _ in range(40):
        await trial.honest(front)
    return "served 40 requests"


@add("P06", "A list without an end that fills the ring", "2.8.6")
async def endless(trial: Trial) -> str:
    front = await trial.up(packed=True)
    vring, request = trial.main(front), trial.kind.request(front)
    one = request.buffers[0]
    flags = NEXT | (WRITE if one.writable else 0)
    write(front, vring, [(one.addr, 1, 0, flags | vring.as_packed.available(at)) for at in range(vring.ring.num)])
    vring.kick()
    reaction = await front.reaction(vring)
    return reaction.value


async def bad_buffer(addr: int, size: int, trial: Trial) -> str:
    front = await trial.up(packed=True)
    vring, request = trial.main(front), trial.kind.request(front)
    entries = entries_of(vring, request)
    index = min(1, len(entries) - 1)
    entries[index] = (addr, size or entries[index][1], *entries[index][2:])
    write(front, vring, entries)
    return await trial.refuses(front, vring, request, success=Level.SAFETY)


for _id, _title, _addr, _size in (
    ("R08.packed", "A buffer far from any memory", 1 << 60, 0),
    ("R09.packed", "A buffer whose end wraps around", (1 << 64) - 8, 0),
    ("R12.packed", "A buffer of 2^32 - 1 bytes", 0x4000_0000, 0xFFFF_FFFF),
):
    add(_id, f"{_title}, in a packed ring", "2.8.5")(partial(bad_buffer, _addr, _size))


async def bad_table(size: int, nested: bool, trial: Trial) -> str:
    front = await trial.up(INDIRECT_DESC, packed=True)
    vring, request = trial.main(front), trial.kind.request(front)
    flag = INDIRECT if nested else 0
    data = b"".join(
        Desc(one.addr, one.size, 0, flag | (WRITE if one.writable else 0)).emit() for one in request.buffers
    )
    front.note(f"indirect table: {data.hex()}")
    length = len(data) if nested else size
    write(front, vring, [(front.arena.put(data, 16), length, 0, INDIRECT | vring.as_packed.available(0))])
    # A device ignores every flag but WRITE within a table of a packed ring (section 2.8.7): then it serves the request.
    return await trial.refuses(front, vring, request, success=None if nested else Level.SHOULD)


for _id, _title, _size, _nested in (
    ("I02.packed", "An indirect table within an indirect table", 0, True),
    ("I03.packed", "An indirect table of no bytes", 0, False),
    ("I04.packed", "An indirect table of 24 bytes", 24, False),
):
    add(_id, f"{_title}, in a packed ring", "2.8.7")(partial(bad_table, _size, _nested))
