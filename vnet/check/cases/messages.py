"""Messages of a hostile front end: their framing, file descriptors, indices and order (hostile rows V01 to V18)."""

from __future__ import annotations

import os
import resource
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import trio

from drivers.transports.vhost_user.constants import MAX_BODY, NO_FD, FrontendRequest, ProtocolFeature
from vnet.check.case import Table
from vnet.check.front import new_eventfd
from vnet.check.memory import sealed_file
from vnet.check.verdicts import Broken, Level, Skipped
from vnet.check.vhost_user import VHOST_USER, VhostUserFront, VhostUserTrial, pair
from vnet.check.wire import Answer, BadReply, HungUp, Silence, emit

__all__ = ["MESSAGES", "refused"]

MESSAGES = Table("messages", carrier=VHOST_USER)
add = MESSAGES.add
R, P = FrontendRequest, ProtocolFeature
SHOULD = Level.SHOULD
NEED_REPLY = 8
ONES = (1 << 64) - 1


async def refused(front: VhostUserFront, request: int, body: bytes = b"", fds: Sequence[int] = ()) -> str:
    """Send an impossible request; return the reaction. Raises Broken if it is acknowledged with success."""
    answer = await front.tell(request, body, fds)
    if answer is Answer.DONE and front.acks:
        raise Broken(f"acknowledged {R(request).name} with success", SHOULD)
    return "went on" if answer is Answer.DONE else answer.value


async def raw(front: VhostUserFront, data: bytes, fds: Sequence[int] = ()) -> str:
    """Send bytes that are no message; return the reaction: a closed connection, or a device that goes on."""
    try:
        await front.send(data, fds)
        return "went on" if await front.after() is Answer.DONE else "closed the connection"
    except HungUp:
        return "closed the connection"


# Framing


@add("V01", "A message in single bytes, and two messages in one write", "vhost-user: Message format", SHOULD)
async def split_message(trial: VhostUserTrial) -> str:
    front = await trial.connect()
    for byte in emit(R.GET_FEATURES):
        await front.send(bytes((byte,)), note="one byte of GET_FEATURES")
        await trio.sleep(0.001)
    await front.reply(R.GET_FEATURES)
    await front.send(emit(R.SET_OWNER) + emit(R.GET_FEATURES), note="SET_OWNER and GET_FEATURES")
    await front.reply(R.GET_FEATURES)
    return "answered both"


async def bad_size(size: int, trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    try:
        return await raw(front, emit(R.SET_FEATURES, size=size))
    except Silence:
        if size > MAX_BODY:
            raise Broken(f"waits for a body of {size} bytes instead of closing the connection", SHOULD) from None
        return "waits for the rest of the body"


for _name, _size in (("none", 0), ("short", 7), ("large", MAX_BODY + 1), ("huge", 0xFFFF_FFFF)):
    add(f"V02.{_name}", f"A SET_FEATURES whose header announces {_size} bytes", "vhost-user: Message format")(
        partial(bad_size, _size)
    )


async def bad_header(request: int, flags: int, trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    try:
        if front.acks and not flags & 4 and flags & 3 == 1:
            await front.send(emit(request, flags=flags | NEED_REPLY))
            if not any(await front.reply(request)):
                raise Broken("acknowledged it with success", SHOULD)
            return "refused it"
        return await raw(front, emit(request, flags=flags))
    except HungUp:
        return "closed the connection"
    except BadReply as exc:
        raise Broken(str(exc), SHOULD) from None
    except Silence:
        raise Broken("answers nothing any more on a connection that it keeps", SHOULD) from None


for _name, _request, _flags, _title in (
    ("unknown", 999, 1, "A request with the unknown number 999"),
    ("version", int(R.SET_OWNER), 2, "A request of protocol version 2"),
    ("reply", int(R.SET_OWNER), 5, "A request with the flag of a reply"),
    ("reserved", int(R.SET_OWNER), 0x101, "A request with a reserved flag"),
):
    add(f"V03.{_name}", _title, "vhost-user: Header")(partial(bad_header, _request, _flags))


# File descriptors


async def too_many_fds(request: FrontendRequest, body: bytes, count: int, trial: VhostUserTrial) -> str:
    reactions = set()
    for _ in range(5):
        front = await trial.negotiated()
        with open_null() as null:
            reactions.add(await raw(front, emit(request, body), [null] * count))
        trial.close()
    return ", ".join(sorted(reactions))


@contextmanager
def open_null() -> Iterator[int]:
    fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


for _count in (1, 8, 9, 253):
    add(f"V04.owner{_count}", f"SET_OWNER with {_count} file descriptors, five times", "vhost-user: Ancillary data")(
        partial(too_many_fds, R.SET_OWNER, b"", _count)
    )
add("V04.num", "SET_VRING_NUM with 8 file descriptors, five times", "vhost-user: Ancillary data")(
    partial(too_many_fds, R.SET_VRING_NUM, pair(0, 16), 8)
)
add("V04.call", "SET_VRING_CALL with 8 file descriptors, five times", "vhost-user: Ancillary data")(
    partial(too_many_fds, R.SET_VRING_CALL, bytes(8), 8)
)


@contextmanager
def wrong_fds() -> Iterator[Mapping[str, int]]:
    """Yield file descriptors that are neither memory nor events."""
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    folder = os.open("/", os.O_RDONLY | os.O_CLOEXEC)
    event = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        yield {"directory": folder, "socket": theirs.fileno(), "pipe": reading, "eventfd": event}
    finally:
        ours.close()
        theirs.close()
        for fd in (reading, writing, folder, event):
            os.close(fd)


async def memory_of(kind: str, trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    with wrong_fds() as fds:
        return await refused(front, R.SET_MEM_TABLE, front.table(), [fds[kind]])


for _name in ("directory", "socket", "pipe", "eventfd"):
    add(f"V05.{_name}", f"SET_MEM_TABLE with a file descriptor of another kind: {_name}", "vhost-user: SET_MEM_TABLE")(
        partial(memory_of, _name)
    )


@add("V05.kick", "SET_VRING_KICK with memory in place of an eventfd", "vhost-user: SET_VRING_KICK")
async def kick_of_memory(trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    await front.accept()
    front.new_ring(0, 16)
    fd = sealed_file(4096)  # not the rings' memory: a device may write to what it takes for an eventfd
    try:
        return (await front.tell(R.SET_VRING_KICK, bytes(8), [fd])).value
    finally:
        os.close(fd)


@add("V05.missing", "SET_MEM_TABLE without the file descriptor of its region", "vhost-user: SET_MEM_TABLE")
async def missing_fd(trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    return await refused(front, R.SET_MEM_TABLE, front.table())


@add(
    "V05.nokick",
    "SET_VRING_CALL without a file descriptor and without the flag that says so",
    "vhost-user: SET_VRING_CALL",
)
async def missing_call(trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    return (await front.tell(R.SET_VRING_CALL, bytes(8))).value


@add("V06", "File descriptors for a device that may open no further one", "vhost-user: Ancillary data")
async def no_room_for_fds(trial: VhostUserTrial) -> str:
    pid = trial.peer.pid
    if pid is None:
        raise Skipped("the process is unknown: --pid or --spawn")
    front = await trial.negotiated()
    try:
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, hard))
    except (OSError, ValueError) as exc:
        raise Skipped(f"the limit of process {pid} can't be changed: {exc}") from None
    try:
        front.note(f"with RLIMIT_NOFILE 1 for process {pid}")
        event = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            return await raw(front, emit(R.SET_VRING_CALL, bytes(8)), [event])
        except Silence:
            return "waits for the file descriptor"
        finally:
            os.close(event)
    finally:
        with suppress(ProcessLookupError):  # the device has ended, which the run finds out
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


# Indices


async def ring_that_is_none(request: FrontendRequest, index: int, trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    await front.accept()
    if request is R.SET_VRING_ADDR:
        vring = front.new_ring(0, 16)
        body = struct.pack("<I", index) + front.addrs(vring)[4:]
    else:
        body = pair(index, 1 if request is R.SET_VRING_ENABLE else 16)
    return await refused(front, request, body)


for _request in (R.SET_VRING_NUM, R.SET_VRING_ADDR, R.SET_VRING_BASE, R.SET_VRING_ENABLE):
    for _index in (0xFFFF, 0x1_0000, 0xFFFF_FFFF):
        add(
            f"V07.{_request.name[10:].lower()}-{_index:x}",
            f"{_request.name} for ring {_index:#x}",
            f"vhost-user: {_request.name}",
        )(partial(ring_that_is_none, _request, _index))


@add("V07.get-10000", "GET_VRING_BASE for ring 0x10000", "vhost-user: GET_VRING_BASE")
async def base_of_no_ring(trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    try:
        reply = await front.ask(R.GET_VRING_BASE, pair(0x1_0000, 0))
    except HungUp:
        return "closed the connection"
    except Silence:
        raise Broken("answers nothing any more on a connection that it keeps", SHOULD) from None
    raise Broken(f"answered for a ring that is none: {reply.hex()}", SHOULD)


@add("V07.call-ff", "SET_VRING_CALL for ring 255", "vhost-user: SET_VRING_CALL")
async def call_of_no_ring(trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    event = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        return (await front.tell(R.SET_VRING_CALL, struct.pack("<Q", 0xFF), [event])).value
    finally:
        os.close(event)


# State


def bodies(front: VhostUserFront) -> Iterator[tuple[FrontendRequest, bytes, list[int]]]:
    """Yield every message that a front end may send, with a plausible body."""
    vring = front.rings.get(0) or front.new_ring(0, 16)
    number = partial(struct.pack, "<Q")
    yield R.GET_FEATURES, b"", []
    yield R.SET_FEATURES, number(front.features), []
    yield R.SET_OWNER, b"", []
    yield R.RESET_OWNER, b"", []
    yield R.GET_PROTOCOL_FEATURES, b"", []
    yield R.SET_PROTOCOL_FEATURES, number(front.protocol), []
    yield R.GET_QUEUE_NUM, b"", []
    yield R.SET_MEM_TABLE, front.table(), [front.arena.fd]
    yield R.SET_VRING_NUM, pair(0, vring.ring.num), []
    yield R.SET_VRING_BASE, pair(0, 0), []
    yield R.SET_VRING_ADDR, front.addrs(vring), []
    yield R.SET_VRING_ENABLE, pair(0, 1), []
    yield R.SET_VRING_KICK, number(0), [vring.kick_fd]
    yield R.SET_VRING_CALL, number(0), [vring.call_fd]
    yield R.SET_VRING_ERR, number(0), [vring.err_fd]
    yield R.GET_VRING_BASE, pair(0, 0), []
    yield R.GET_CONFIG, struct.pack("<III", 0, 8, 0) + bytes(8), []
    yield R.SET_CONFIG, struct.pack("<III", 0, 1, 0) + bytes(1), []
    yield R.SET_LOG_BASE, struct.pack("<QQ", 4096, 0), [front.arena.fd]
    yield R.SET_LOG_FD, b"", [vring.call_fd]
    yield R.GET_INFLIGHT_FD, struct.pack("<QQHH", 0, 0, 1, 16) + bytes(4), []
    yield R.SET_INFLIGHT_FD, struct.pack("<QQHH", 4096, 0, 1, 16) + bytes(4), [front.arena.fd]
    yield R.GET_MAX_MEM_SLOTS, b"", []
    yield R.ADD_MEM_REG, bytes(8) + front.region(), [front.arena.fd]
    yield R.REM_MEM_REG, bytes(8) + front.region(), []
    yield R.SEND_RARP, number(0x0200_0000_0001), []
    yield R.NET_SET_MTU, number(1500), []
    yield R.SET_STATUS, number(0), []
    yield R.GET_STATUS, b"", []
    yield R.RESET_DEVICE, b"", []
    yield R.IOTLB_MSG, bytes(32), []
    yield R.VRING_KICK, pair(0, 0), []
    yield R.SET_VRING_ENDIAN, pair(0, 0), []


async def every_message(state: str, trial: VhostUserTrial) -> str:
    """Send each message alone in that state, and see whether the connection goes on or ends; anything else is wrong."""
    ended = []
    for at in range(len(list(bodies(await trial.connect())))):
        trial.close()
        front = await {"new": trial.connect, "negotiated": trial.negotiated, "running": trial.up}[state]()
        request, body, fds = list(bodies(front))[at]
        try:
            await front.send(emit(request, body), fds)
            await trio.sleep(0.002)
        except HungUp:
            pass
        if front.hung_up():
            ended.append(request.name)
        if not trial.peer.alive():
            raise Broken(f"{request.name} ended the process")
    return f"closed the connection after {', '.join(ended)}" if ended else "went on after all of them"


for _state in ("new", "negotiated", "running"):
    add(f"V12.{_state}", f"Every message alone, on a connection that is {_state}", "vhost-user: Communication")(
        partial(every_message, _state)
    )


async def while_running(
    change: Callable[[VhostUserFront], tuple[FrontendRequest, bytes]], trial: VhostUserTrial
) -> str:
    front = await trial.up()
    await trial.honest(front)
    request, body = change(front)
    for _ in range(20):
        answer = await front.tell(request, body)
        if answer is not Answer.DONE:
            break
    return answer.value


for _name, _change in {
    "num": lambda front: (R.SET_VRING_NUM, pair(0, 8)),
    "num0": lambda front: (R.SET_VRING_NUM, pair(0, 0)),
    "numhuge": lambda front: (R.SET_VRING_NUM, pair(0, 0xFFFF_FFFF)),
    "base": lambda front: (R.SET_VRING_BASE, pair(0, 0xFFFF_FFFF)),
    "addr": lambda front: (R.SET_VRING_ADDR, front.addrs(front.rings[0])),
    "table": lambda front: (R.SET_VRING_ADDR, struct.pack("<IIQQQQ", 0, 0, *([ONES - 4095] * 3), 0)),
}.items():
    add(f"V13.{_name}", f"20 times a ring's setting while it runs: {_name}", "vhost-user: Ring states")(
        partial(while_running, _change)
    )


# Liveness


@add("V15.half", "Half a header, then silence", "vhost-user: Message format")
async def half_a_header(trial: VhostUserTrial) -> str:
    front = await trial.connect()
    await front.send(emit(R.GET_FEATURES)[:5])
    await trio.sleep(0.2)
    return "closed the connection" if front.hung_up() else "waits"


@add("V15.deaf", "Requests without end, whose replies are not read", "vhost-user: Communication")
async def replies_unread(trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    front.patience = 0.3
    many = emit(R.GET_FEATURES) * 256
    try:
        for _ in range(200):
            await front.send(many, note="256 times GET_FEATURES")
    except Silence:
        return "took no more requests while its replies were not read"
    except HungUp:
        return "closed the connection"
    return "took them all"


@add("V16.half", "A connection that ends in the middle of a message", "vhost-user: Communication")
async def ends_in_a_message(trial: VhostUserTrial) -> str:
    for size in range(1, 20, 3):
        front = await trial.up()
        await front.send(emit(R.SET_FEATURES, bytes(8))[:size])
        trial.close()
    return "seven times"


@add("V16.requests", "A connection that ends with requests in flight", "vhost-user: Communication")
async def ends_with_requests(trial: VhostUserTrial) -> str:
    for _ in range(10):
        front = await trial.up(num=64)
        vring = trial.main(front)
        for _ in range(8):
            vring.ring.submit(trial.kind.request(front).buffers)
        vring.kick()
        trial.close()
    return "ten times"


@add("V17.silent", "200 connections that send nothing", "vhost-user: Communication")
async def silent_connections(trial: VhostUserTrial) -> str:
    taken = 0
    try:
        for _ in range(200):
            await trial.dial()
            taken += 1
    except HungUp:
        pass
    return f"{taken} were taken"


@add("V17.second", "A second front end beside a running one", "vhost-user: Communication")
async def second_front_end(trial: VhostUserTrial) -> str:
    front = await trial.up()
    await trial.honest(front)
    try:
        second = await trial.dial()
        second.patience = 0.2
        await second.send(emit(R.GET_FEATURES))
        await second.reply(R.GET_FEATURES)
        seen = "served it"
    except Silence:
        seen = "left it waiting"
    except HungUp:
        seen = "refused it"
    await trial.honest(front)
    return f"{seen}; the first one goes on"


@add("V18.replace", "Another kick eventfd while the ring runs", "vhost-user: SET_VRING_KICK", SHOULD)
async def another_kick(trial: VhostUserTrial) -> str:
    front = await trial.up()
    await trial.honest(front)
    vring = trial.main(front)
    event = new_eventfd()
    os.close(vring.kick_fd)
    vring.kick_fd = event
    answer = await front.tell(R.SET_VRING_KICK, struct.pack("<Q", vring.index), [event])
    if answer is not Answer.DONE:
        return answer.value
    await trial.honest(front)
    return "served the next request"


@add("V18.closed", "A kick eventfd that the front end closes", "vhost-user: SET_VRING_KICK")
async def closed_kick(trial: VhostUserTrial) -> str:
    front = await trial.up()
    vring = trial.main(front)
    os.close(vring.kick_fd)
    vring.kick_fd = os.eventfd(0, os.EFD_CLOEXEC)
    await trio.sleep(0.05)
    return "went on" if await front.after() is Answer.DONE else "closed the connection"


@add("V18.none", "A ring without a kick eventfd, which the device must poll", "vhost-user: SET_VRING_KICK", SHOULD)
async def no_kick(trial: VhostUserTrial) -> str:
    front = await trial.up()
    vring = trial.main(front)
    answer = await front.tell(R.SET_VRING_KICK, struct.pack("<Q", vring.index | NO_FD))
    if answer is not Answer.DONE:
        return answer.value
    await trial.honest(front)
    return "polled the ring"
