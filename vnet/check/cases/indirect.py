"""Invalid indirect tables of split rings (hostile rows I01 to I06)."""

from __future__ import annotations

from functools import partial

from vnet.check.case import Table
from vnet.check.cases.split import at, descs
from vnet.check.front import INDIRECT_DESC, Front
from vnet.check.split import INDIRECT, NEXT, WRITE, Desc
from vnet.check.trial import Trial

__all__ = ["INDIRECT_TABLES"]

INDIRECT_TABLES = Table("split")
add = INDIRECT_TABLES.add


def _table(front: Front, *chain: Desc) -> tuple[int, int]:
    data = b"".join(one.emit() for one in chain)
    front.note(f"indirect table: {data.hex()}")
    return front.arena.put(data, 16), len(data)


@add("I01", "An indirect table that was not negotiated", "2.7.5.3.1")
async def table_without_feature(trial: Trial) -> str:
    front = await trial.up()
    vring, request = trial.main(front), trial.kind.request(front)
    addr, size = _table(front, *descs(request))
    at(front, vring, Desc(addr, size, INDIRECT))
    return await trial.refuses(front, vring, request)


@add("I02.nested", "An indirect table within an indirect table", "2.7.5.3.1")
async def nested(trial: Trial) -> str:
    front = await trial.up(INDIRECT_DESC)
    vring, request = trial.main(front), trial.kind.request(front)
    inner = _table(front, *descs(request))
    outer = _table(front, Desc(*inner, INDIRECT))
    at(front, vring, Desc(*outer, INDIRECT))
    return await trial.refuses(front, vring, request)


@add("I02.next", "A descriptor that names an indirect table and a next descriptor", "2.7.5.3.1")
async def table_and_next(trial: Trial) -> str:
    front = await trial.up(INDIRECT_DESC)
    vring, request = trial.main(front), trial.kind.request(front)
    addr, size = _table(front, *descs(request))
    at(front, vring, Desc(addr, size, INDIRECT | NEXT, 1), Desc(front.arena.alloc(64), 64, WRITE))
    return await trial.refuses(front, vring, request)


async def table_of(size: int, trial: Trial) -> str:
    front = await trial.up(INDIRECT_DESC)
    vring, request = trial.main(front), trial.kind.request(front)
    addr, _ = _table(front, *descs(request))
    at(front, vring, Desc(addr, size, INDIRECT))
    return await trial.refuses(front, vring, request)


for _id, _size in (("I03", 0), ("I04.odd", 24), ("I04.huge", 0xFFFF_FFF0), ("I04.max", 0xFFFF_FFFF)):
    add(_id, f"An indirect table of {_size:#x} bytes", "2.7.5.3.1")(partial(table_of, _size))


async def table_next(index: int, trial: Trial) -> str:
    """Offer an indirect table of two descriptors, the first of which names ``index`` as its next one."""
    front = await trial.up(INDIRECT_DESC)
    vring, request = trial.main(front), trial.kind.request(front)
    first = descs(request)[0]
    addr, size = _table(front, Desc(first.addr, first.size, first.flags | NEXT, index), Desc(first.addr, 1))
    at(front, vring, Desc(addr, size, INDIRECT))
    return await trial.refuses(front, vring, request)


add("I05.loop", "An indirect table with a loop", "2.7.5.3.1")(partial(table_next, 0))
add("I05.next", "An indirect table whose next leads out of it", "2.7.5.3.1")(partial(table_next, 2))


@add("I06", "An indirect table outside of the memory", "2.7.5.3.1")
async def table_outside(trial: Trial) -> str:
    front = await trial.up(INDIRECT_DESC)
    vring = trial.main(front)
    at(front, vring, Desc(front.arena.end - 16, 64, INDIRECT))
    return await trial.refuses(front, vring)
