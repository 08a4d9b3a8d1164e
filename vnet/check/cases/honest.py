"""Honest requests of every legal form: the device must serve them (VIRTIO 1.4 sections 2.1, 2.2, 2.5, 2.7 and 6)."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable

import trio

from drivers.transports.vhost_user.constants import FrontendRequest, ProtocolFeature
from vnet.check.case import Table
from vnet.check.front import EVENT_IDX, INDIRECT_DESC, VERSION_1, Front, Reaction, Vring
from vnet.check.kinds import Request
from vnet.check.split import WRITE, Desc
from vnet.check.trial import Trial
from vnet.check.verdicts import Broken, Level, Skipped
from vnet.check.vhost_user import VHOST_USER, VhostUserTrial, pair
from vnet.check.wire import Answer

__all__ = ["HONEST", "expect_call", "readable_unchanged"]

HONEST = Table("honest")
add = HONEST.add
R, P = FrontendRequest, ProtocolFeature
MUST, SHOULD = Level.MUST, Level.SHOULD


# Status and features


@add("RFB-DEV-1", "VERSION_1 is offered", "6.2", MUST)
async def offers_version_1(trial: Trial) -> str:
    front = await trial.connect()
    offered = await front.read_features()
    if not offered >> VERSION_1 & 1:
        raise Broken(f"offers {offered:#x}, without bit 32")
    return f"offers {offered:#x}"


@add("RFB-DEV-7", "ADMIN_VQ is not offered over a transport that has none", "6", MUST, carrier=VHOST_USER)
async def offers_no_admin(trial: Trial) -> str:
    front = await trial.connect()
    offered = await front.read_features()
    if offered >> 41 & 1:
        raise Broken(f"offers {offered:#x}, with bit 41")
    return f"offers {offered:#x}"


@add("FEAT-DEV-2", "A device works with every subset of the ring features that it offers", "2.2.2", SHOULD)
async def subsets(trial: Trial) -> str:
    all_offered = await (await trial.connect()).read_features()
    offered = [bit for bit in (INDIRECT_DESC, EVENT_IDX) if all_offered >> bit & 1]
    chosen = [[bit for at, bit in enumerate(offered) if number >> at & 1] for number in range(1 << len(offered))]
    for features in chosen:
        trial.close()
        await trial.honest(await trial.up(*features))
    return f"{len(chosen)} subsets"


@add("FEAT-DEV-5", "Features that were accepted once are accepted after a reset", "2.2.2", SHOULD)
async def features_again(trial: Trial) -> str:
    front = await trial.up()
    for _ in range(3):
        await trial.honest(front)
        await front.set_status(0)
        await front.accept()
        await trial.start(front)
    await trial.honest(front)
    return "three times"


@add("FEAT-DEV-3", "Features that were not offered are not accepted", "2.2.2", MUST, carrier=VHOST_USER)
async def features_not_offered(trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    if not front.acks and not front.has(P.STATUS):
        raise Skipped("neither REPLY_ACK nor STATUS is offered: a refusal can't be seen")
    extra = 1 << 60
    answer = await front.tell(R.SET_FEATURES, struct.pack("<Q", front.features | extra))
    if answer is not Answer.DONE:
        return answer.value
    if not front.has(P.STATUS):
        raise Broken(f"acknowledged SET_FEATURES {front.features | extra:#x} with success", SHOULD)
    await front.set_status(11)
    status = await front.status()
    if status is not None and status & 8:
        raise Broken("keeps FEATURES_OK set")
    return "clears FEATURES_OK"


@add("STATUS-DEV-1", "No buffer is consumed before DRIVER_OK", "2.1.2", MUST)
async def not_before_driver_ok(trial: Trial) -> str:
    front = await trial.negotiated()
    await front.accept()
    await front.set_status(11)
    for index in trial.kind.rings:
        await front.start(front.new_ring(index, trial.kind.size))
    return await _idle_until(trial, front, "DRIVER_OK", front.driver_ok)


@add(
    "V12.unstarted", "No buffer is consumed before SET_VRING_KICK", "vhost-user: Ring states", MUST, carrier=VHOST_USER
)
async def not_before_kick(trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    await front.accept()
    for index in trial.kind.rings:
        await front.set_up(front.new_ring(index, trial.kind.size))

    async def start() -> None:
        for vring in front.rings.values():
            await front.give_kick(vring)
            await front.enable(vring)
        await front.driver_ok()

    return await _idle_until(trial, front, "SET_VRING_KICK", start)


async def _idle_until(trial: Trial, front: Front, event: str, go: Callable[[], Awaitable[None]]) -> str:
    """Make a request available before the event, which ``go`` makes happen, and kick again after it."""
    vring, request = trial.main(front), trial.kind.request(front)
    front.submit(vring, request.buffers)
    vring.kick()
    if await front.reaction(vring, 0.2) is Reaction.ANSWERED:
        raise Broken(f"used a buffer before {event}")
    await go()
    trial.kind.prepare(front)
    vring.kick()
    _, used = await front.answer(vring)
    if error := request.judge(used):
        raise Broken(f"failed after {event}: {error}")
    return f"answered after {event}"


@add("RESET-DEV-1", "The status is 0 after a reset", "2.4.1", MUST)
async def reset_status(trial: Trial) -> str:
    front = await trial.up()
    await trial.honest(front)
    await front.set_status(0)
    if status := await front.status():
        raise Broken(f"it is {status:#x}")
    return "it is"


@add("RESET-DEV-3", "No queue is touched after a reset", "2.4.1", MUST)
async def reset_ring(trial: Trial) -> str:
    front = await trial.up()
    await trial.honest(front)
    await front.set_status(0)
    await trial.stays_idle(front, "of a ring that is stopped", 0.15)
    return "left it alone"


@add(
    "V12.stopped",
    "A ring that GET_VRING_BASE stopped is not touched",
    "vhost-user: Ring states",
    MUST,
    carrier=VHOST_USER,
)
async def stopped_ring(trial: VhostUserTrial) -> str:
    front = await trial.up()
    await trial.honest(front)
    vring = trial.main(front)
    reply = await front.ask(R.GET_VRING_BASE, pair(vring.index, 0))
    if reply != pair(vring.index, 1):
        raise Broken(f"replied to GET_VRING_BASE after one request with {reply.hex()}")
    await trial.stays_idle(front, "of a ring that is stopped", 0.15)
    return "left it alone"


@add(
    "V12.restart",
    "A ring that is stopped and started again goes on where it was",
    "vhost-user: Ring states",
    MUST,
    carrier=VHOST_USER,
)
async def restarted_ring(trial: VhostUserTrial) -> str:
    front = await trial.up()
    vring = trial.main(front)
    for count in range(1, 4):
        await trial.honest(front)
        base = int.from_bytes((await front.ask(R.GET_VRING_BASE, pair(vring.index, 0)))[4:], "little")
        if base != count:
            raise Broken(f"replied to GET_VRING_BASE after {count} requests with {base}")
        await front.start(vring, base)
    await trial.honest(front)
    return "three times"


@add("CFG-DEV-1", "The configuration is readable before features are chosen, at once and byte by byte", "2.5.2", MUST)
async def config_readable(trial: Trial) -> str:
    front = await trial.negotiated()
    whole = await front.config(0, 8)
    parts = b"".join([await front.config_at(at, 1) for at in range(8)])
    if whole != parts:
        raise Broken(f"8 bytes at once are {whole.hex()}, one by one {parts.hex()}")
    return f"begins with {whole.hex()}"


# Framing


@add("SPLIT-DEV-1.cut", "A request that is cut into pieces of 7 bytes", "2.7.4.1", MUST)
async def cut(trial: Trial) -> str:
    front = await trial.up(num=256)
    request = trial.kind.request(front).cut(7)
    await trial.serve(front, trial.main(front), request)
    return f"served {len(request.buffers)} descriptors"


@add("SPLIT-DEV-1.joined", "A request in as few descriptors as possible", "2.7.4.1", MUST)
async def joined(trial: Trial) -> str:
    front = await trial.up()
    request = trial.kind.request(front).joined(front)
    await trial.serve(front, trial.main(front), request)
    return f"served {len(request.buffers)} descriptors"


@add("SPLIT-DEV-2", "Read-only buffers are not written", "2.7.5.1", MUST)
async def split_readable_unchanged(trial: Trial) -> str:
    return await readable_unchanged(trial, packed=False)


async def readable_unchanged(trial: Trial, *, packed: bool) -> str:
    """Make an honest request. Raises Broken if one of its read-only buffers changes."""
    front = await trial.up(packed=packed)
    request = trial.kind.request(front)
    before = [front.arena.read(one.addr, one.size) for one in request.readable]
    await trial.serve(front, trial.main(front), request)
    if before != [front.arena.read(one.addr, one.size) for one in request.readable]:
        raise Broken("a read-only buffer changed")
    return f"{len(before)} buffers are as before"


@add("SPLIT-DEV-4", "The descriptor table is not written", "2.7.5.1", MUST)
async def table_unchanged(trial: Trial) -> str:
    front = await trial.up()
    vring, request = trial.main(front), trial.kind.request(front)
    head = vring.split.chain(request.buffers)
    before = front.arena.read(vring.ring.desc, 16 * vring.ring.num)
    vring.split.offer(head)
    vring.kick()
    await front.answer(vring)
    if before != front.arena.read(vring.ring.desc, 16 * vring.ring.num):
        raise Broken("a descriptor changed")
    return "it is as before"


@add("SPLIT-DEV-5", "The WRITE flag of a descriptor that names a table is ignored", "2.7.5.3.2", MUST)
async def write_flag_of_table(trial: Trial) -> str:
    return await _served_in_table(trial, WRITE)


@add("SPLIT-DEV-6.table", "A request in an indirect table", "2.7.5.3.2", MUST)
async def in_table(trial: Trial) -> str:
    return await _served_in_table(trial, 0)


async def _served_in_table(trial: Trial, flags: int) -> str:
    front = await trial.up(INDIRECT_DESC)
    vring, request = trial.main(front), trial.kind.request(front)
    front.note_request(vring, request.buffers, f"; in an indirect table, flags of its descriptor {4 | flags}")
    vring.split.offer(vring.split.table(request.buffers, flags))
    return await _served(front, vring, request)


async def _served(front: Front, vring: Vring, request: Request) -> str:
    """Kick, and wait until a request that is available succeeds. Raises Broken, HungUp."""
    vring.kick()
    _, used = await front.answer(vring)
    if error := request.judge(used):
        raise Broken(f"failed: {error}")
    return "served it"


@add("SPLIT-DEV-6.direct", "Direct descriptors, then one that names a table", "2.7.5.3.2", MUST)
async def direct_then_table(trial: Trial) -> str:
    front = await trial.up(INDIRECT_DESC)
    vring, request = trial.main(front), trial.kind.request(front)
    first, rest = request.buffers[0], request.buffers[1:]
    ring = vring.split
    data_head = ring.place(1)
    table = ring.table(rest)
    ring.write(data_head, Desc(first.addr, first.size, 1 | (WRITE if first.writable else 0), table))
    front.note_request(vring, request.buffers, "; all but the first in an indirect table")
    ring.offer(data_head)
    return await _served(front, vring, request)


# Notifications


@add("SPLIT-DEV-7", "used_event means nothing without EVENT_IDX", "2.7.7.2", MUST)
async def used_event_ignored(trial: Trial) -> str:
    front = await trial.up()
    trial.main(front).split.used_event = 0x4000
    await expect_call(trial, front)
    return "notified"


@add("SPLIT-DEV-8", "No notification while the driver's flags are 1", "2.7.7.2", SHOULD)
async def flags_suppress(trial: Trial) -> str:
    front = await trial.up()
    vring = trial.main(front)
    await trial.honest(front)
    await trio.sleep(0.02)
    vring.split.avail_flags = 1
    return await _expect_no_call(trial, front)


@add("SPLIT-DEV-9", "A notification for each request while the driver's flags are 0", "2.7.7.2", MUST)
async def flags_allow(trial: Trial) -> str:
    front = await trial.up()
    for _ in range(5):
        await expect_call(trial, front)
    return "five of five came"


async def expect_call(trial: Trial, front: Front) -> None:
    """Make an honest request, and wait for its notification. Raises Broken if none comes."""
    vring = trial.main(front)
    vring.calls()
    await trial.honest(front)
    with trio.move_on_after(0.5):
        while not vring.calls():  # noqa: ASYNC110  a driver would wait for the eventfd; polling is as good
            await trio.sleep(0.002)
        return
    raise Broken("used a buffer and sent no notification within 0.5 s")


async def _expect_no_call(trial: Trial, front: Front) -> str:
    """Make an honest request. Raises Broken if a notification comes."""
    vring = trial.main(front)
    vring.calls()
    await trial.honest(front)
    await trio.sleep(0.05)
    if count := vring.calls():
        raise Broken(f"notified {count} times")
    return "none came"


@add("SPLIT-DEV-10", "The driver's flags mean nothing with EVENT_IDX", "2.7.7.2", MUST)
async def flags_ignored(trial: Trial) -> str:
    front = await trial.up(EVENT_IDX)
    vring = trial.main(front)
    vring.split.avail_flags = 1
    vring.split.used_event = 0
    await expect_call(trial, front)
    return "notified"


@add("SPLIT-DEV-11", "A notification when the used index passes used_event", "2.7.7.2", MUST)
async def used_event_obeyed(trial: Trial) -> str:
    front = await trial.up(EVENT_IDX)
    vring = trial.main(front)
    for _ in range(5):
        vring.split.used_event = vring.split.used_idx
        await expect_call(trial, front)
    return "five of five came"


@add("SPLIT-DEV-12", "No notification while the used index does not pass used_event", "2.7.7.2", SHOULD)
async def used_event_suppresses(trial: Trial) -> str:
    front = await trial.up(EVENT_IDX)
    vring = trial.main(front)
    vring.split.used_event = vring.split.used_idx
    await trial.honest(front)
    await trio.sleep(0.02)
    vring.split.used_event = vring.split.used_idx + 0x4000
    return await _expect_no_call(trial, front)


@add("SPLIT-DEV-16", "The used flags are 0 or 1", "2.7.10.2", MUST)
async def used_flags(trial: Trial) -> str:
    front = await trial.up()
    await trial.honest(front)
    flags = trial.main(front).split.used_flags
    if flags not in (0, 1):
        raise Broken(f"the used flags are {flags:#x}")
    return f"they are {flags}"


@add("SPLIT-DEV-17", "The used flags are 0 with EVENT_IDX", "2.7.10.2", MUST)
async def used_flags_event(trial: Trial) -> str:
    front = await trial.up(EVENT_IDX)
    await trial.honest(front)
    flags = trial.main(front).split.used_flags
    if flags:
        raise Broken(f"the used flags are {flags:#x}")
    return "they are 0"


@add("SPLIT-DEV-18", "Kicks without a request are tolerated", "2.7.10.2", MUST)
async def spurious_kicks(trial: Trial) -> str:
    front = await trial.up()
    vring = trial.main(front)
    for _ in range(10):
        vring.kick()
        await trio.sleep(0.002)
    await trial.honest(front)
    return "served the next request"


# Used ring


@add("SPLIT-DEV-14.length", "The length of an answer counts bytes that were written", "2.7.8.2", MUST)
async def used_length(trial: Trial) -> str:
    front = await trial.up()
    request = trial.kind.request(front)
    fill = b"\xa7"
    for one in request.writable[:1]:
        front.arena.write(one.addr, fill * one.size)
    used = await trial.serve(front, trial.main(front), request)
    room = sum(one.size for one in request.writable)
    if used > room:
        raise Broken(f"says that it wrote {used} bytes, and the buffers have {room}")
    for one in request.writable[:1]:
        size = min(one.size, used)
        # A written byte is the fill by chance in one of 256: a run of 16 is not chance.
        if fill * 16 in front.arena.read(one.addr, size):
            raise Broken(f"says that it wrote {used} bytes, and bytes within them were not written")
    if request.written and used != request.written:
        raise Broken(f"says that it wrote {used} bytes, and it wrote {request.written}", SHOULD)
    return f"{used} bytes"


@add(
    "SPLIT-DEV-14.full",
    "A whole ring of requests at once is answered, each id once and with its bytes",
    "2.7.8.2",
    MUST,
)
async def full_ring(trial: Trial) -> str:
    front = await trial.up(num=64)
    vring = trial.main(front)
    for _ in range(3):
        requests = []
        for _ in range(vring.ring.num // len(trial.kind.request(front).buffers)):
            request = trial.kind.request(front)
            requests.append((vring.split.chain(request.buffers), request))
        vring.split.offer(*(head for head, _ in requests))
        vring.kick()
        answers = await front.answers(vring, len(requests))
        if sorted(head for head, _ in answers) != sorted(head for head, _ in requests):
            raise Broken(f"answered ids {sorted(head for head, _ in answers)}")
        lengths = dict(answers)
        for head, request in requests:
            if error := request.judge(lengths[head]):
                raise Broken(f"one of {len(requests)} failed: {error}")
    return f"{len(requests)} requests, three times"
