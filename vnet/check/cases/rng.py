"""Requests of entropy devices (VIRTIO 1.4 section 5.4, hostile row Q01)."""

from __future__ import annotations

from vnet.check.case import Table
from vnet.check.kinds import Request
from vnet.check.split import Buffer
from vnet.check.trial import Trial
from vnet.check.verdicts import Broken, Level

__all__ = ["RNG"]

RNG = Table("rng", "rng")
add = RNG.add
ROOM = 1 << 20


@add("Q01.length", "A device writes at least one byte, and no more than there is room for", "5.4.6.2", Level.MUST)
async def length(trial: Trial) -> str:
    front = await trial.up()
    for size in (1, 2, 63, 4096):
        request = Request([Buffer(front.arena.alloc(size), size, True)], lambda used: "" if used else "no bytes")
        used = await trial.serve(front, trial.main(front), request)
        if not 1 <= used <= size:
            raise Broken(f"wrote {used} bytes into {size}")
    return "for buffers of 1 to 4096 bytes"


@add("Q01.random", "Two requests have different bytes", "5.4.6", Level.SHOULD)
async def differ(trial: Trial) -> str:
    front = await trial.up()
    parts = []
    for _ in range(2):
        addr = front.arena.alloc(64)
        request = Request([Buffer(addr, 64, True)], lambda used: "" if used else "no bytes")
        used = await trial.serve(front, trial.main(front), request)
        parts.append(front.arena.read(addr, used))
    if parts[0] == parts[1]:
        raise Broken(f"both are {parts[0].hex()}")
    return "they have"


@add("Q01.large", "1 MiB of entropy in one request, 16 times at once", "5.4.6")
async def amplification(trial: Trial) -> str:
    front = await trial.up()
    vring = trial.main(front)
    addr = front.arena.alloc(ROOM)
    for _ in range(16):
        vring.ring.submit([Buffer(addr, ROOM, True)])
    vring.kick()
    answers = await front.answers(vring, 16, 4 * front.patience)
    return f"wrote {max(used for _, used in answers)} bytes at most"


@add("Q01.readable", "A request without a writable buffer", "5.4.6.1")
async def readable(trial: Trial) -> str:
    front = await trial.up()
    vring = trial.main(front)
    buffers = [Buffer(front.arena.alloc(64), 64)]
    front.submit(vring, buffers)
    return await trial.refuses(
        front, vring, Request(buffers, lambda used: "" if used else "no bytes"), success=Level.MUST
    )
