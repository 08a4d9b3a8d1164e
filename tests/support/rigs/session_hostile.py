"""A vhost-user back end and the exact outcomes of a hostile front end."""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs

from drivers.devices.blk import BlkPlug
from drivers.transports.vhost_user.constants import F_LOG_ALL, F_PROTOCOL_FEATURES
from drivers.transports.vhost_user.payloads import (
    U64,
    Config,
    Empty,
    Inflight,
    Log,
    MemTable,
    Payload,
    SingleRegion,
    VringFd,
    VringState,
)
from drivers.transports.vhost_user.session import PROTOCOL_FEATURES
from drivers.transports.vhost_user.states import SessionState
from support.rigs.vhost_user import MIB, NUM, Bench, FrontEnd, R, open_bench, request
from vnet.testing.blk import StubbornStore

SIZE = MIB


@asynccontextmanager
async def bench_() -> AsyncIterator[Bench]:
    async with open_bench(BlkPlug(StubbornStore(SIZE))) as bench:
        yield bench


async def works(bench: Bench) -> None:
    """The next front end finds everything as it should be (U6)."""
    async with bench.front() as front:
        await front.bring_up()
        data = os.urandom(64 << 10)
        assert (await request(front, front.rings[0], 1, 8, data))[-1] == 0
        assert await request(front, front.rings[0], 0, 8, len(data)) == data + b"\0"


def header(request_: int, flags: int, size: int) -> bytes:
    return struct.pack("<III", request_, flags, size)


async def lead_to(front: FrontEnd, state: SessionState) -> None:
    """Bring a session into a state, with the messages of a front end that is right."""
    if state is SessionState.RUNNING:
        await front.bring_up()
        return
    await front.negotiate()
    if state is SessionState.FEATURES:
        assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
        assert await front.share()


def state_of(bench: Bench) -> SessionState:
    """The state of the session of the front end that is connected."""
    assert bench.back._session is not None
    return bench.back._session.state


def message_body(front: FrontEnd, request_: R, variant: int) -> tuple[Payload | None, list[int]]:
    """A body for any message, often a good one, and its file descriptors."""
    [ring] = front.rings
    index, odd = (0, 0, 0, 1)[variant % 4], variant % 2
    bodies: dict[R, tuple[Payload, list[int]]] = {
        R.SET_FEATURES: (U64(front.features | (1 << F_PROTOCOL_FEATURES) * odd | (variant >> 1) << F_LOG_ALL), []),
        R.SET_LOG_BASE: (Log(front.region.size >> odd, 0), [front.memory.fd]),
        R.SET_LOG_FD: (Empty(), [ring.err_fd]),
        R.SEND_RARP: (U64(2), []),
        R.SET_PROTOCOL_FEATURES: (U64(PROTOCOL_FEATURES), []),
        R.SET_MEM_TABLE: (MemTable((front.region,)), [front.memory.fd]),
        R.ADD_MEM_REG: (SingleRegion(front.region), [front.memory.fd]),
        R.REM_MEM_REG: (SingleRegion(front.region), []),
        R.SET_VRING_NUM: (VringState(index, NUM << odd), []),
        R.SET_VRING_BASE: (VringState(index, odd), []),
        R.SET_VRING_ENABLE: (VringState(index, odd), []),
        R.GET_VRING_BASE: (VringState(index, 0), []),
        R.SET_VRING_ADDR: (attrs.evolve(front.addrs(ring, log=variant > 1), index=index), []),
        R.SET_VRING_KICK: (VringFd(index, has_fd=not odd), [ring.kick_fd][odd:]),
        R.SET_VRING_CALL: (VringFd(index, has_fd=not odd), [ring.call_fd][odd:]),
        R.SET_VRING_ERR: (VringFd(index, has_fd=not odd), [ring.err_fd][odd:]),
        R.SET_BACKEND_REQ_FD: (Empty(), [front.memory.fd]),
        R.GET_CONFIG: (Config(0, 0, bytes(60)), []),
        R.SET_CONFIG: (Config(32, 0, bytes((odd,))), []),
        R.GET_INFLIGHT_FD: (Inflight(0, 0, 1, NUM), []),
        R.SET_INFLIGHT_FD: (Inflight(4096, 0, 1, NUM), [front.memory.fd]),
        R.SET_STATUS: (U64((0, 1, 11, 15)[variant % 4]), []),
    }
    return bodies.get(request_, (None, []))
