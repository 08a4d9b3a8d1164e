"""Memory tables, dirty logs, inflight areas and configuration of a hostile front end (hostile rows V08 to V14, V19)."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from functools import partial

from drivers.transports.vhost_user.constants import F_LOG_ALL, FrontendRequest, ProtocolFeature
from vnet.check.case import Table
from vnet.check.cases.messages import refused
from vnet.check.memory import sealed_file
from vnet.check.verdicts import Broken, Level, Skipped
from vnet.check.vhost_user import VHOST_USER, VhostUserFront, VhostUserTrial
from vnet.check.wire import Answer, BadReply, HungUp

__all__ = ["MEMORY"]

MEMORY = Table("memory", carrier=VHOST_USER)
add = MEMORY.add
R, P = FrontendRequest, ProtocolFeature
SHOULD = Level.SHOULD
PAGE = 4096
TOP = 1 << 64
_Region = tuple[int, int, int, int]


def region(addr: int, size: int, user: int, offset: int) -> bytes:
    return struct.pack("<QQQQ", *(value % TOP for value in (addr, size, user, offset)))


def bad_tables(base: int, size: int, user: int, offset: int) -> dict[str, tuple[str, Sequence[_Region]]]:
    """Return memory tables that make no sense, by name."""
    good = (base, size, user, offset)
    return {
        "empty": ("a region of no bytes", [(base, 0, user, offset)]),
        "beyond": ("a region behind the end of its file", [(base, size, user, 1 << 40)]),
        "long": ("a region that is longer than its file", [(base, 1 << 40, user, 0)]),
        "huge": ("a region of 2^62 bytes", [(base, 1 << 62, user, 0)]),
        "wraps": ("a region whose address wraps around", [(TOP - PAGE, size, user, offset)]),
        "userwraps": ("a region whose user address wraps around", [(base, size, TOP - PAGE, offset)]),
        "offsetwraps": ("a region whose offset wraps around", [(base, size, user, TOP - PAGE)]),
        "overlap": ("two regions that overlap", [good, (base + PAGE, size, user + size, offset)]),
    }


async def bad_table(name: str, trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    arena = front.arena
    _, regions = bad_tables(arena.base, arena.size, arena.user, arena.offset)[name]
    body = struct.pack("<II", len(regions), 0) + b"".join(region(*one) for one in regions)
    return await refused(front, R.SET_MEM_TABLE, body, [arena.fd] * len(regions))


for _name, (_title, _) in bad_tables(0, 1, 0, 0).items():
    add(f"V08.{_name}", f"SET_MEM_TABLE with {_title}", "vhost-user: SET_MEM_TABLE")(partial(bad_table, _name))


@add("V08.nine", "SET_MEM_TABLE that announces 9 regions", "vhost-user: SET_MEM_TABLE")
async def nine_regions(trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    body = struct.pack("<II", 9, 0) + front.region() * 8
    return await refused(front, R.SET_MEM_TABLE, body, [front.arena.fd] * 8)


@add("V08.count", "SET_MEM_TABLE that announces 2^32 - 1 regions and has one", "vhost-user: SET_MEM_TABLE")
async def many_regions(trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    return await refused(front, R.SET_MEM_TABLE, struct.pack("<II", 0xFFFF_FFFF, 0) + front.region(), [front.arena.fd])


@add("V08.again", "The same memory table 20 times while a ring runs", "vhost-user: SET_MEM_TABLE", Level.MUST)
async def same_table_again(trial: VhostUserTrial) -> str:
    front = await trial.up()
    for _ in range(20):
        await front.must(R.SET_MEM_TABLE, front.table(), [front.arena.fd])
    await trial.honest(front)
    return "served a request with it"


@add("V08.slots", "The same region added by ADD_MEM_REG until it is refused", "vhost-user: ADD_MEM_REG")
async def same_region(trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    front.need(P.CONFIGURE_MEM_SLOTS)
    slots = await front.ask_number(R.GET_MAX_MEM_SLOTS)
    for count in range(min(slots, 600) + 2):
        answer = await front.tell(R.ADD_MEM_REG, bytes(8) + front.region(), [front.arena.fd])
        if answer is not Answer.DONE:
            return f"{answer.value} after {count} times"
    raise Broken(f"accepted {count + 1} regions that overlap, of {slots} slots", SHOULD)


@add("V09", "Memory whose owner could still shrink it", "vhost-user: SET_MEM_TABLE", Level.POLICY)
async def unsealed(trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    fd = os.memfd_create("unsealed", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, front.arena.size + front.arena.offset)
        answer = await front.tell(R.SET_MEM_TABLE, front.table(), [fd])
    finally:
        os.close(fd)
    if answer is Answer.DONE:
        raise Broken("accepted it: if the owner truncates it, SIGBUS ends the process")
    return answer.value


# Dirty log


async def bad_log(size: int, offset: int, trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    front.need(P.LOG_SHMFD)
    await front.accept()
    try:
        await front.ask(R.SET_LOG_BASE, struct.pack("<QQ", size % TOP, offset % TOP), [front.arena.fd])
    except HungUp:
        return "closed the connection"
    raise Broken("took it as its log", SHOULD)


for _name, _size, _offset in (
    ("wraps", TOP - PAGE, 2 * PAGE), ("beyond", PAGE, 1 << 40), ("huge", 1 << 62, 0),
):  # fmt: skip
    add(f"V10.{_name}", f"SET_LOG_BASE with {_size:#x} bytes at offset {_offset:#x}", "vhost-user: SET_LOG_BASE")(
        partial(bad_log, _size, _offset)
    )


@add("V10.again", "SET_LOG_BASE 50 times", "vhost-user: SET_LOG_BASE", Level.MUST)
async def log_again(trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    front.need(P.LOG_SHMFD)
    await front.accept()
    fd, size = _log_file(front)
    try:
        for _ in range(50):
            await front.ask(R.SET_LOG_BASE, struct.pack("<QQ", size, 0), [fd])
    finally:
        os.close(fd)
    return "took each"


def _log_file(front: VhostUserFront) -> tuple[int, int]:
    size = -(-(front.arena.end // PAGE) // 8)
    size += -size % PAGE
    return sealed_file(size), size


@add(
    "V19",
    "A request while dirty pages are logged: each page that was written has its bit",
    "vhost-user: Migration",
    Level.MUST,
)
async def dirty_pages(trial: VhostUserTrial) -> str:
    front = await trial.up()
    front.need(P.LOG_SHMFD)
    if not front.offered >> F_LOG_ALL & 1:
        raise Skipped("F_LOG_ALL is not offered")
    vring = trial.main(front)
    fd, size = _log_file(front)
    try:
        await front.ask(R.SET_LOG_BASE, struct.pack("<QQ", size, 0), [fd])
        await front.must(R.SET_FEATURES, struct.pack("<Q", front.features | 1 << F_LOG_ALL))
        await front.must(R.SET_VRING_ADDR, front.addrs(vring, 1, vring.ring.device))
        front.arena.alloc(PAGE, PAGE)  # the request's pages are not those of the ring
        request = trial.kind.request(front)
        used = await trial.serve(front, vring, request)
        written = {
            addr // PAGE
            for one in request.writable[:1]
            for addr in range(one.addr, one.addr + min(one.size, used), 512)
        }
        written.add((vring.ring.device + 2) // PAGE)
        log = os.pread(fd, size, 0)
    finally:
        os.close(fd)
    unmarked = sorted(page for page in written if not log[page // 8] >> page % 8 & 1)
    if unmarked:
        raise Broken(f"wrote to pages {', '.join(f'{page:#x}' for page in unmarked)} and did not mark them in the log")
    return f"marked all {len(written)} pages"


# Inflight area


@add("V11.again", "GET_INFLIGHT_FD and SET_INFLIGHT_FD 100 times", "vhost-user: Inflight I/O tracking", Level.MUST)
async def inflight_again(trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    front.need(P.INFLIGHT_SHMFD)
    front.note("GET_INFLIGHT_FD for one queue of 16, then SET_INFLIGHT_FD of it, 100 times")
    for _ in range(100):
        area, fd = await front.make_inflight(1, 16)
        try:
            await front.must(R.SET_INFLIGHT_FD, area, [fd])
        finally:
            os.close(fd)
    return "went on"


async def bad_inflight(mapped: int, offset: int, queues: int, size: int, trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    front.need(P.INFLIGHT_SHMFD)
    body = struct.pack("<QQHH", mapped % TOP, offset % TOP, queues, size) + bytes(4)
    return await refused(front, R.SET_INFLIGHT_FD, body, [front.arena.fd])


for _name, *_values in (
    ("small", 8, 0, 1, 16), ("beyond", PAGE, 1 << 40, 1, 16), ("huge", TOP - 1, 0, 1, 32768),
    ("noqueue", PAGE, 0, 0, 16), ("many", PAGE, 0, 0xFFFF, 0xFFFF),
):  # fmt: skip
    _mapped, _offset, _queues, _num = _values
    add(
        f"V11.{_name}",
        f"SET_INFLIGHT_FD of {_mapped:#x} bytes at {_offset:#x} for {_queues} queues of {_num}",
        "vhost-user: Inflight I/O tracking",
    )(partial(bad_inflight, _mapped, _offset, _queues, _num))


@add("V11.ask", "GET_INFLIGHT_FD for 65535 queues of 32768", "vhost-user: Inflight I/O tracking")
async def huge_inflight(trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    front.need(P.INFLIGHT_SHMFD)
    try:
        area, fd = await front.make_inflight(0xFFFF, 0x8000)
    except HungUp:
        return "closed the connection"
    except BadReply:
        return "replied without an area"
    os.close(fd)
    return f"replied {area.hex()}"


# Configuration


async def bad_config(offset: int, size: int, data: int, trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    front.need(P.CONFIG)
    try:
        reply = await front.ask(R.GET_CONFIG, struct.pack("<III", offset, size, 0) + bytes(data))
    except HungUp:
        return "closed the connection"
    return "replied without bytes" if len(reply) <= 12 else f"replied {len(reply) - 12} bytes"


for _name, _offset, _size, _data in (
    ("offset", 0xFFFF_FFFF, 8, 8), ("wraps", 0xFFFF_FFF8, 16, 16), ("size", 0, 0xFFFF_FFFF, 8),
    ("large", 0, 1024, 1024),
):  # fmt: skip
    add(f"V14.{_name}", f"GET_CONFIG of {_size:#x} bytes at {_offset:#x}", "vhost-user: GET_CONFIG")(
        partial(bad_config, _offset, _size, _data)
    )


@add("V14.write", "SET_CONFIG behind the end of the configuration", "vhost-user: SET_CONFIG")
async def config_write(trial: VhostUserTrial) -> str:
    front = await trial.negotiated()
    front.need(P.CONFIG)
    return await refused(front, R.SET_CONFIG, struct.pack("<III", 0xFFFF_FFF0, 16, 0) + bytes(16))
