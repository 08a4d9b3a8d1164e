"""Whole sessions of peers over a socket, with a disk behind them: any messages, any words in the rings, any pieces.

After each input: the connection ended or goes on, all file descriptors and mappings are released, and the next peer
finds a disk that works.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import trio
import trio.testing

from drivers.devices.blk import BlkPlug
from drivers.errors import TransportLost
from drivers.transports.vhost_user.constants import HeaderFlag as UserFlag
from drivers.transports.vhost_user.messages import FRONTEND_MESSAGES
from drivers.transports.vhost_user.states import SessionState
from fuzz.oracle import run_tasks
from fuzz.source import Source
from rings.layout import split_sizes
from rings.memory import Addr
from support.rigs.session_hostile import lead_to, message_body
from support.rigs.vfio_user import Bench as VfioBench
from support.rigs.vfio_user import Client
from support.rigs.vfio_user import open_bench as open_vfio_bench
from support.rigs.vhost_user import MIB, NUM, Bench, FrontEnd, HungUp, R, open_bench, request
from vnet.linux.memory import HostMemory
from vnet.testing.blk import StubbornStore
from vnet.vfio_user.constants import HeaderFlag as VfioFlag

__all__ = ["vfio_user_session", "vhost_user_session"]

STEPS_MAX = 24
ANSWER = 6.0
"""Seconds of simulated time in which an answer comes, or never."""
BLOCK = bytes(range(256)) * 4
GONE = (HungUp, TransportLost, trio.BrokenResourceError, trio.ClosedResourceError, EOFError)
"""How a peer learns that the connection is closed."""
USER_REQUESTS = sorted(FRONTEND_MESSAGES)


def _plug() -> BlkPlug:
    return BlkPlug(StubbornStore(MIB))


def _write_ring(source: Source, memory: HostMemory, areas: Sequence[tuple[int, int]]) -> None:
    """Write a number into an area of a ring."""
    start, length = source.pick(areas)
    source.overwrite(memory.view(Addr(start), length, True))


def _mutated(body: bytes, source: Source) -> bytes:
    """Return the body with up to three numbers in it replaced, or cut."""
    changed = bytearray(body)
    for _ in range(source.byte() & 3 if changed else 0):
        size = min(1 << source.byte() % 4, len(changed))
        at = source.byte() % (len(changed) // size) * size
        changed[at : at + size] = source.number(size).to_bytes(size, "little")
    return bytes(changed)


def vhost_user_session(data: bytes) -> None:
    """A front end that keeps to no order, from any state on."""

    async def run() -> None:
        source = Source(data)
        async with open_bench(_plug(), packed=source.flag()) as bench:
            async with bench.front() as front:
                try:
                    await lead_to(front, source.pick(list(SessionState)))
                    for _ in range(STEPS_MAX):
                        if source.left:
                            await _user_step(front, source)
                except GONE:
                    pass
            await _user_works(bench)

    run_tasks(run)


async def _user_step(front: FrontEnd, source: Source) -> None:
    [ring] = front.rings
    act = source.byte()
    if act < 0x60:
        areas = [(buffer.addr, buffer.size) for buffer in ring.buffers]
        _write_ring(source, front.memory, areas)
        return
    if act < 0x80:
        ring.kick()
        await trio.sleep(0.01)
        return
    if act < 0x88:
        await front.send(source.blob(64) or b"\0")
        return
    kind = R(source.pick(USER_REQUESTS))
    payload, fds = message_body(front, kind, act)
    body = _mutated(payload.emit() if payload is not None else b"", source)
    if act & 0x40:
        fds = [source.pick((front.memory.fd, ring.kick_fd, ring.err_fd)) for _ in range(source.byte() & 3)]
    flags = 1 | (UserFlag.NEED_REPLY if act & 0x20 else 0)
    number = source.number(4) if act & 0x50 == 0x50 else int(kind)
    await front.send(struct.pack("<III", number, flags, len(body)) + body, fds)
    if act & 0x20 or FRONTEND_MESSAGES[kind].answer is not None:
        with trio.move_on_after(ANSWER):
            await _any_answer(front)
    else:
        await trio.lowlevel.checkpoint()


async def _any_answer(front: FrontEnd) -> None:
    """Take one reply, and close its file descriptors. Raises HungUp."""
    try:
        data, handles = await front.socket.receive(4096)
    except Exception as exc:
        raise HungUp from exc
    for handle in handles:
        handle.close()
    if not data:
        raise HungUp


async def _user_works(bench: Bench) -> None:
    async with bench.front() as front:
        await front.bring_up()
        assert (await request(front, front.rings[0], 1, 8, BLOCK))[-1] == 0
        assert await request(front, front.rings[0], 0, 8, len(BLOCK)) == BLOCK + b"\0"


def vfio_user_session(data: bytes) -> None:
    """A client that keeps to no order, from any state on."""

    async def run() -> None:
        source = Source(data)
        async with open_vfio_bench(_plug()) as bench:
            stage = source.byte() & 3
            async with bench.client(agree=stage > 0) as client:
                await trio.testing.wait_all_tasks_blocked()  # else the next client may come before this one
                try:
                    if stage > 1:
                        await client.share()
                        await client.bring_up(msix=bool(source.byte() & 1))
                    for _ in range(STEPS_MAX):
                        if source.left:
                            await _vfio_step(client, source)
                except GONE:
                    pass
            await _vfio_works(bench)

    run_tasks(run)


async def _vfio_step(client: Client, source: Source) -> None:
    act = source.byte()
    if act < 0x50:
        areas = zip((client.addrs.desc, client.addrs.driver, client.addrs.device), split_sizes(NUM), strict=True)
        _write_ring(source, client.memory, [*areas])
        return
    command = 1 + act % 16
    form = source.pick(FORMS)
    body = _mutated(form, source) if source.flag() else source.blob(64)
    fds = [source.pick((client.memory.fd, client.call_fd)) for _ in range(source.byte() & 1 if act & 0x80 else 0)]
    flags = VfioFlag.NO_REPLY if act & 0x40 else 0
    size = 16 + len(body) if act & 0x20 else source.number(4)
    await client.send(struct.pack("<HHIII", 7, command, size, flags, 0) + body, fds)
    if not flags:
        with trio.move_on_after(ANSWER):
            for handle in (await client.receive()).handles:
                handle.close()
    else:
        await trio.lowlevel.checkpoint()


REGION = struct.Struct("<QII")
FORMS = (
    *(REGION.pack(offset, region, size) + bytes(size) for region in (0, 2, 7) for offset, size in ((0, 4), (0x16, 2))),
    *(REGION.pack(offset, 0, 2) + bytes(2) for offset in (0x1C, 0x3000, 0x14, 0x16, 0x18)),
    struct.pack("<IIIII", 20, 0x24, 2, 0, 1),
    struct.pack("<IIQQQ", 32, 3, 0, 0x10_0000, 0x1000),
    struct.pack("<IIQQ", 24, 0, 0x10_0000, 0x1000),
    struct.pack("<IIII", 16, 0, 0, 9),
    struct.pack("<IIIIQQ", 32, 0, 2, 0, 0, 0),
    struct.pack("<HH", 0, 1) + b'{"capabilities":{"max_msg_fds":8}}\0',
)
"""Bodies of commands that a server takes: accesses, interrupts, mappings, regions, versions."""


async def _vfio_works(bench: VfioBench) -> None:
    async with bench.client() as client:
        await client.share()
        await client.bring_up()
        assert (await client.request(BLOCK))[-1] == 0
        assert await client.request(len(BLOCK)) == BLOCK + b"\0"
