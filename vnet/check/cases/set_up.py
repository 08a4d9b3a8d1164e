"""Rings that are set up with impossible places and sizes (hostile rows R22 and R23)."""

from __future__ import annotations

import struct
from functools import partial

from drivers.transports.vhost_user.constants import FrontendRequest
from vnet.check.case import Table
from vnet.check.cases.messages import refused
from vnet.check.vhost_user import VHOST_USER, VhostUserTrial, pair
from vnet.check.wire import Answer

__all__ = ["SET_UP"]

SET_UP = Table("split", carrier=VHOST_USER)
add = SET_UP.add
R = FrontendRequest


async def bad_addresses(name: str, trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    await front.accept()
    vring = front.new_ring(trial.kind.main, trial.kind.size)
    arena, ring = front.arena, vring.split
    desc, used, avail = (arena.to_user(one) for one in (ring.desc, ring.device, ring.driver))
    change = {
        "unaligned": (desc + 1, used + 1, avail + 1),
        "overlap": (desc, desc, desc),
        "outside": (arena.user + arena.size, arena.user + arena.size, arena.user + arena.size),
        "end": (arena.user + arena.size - 16, used, avail),
        "zero": (0, 0, 0),
    }
    await front.must(R.SET_VRING_NUM, pair(vring.index, ring.num))
    await front.must(R.SET_VRING_BASE, pair(vring.index, 0))
    body = struct.pack("<IIQQQQ", vring.index, 0, *change[name], 0)
    answer = await front.tell(R.SET_VRING_ADDR, body)
    if answer is not Answer.DONE:
        return answer.value
    for request, fd in (
        (R.SET_VRING_CALL, vring.call_fd),
        (R.SET_VRING_ERR, vring.err_fd),
        (R.SET_VRING_KICK, vring.kick_fd),
    ):
        if (answer := await front.tell(request, struct.pack("<Q", vring.index), [fd])) is not Answer.DONE:
            return f"{answer.value} at {request.name}"
    if (answer := await front.tell(R.SET_VRING_ENABLE, pair(vring.index, 1))) is not Answer.DONE:
        return f"{answer.value} at SET_VRING_ENABLE"
    vring.kick()
    return (await front.reaction(vring, 0.2)).value


for _name, _title in {
    "unaligned": "unaligned areas", "overlap": "areas that overlap", "outside": "areas outside of the memory",
    "end": "a table that ends outside of the memory", "zero": "areas at 0",
}.items():  # fmt: skip
    add(f"R22.{_name}", f"SET_VRING_ADDR with {_title}", "vhost-user: SET_VRING_ADDR")(partial(bad_addresses, _name))


async def bad_num(num: int, trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    await front.accept()
    return await refused(front, R.SET_VRING_NUM, pair(trial.kind.main, num))


for _num in (0, 3, 65536, 0xFFFF_FFFF):
    add(f"R23.{_num}", f"SET_VRING_NUM of {_num} descriptors", "2.7")(partial(bad_num, _num))
