"""SCSI commands that a store holds up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio
import trio.testing

from drivers.devices.scsi import (
    Lun,
    Response,
    ScsiError,
    ScsiResult,
    ScsiStatus,
    Tmf,
)
from drivers.devices.scsi import cdb as commands
from vnet.testing.blk import StubbornStore
from vnet.testing.scsi import DISK, ScsiPair

LUNS = (Lun(0, 0), Lun(0, 1), Lun(7, 0))


def sense(result: ScsiResult) -> tuple[int, int]:
    assert (result.response, result.status) == (Response.OK, ScsiStatus.CHECK_CONDITION)
    assert result.sense is not None
    return result.sense.key, result.sense.asc


class Commands:
    """Commands under way, and how they ended, in order."""

    def __init__(self, pair: ScsiPair, nursery: trio.Nursery) -> None:
        self.pair = pair
        self.ended: list[tuple[object, object]] = []
        self._nursery = nursery

    def start(self, name: object, call: Callable[[], Awaitable[object]]) -> None:
        async def run() -> None:
            try:
                result = await call()
            except ScsiError as exc:
                self.ended.append((name, exc.response))
            else:
                self.ended.append((name, result.good if isinstance(result, ScsiResult) else result))

        self._nursery.start_soon(run)

    def read(self, tag: int, lun: Lun = DISK) -> None:
        do = self.pair.initiator.execute
        self.start(tag, partial(do, commands.read(tag, 1), lun=lun, data_in=512, tag=tag))

    def write(self, tag: int, lun: Lun = DISK) -> None:
        do = self.pair.initiator.execute
        self.start(tag, partial(do, commands.write(tag, 1), lun=lun, data_out=bytes([tag]) * 512, tag=tag))

    def manage(self, function: Tmf, lun: Lun = DISK, tag: int = 0) -> None:
        self.start(function, partial(self.pair.initiator.manage, function, lun, tag))


async def blocked(pair: ScsiPair) -> None:
    """From now on every command waits for the gate."""
    for lun, unit in pair.domain.units.items():
        await pair.initiator.execute(commands.unit_ready(), lun=lun)
        store = unit.store
        assert isinstance(store, StubbornStore)
        store.at_once, store.gate = False, trio.Event()


def open_gate(pair: ScsiPair) -> None:
    for unit in pair.domain.units.values():
        store = unit.store
        assert isinstance(store, StubbornStore)
        assert store.gate is not None
        store.gate.set()


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked()
