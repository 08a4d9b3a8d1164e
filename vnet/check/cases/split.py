"""Split rings with invalid entries (hostile rows R01 to R21)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs
import trio
import trio.lowlevel

from vnet.check.case import Table
from vnet.check.front import EVENT_IDX, Front, Reaction, Vring
from vnet.check.kinds import Request
from vnet.check.split import INDIRECT, NEXT, WRITE, Buffer, Desc, linked
from vnet.check.trial import Trial
from vnet.check.verdicts import Broken, Level, Skipped

__all__ = ["SPLIT", "at", "descs"]

SPLIT = Table("split")
add = SPLIT.add
SHOULD = Level.SHOULD
DESC = "2.7.5"
TOP = 1 << 64


def at(front: Front, vring: Vring, *descs: Desc, head: int = 0) -> None:
    """Write descriptors into the table from 0 on, and make ``head`` available."""
    for index, desc in enumerate(descs):
        vring.split.write(index, desc)
        front.note(f"ring {vring.index}: descriptor {index} = {desc.emit().hex()} ({_read(desc)})")
    vring.split.place(len(descs))
    vring.split.offer(head)
    front.note(f"ring {vring.index}: available entry {vring.split.avail_idx - 1 & 0xFFFF} = {head}; kick")


def _read(desc: Desc) -> str:
    names = [name for bit, name in ((NEXT, "NEXT"), (WRITE, "WRITE"), (INDIRECT, "INDIRECT")) if desc.flags & bit]
    return f"addr {desc.addr % TOP:#x}, len {desc.size:#x}, flags {'|'.join(names) or 0}, next {desc.next}"


def descs(request: Request) -> list[Desc]:
    """Return the descriptors of an honest request in the places from 0 on."""
    return linked(request.buffers, 0, 1 << 16)


# Links


async def loop(nexts: tuple[int, ...], trial: Trial) -> str:
    """Offer a chain of one descriptor for each of ``nexts``, its next one."""
    front = await trial.up()
    vring, request = trial.main(front), trial.kind.request(front)
    first = descs(request)[0]
    at(front, vring, *(attrs.evolve(first, flags=first.flags | NEXT, next=index) for index in nexts))
    return await trial.refuses(front, vring, request)


for _id, _title, _nexts in (
    ("R01.self", "A descriptor whose next is itself", (0,)),
    ("R01.two", "Two descriptors that follow each other", (1, 0)),
    ("R01.behind", "A loop that does not include the head", (1, 2, 1)),
):
    add(_id, _title, "2.7.5.2")(partial(loop, _nexts))


@add("R02", "A chain that is longer than the queue: all descriptors, then the first again", "2.7.5.2")
async def too_long(trial: Trial) -> str:
    front = await trial.up()
    vring, request = trial.main(front), trial.kind.request(front)
    num, first = vring.ring.num, descs(request)[0]
    flags = first.flags & WRITE | NEXT
    at(front, vring, *(Desc(first.addr, 1, flags, (index + 1) % num) for index in range(num)))
    return await trial.refuses(front, vring, request)


@add("R03", "A next behind the end of the table", "2.7.5.2")
async def next_out_of_range(trial: Trial) -> str:
    front = await trial.up()
    vring, request = trial.main(front), trial.kind.request(front)
    first = descs(request)[0]
    at(front, vring, Desc(first.addr, first.size, first.flags | NEXT, vring.ring.num))
    return await trial.refuses(front, vring, request)


async def bad_head(head: int, trial: Trial) -> str:
    front = await trial.up()
    vring = trial.main(front)
    vring.split.offer(head or vring.ring.num)
    front.note(f"ring {vring.index}: available entry 0 = {head or vring.ring.num} in a ring of {vring.ring.num}; kick")
    return await trial.refuses(front, vring)


add("R04.size", "An available entry that is the queue size", "2.7.6")(partial(bad_head, 0))
add("R04.max", "An available entry of 65535", "2.7.6")(partial(bad_head, 0xFFFF))


# Indices


@add("R05", "An available index that is 1000 ahead", "2.7.6")
async def index_ahead(trial: Trial) -> str:
    front = await trial.up()
    vring, request = trial.main(front), trial.kind.request(front)
    front.note_request(vring, request.buffers, "; available index = 1000")
    head = vring.split.chain(request.buffers)
    vring.split.set_entry(0, head)
    vring.split.avail_idx = 1000
    return await _no_more_answers(trial, front, vring, 1)


@add("R06", "An available index that moves backwards", "2.7.6")
async def index_backwards(trial: Trial) -> str:
    front = await trial.up()
    await trial.honest(front)
    vring = trial.main(front)
    vring.split.avail_idx -= 1
    front.note(f"ring {vring.index}: available index = {vring.split.avail_idx} after 1; kick")
    return await _no_more_answers(trial, front, vring, 0)


async def _no_more_answers(trial: Trial, front: Front, vring: Vring, most: int) -> str:
    """Judge the reaction to an index that lies: an error, or silence with a sign of it; never thousands of answers."""
    before = vring.split.used_idx
    vring.kick()
    await front.reaction(vring)
    await trio.sleep(0.1)
    reaction = await front.reaction(vring, 0.05)
    count = vring.split.used_idx - before & 0xFFFF
    if count > vring.ring.num:
        raise Broken(f"used {count} buffers of a ring of {vring.ring.num}", SHOULD)
    if front.hung_up():
        return f"closed the connection after {count} answers"
    if vring.errors() or reaction is Reaction.ERROR:
        return f"reported an error of the queue after {count} answers"
    if count > most:
        raise Broken(f"used {count} buffers, and {most} were available", SHOULD)
    raise Broken(f"went on without a word after {count} answers: {front.signs}, no end", SHOULD)


@add("R07", "The same head in every entry of the ring", "2.7.13.3")
async def same_head(trial: Trial) -> str:
    front = await trial.up()
    vring, request = trial.main(front), trial.kind.request(front)
    front.note_request(vring, request.buffers, f"; its head in all {vring.ring.num} entries; kick")
    head = vring.split.chain(request.buffers)
    vring.split.offer(*[head] * vring.ring.num)
    vring.kick()
    await front.reaction(vring)
    await trio.sleep(0.1)
    count = vring.split.used_idx
    if count > vring.ring.num:
        raise Broken(f"used {count} buffers of a ring of {vring.ring.num}")
    return f"used it {count} times" + (", and closed the connection" if front.hung_up() else "")


# Addresses and lengths


async def bad_buffer(change: Callable[[Desc, int], Desc], trial: Trial) -> str:
    """Change the data descriptor of a request, which is no header and no status; ``change`` gets the memory's end."""
    front = await trial.up()
    vring, request = trial.main(front), trial.kind.request(front)
    chain = descs(request)
    index = min(1, len(chain) - 1)
    chain[index] = change(chain[index], front.arena.end)
    at(front, vring, *chain)
    return await trial.refuses(front, vring, request, success=Level.SAFETY)


for _id, _title, _change in (
    ("R08.null", "A buffer at address 0", lambda one, end: attrs.evolve(one, addr=0)),
    ("R08.behind", "A buffer behind the memory", lambda one, end: attrs.evolve(one, addr=end)),
    ("R08.far", "A buffer far from any memory", lambda one, end: attrs.evolve(one, addr=1 << 60)),
    ("R09", "A buffer whose end wraps around", lambda one, end: attrs.evolve(one, addr=TOP - 8)),
    ("R10.end", "A buffer that straddles the end of the memory", lambda one, end: attrs.evolve(one, addr=end - 8)),
    ("R12.one", "A buffer of 2^32 - 1 bytes", lambda one, end: attrs.evolve(one, size=0xFFFF_FFFF)),
):
    add(_id, _title, DESC)(partial(bad_buffer, _change))


@add("R12.sum", "Buffers of more than 2^32 bytes together", "2.7.5.2")
async def too_much(trial: Trial) -> str:
    front = await trial.up()
    vring, request = trial.main(front), trial.kind.request(front)
    chain = descs(request)
    index = 1 if len(chain) > 1 else 0
    huge = [Desc(front.arena.base, 0x8000_0000, chain[index].flags | NEXT, index + 1 + step) for step in range(3)]
    rest = [Desc(one.addr, one.size, one.flags, step) for step, one in enumerate(chain[index:], index + 4)]
    rest[-1] = Desc(rest[-1].addr, rest[-1].size, rest[-1].flags & ~NEXT)
    at(front, vring, *chain[:index], *huge, *rest)
    return await trial.refuses(front, vring, request, success=Level.SAFETY)


@add("R10.split", "A memory of two adjoining regions, and a buffer that straddles both", "2.7.5", Level.SHOULD)
async def straddles(trial: Trial) -> str:
    front = await trial.negotiated()
    arena = front.arena
    await front.accept(2)
    await trial.start(front)
    vring, request = trial.main(front), trial.kind.request(front)
    edge = arena.base + arena.size // 2
    # One buffer of the request moves to the edge: its first half lies in one region, its second half in the other.
    index = min(1, len(request.buffers) - 1)
    moved = request.buffers[index]
    place = edge - moved.size // 2
    arena.write(place, arena.read(moved.addr, moved.size))
    chain = descs(request)
    chain[index] = Desc(place, moved.size, chain[index].flags, chain[index].next)
    at(front, vring, *chain)
    vring.kick()
    _, used = await front.answer(vring)
    if moved.writable:
        arena.write(moved.addr, arena.read(place, moved.size))
    if error := request.judge(used):
        raise Broken(f"failed: {error}")
    return "served it"


@add("R11.none", "A request with an empty buffer among the others", "2.7.5", Level.POLICY)
async def empty_buffer(trial: Trial) -> str:
    front = await trial.up()
    vring, request = trial.main(front), trial.kind.request(front)
    buffers = [
        *request.readable,
        *([Buffer(front.arena.alloc(1), 0, True)] if request.writable else []),
        *request.writable,
    ]
    if not request.writable:
        buffers.append(Buffer(front.arena.alloc(1), 0))
    await trial.serve(front, vring, Request(buffers, request.judge))
    return "served it"


@add("R11.zero", "A request of one empty buffer", "2.7.5")
async def only_empty(trial: Trial) -> str:
    front = await trial.up()
    vring = trial.main(front)
    at(front, vring, Desc(front.arena.alloc(64), 0, WRITE))
    return await trial.refuses(front, vring)


@add("R13", "A readable buffer behind a writable one", "2.7.4.2")
async def wrong_order(trial: Trial) -> str:
    front = await trial.up()
    vring, request = trial.main(front), trial.kind.request(front)
    chain = descs(request)
    last = chain[-1]
    chain[-1] = Desc(last.addr, last.size, last.flags | NEXT, len(chain))
    if not request.writable:
        chain.append(Desc(front.arena.alloc(64), 64, WRITE | NEXT, len(chain) + 1))
    at(front, vring, *chain, Desc(front.arena.alloc(64), 64, 0, 0))
    return await trial.refuses(front, vring, request)


@add("R14", "A request all of whose buffers are read-only", "2.7.5.1")
async def all_read_only(trial: Trial) -> str:
    front = await trial.up()
    vring, request = trial.main(front), trial.kind.request(front)
    before = [front.arena.read(one.addr, one.size) for one in request.writable]
    at(front, vring, *(Desc(one.addr, one.size, one.flags & ~WRITE, one.next) for one in descs(request)))
    vring.kick()
    reaction = await front.reaction(vring)
    if before != [front.arena.read(one.addr, one.size) for one in request.writable]:
        raise Broken("wrote into a read-only buffer", Level.MUST)
    if reaction is Reaction.SILENT:
        return await trial.refuses(front, vring, request, success=None)
    return reaction.value


@add("R16", "A descriptor that changes while the device handles it, 300 times", "2.7.5")
async def changing(trial: Trial) -> str:
    front = await trial.up()
    vring = trial.main(front)
    request = trial.kind.request(front)
    chain = descs(request)
    index = min(1, len(chain) - 1)
    good, bad = chain[index], Desc(front.arena.end - 8, 0xFFFF_F000, chain[index].flags, chain[index].next)
    front.note(f"descriptor {index} alternates between {good.emit().hex()} and {bad.emit().hex()}")
    for place, one in enumerate(chain):
        vring.split.write(place, one)
    for _ in range(300):
        vring.split.offer(0)
        vring.kick()
        for _ in range(20):
            vring.split.write(index, bad)
            vring.split.write(index, good)
        if front.hung_up():
            return "closed the connection"
        await trio.lowlevel.checkpoint()
    return f"used {vring.split.used_idx} of them"


# The device's own words


@add("R18", "The driver overwrites the used index and the used elements", "2.7.8.1")
async def used_overwritten(trial: Trial) -> str:
    front = await trial.up()
    await trial.honest(front)
    vring = trial.main(front)
    vring.split.used_idx = 0x8000
    vring.split.used_flags = 0xFFFF
    front.note("used index = 0x8000, used flags = 0xffff, then an honest request")
    request = trial.kind.request(front)
    vring.split.submit(request.buffers)
    vring.kick()
    await trio.sleep(0.1)
    if front.hung_up():
        return "closed the connection"
    if vring.split.used_idx == 2:
        return "keeps its own index"
    if vring.split.used_idx == 0x8000:
        raise Broken("no longer answers", SHOULD)
    raise Broken(f"took the driver's value for its own: the used index is {vring.split.used_idx:#x}", SHOULD)


@add("R19", "Every kind of used_event and reserved flags, with a request each", "2.7.7")
async def poisoned_events(trial: Trial) -> str:
    front = await trial.up(EVENT_IDX)
    vring = trial.main(front)
    for event in (0x7FFF, 0x8000, 0xFFFF, 1, 0xFFF0):
        vring.split.used_event = event
        vring.split.avail_flags = 0xFFFE
        vring.split.avail_event = event
        await trial.honest(front)
    return "served all of them"


async def wraps(num: int, trial: Trial) -> str:
    """Run the indices over 65535: they begin shortly before it."""
    start = 0xFFF8
    front = await trial.up(num=num, base=start)
    vring = trial.main(front)
    for _ in range(20):
        request = trial.kind.request(front).joined(front)
        if len(request.buffers) > num:
            raise Skipped(f"a request has at least {len(request.buffers)} buffers")
        await trial.serve(front, vring, request)
    if vring.split.used_idx != start + 20 & 0xFFFF:
        raise Broken(f"the used index is {vring.split.used_idx} after 20 requests from {start}", Level.MUST)
    return "20 requests over the wrap"


for _num in (1, 2, 4, 256, 1024):
    add(f"R20.{_num}", f"A ring of {_num} descriptors whose indices wrap at 65536", "2.7.6", Level.MUST)(
        partial(wraps, _num)
    )


@add("R21", "10,000 kicks of an empty ring", "2.7.10.2", Level.MUST)
async def kick_storm(trial: Trial) -> str:
    front = await trial.up()
    vring = trial.main(front)
    front.note("10,000 kicks")
    for count in range(10_000):
        vring.kick()
        if not count % 500:
            await trio.lowlevel.checkpoint()
    await trial.honest(front)
    if vring.ring.pending:
        raise Broken("used a buffer that was never available")
    return "served the next request"
