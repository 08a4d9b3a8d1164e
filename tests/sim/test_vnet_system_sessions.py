"""Reports of `vnet serve` about front ends: refusals, broken queues, legacy drivers, a line each."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from drivers.carriers.framing import SessionStatistics
from drivers.contracts.events import SILENT
from drivers.contracts.ipc import FdSocket
from drivers.transports.vhost_user.back import VhostUserBack
from drivers.transports.vhost_user.constants import F_PROTOCOL_FEATURES
from drivers.transports.vhost_user.payloads import U64, VringState
from rings.features import RingFeature, mask
from support.rigs.vhost_user import FrontEnd, R, request
from vnet.linux.ipc import connect
from vnet.system.exports import DeviceExport, Served, open_exports
from vnet.system.limited import AGAIN
from vnet.system.sessions import BACKLOG, PEERS_MAX, ExportReport, Sessions
from vnet.testing import until
from vnet.topology import parse_device

FEATURES = mask((RingFeature.VERSION_1, RingFeature.EVENT_IDX, RingFeature.INDIRECT_DESC))
LEGACY = (
    "blk0: the connection was closed: a legacy driver: VERSION_1 is missing; add disable-legacy=on to QEMU's -device"
)


@attrs.frozen
class Disk:
    """A disk that is served, and the lines reported of it."""

    path: Path
    served: Served
    output: list[str]

    @asynccontextmanager
    async def front(self, **options: Any) -> AsyncIterator[FrontEnd]:
        front = FrontEnd(await connect(self.path), FEATURES, **options)
        try:
            yield front
        finally:
            front.close()
            await until(lambda: not self.served.server.connected)


@asynccontextmanager
async def served_disk(folder: Path) -> AsyncIterator[Disk]:
    path, output = folder / "disk", list[str]()
    export = DeviceExport(parse_device({"type": "blk", "device": {"size": 1}}, "test"), path)
    async with open_exports({"blk0": export}, report=output.append) as served:
        yield Disk(path, served["blk0"], output)


@pytest.mark.hostile("V07")
async def test_a_refusal_that_is_acknowledged_is_reported_once(tmp_path: Path) -> None:
    async with served_disk(tmp_path) as disk, disk.front() as front:
        await front.negotiate()
        for _ in range(50):
            assert not await front.tell(R.SET_VRING_ENABLE, VringState(0, 5))
        assert not await front.tell(R.SET_VRING_ENABLE, VringState(7, 1))
        assert disk.output == [
            "blk0: a front end is connected",
            "blk0: refused: SET_VRING_ENABLE: 5 for ring 0: must be 0 or 1",
            "blk0: refused: SET_VRING_ENABLE: ring 7 of 1",
        ]
        await trio.sleep(AGAIN[0])
        assert not await front.tell(R.SET_VRING_ENABLE, VringState(0, 5))
        assert disk.output[3:] == ["blk0: refused: SET_VRING_ENABLE: 5 for ring 0: must be 0 or 1 (49 more times)"]


@pytest.mark.hostile("R04")
async def test_a_queue_that_breaks_is_logged_with_its_cause(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with served_disk(tmp_path) as disk, disk.front() as front:
        await front.bring_up()
        [ring] = front.rings
        ring.offer_first(77)
        await until(lambda: bool(caplog.records))
        stands = "blk0 requestq1 (device on serve): broke and is stopped until the driver resets the device"
        assert caplog.messages == [f"{stands}: available entry 0 names descriptor 77 of 8 (VIRTIO 1.4, 2.7.6)"]


async def test_a_legacy_driver_that_comes_again_and_again_is_reported_at_growing_intervals(tmp_path: Path) -> None:
    async with served_disk(tmp_path) as disk:
        for _ in range(30):
            async with disk.front() as front:
                await front.negotiate()
                await front.post(R.SET_FEATURES, U64(FEATURES & ~(1 << RingFeature.VERSION_1)))
                assert await front.hung_up()
            await trio.sleep(1)
        again = [f"{LEGACY} ({more} more times)" for more in (4, 9)]
        assert disk.output == ["blk0: a front end is connected", LEGACY, *again]
        async with disk.front() as front:
            await front.bring_up()
            assert (await request(front, front.rings[0], 0, 0, 512))[-1] == 0
        assert disk.output[4:] == [
            "blk0: a front end is connected",
            "blk0: the front end hung up; its queues carried requestq1 1",
        ]


async def test_a_legacy_driver_is_named_where_the_refusal_is_acknowledged(tmp_path: Path) -> None:
    async with served_disk(tmp_path) as disk, disk.front() as front:
        await front.negotiate()
        legacy = FEATURES & ~(1 << RingFeature.VERSION_1) | 1 << F_PROTOCOL_FEATURES
        assert not await front.tell(R.SET_FEATURES, U64(legacy))
        assert "refused: a legacy driver: " in disk.output[-1]
        assert "disable-legacy=on" in disk.output[-1]


class Busy:
    """A server whose peer has hung up and is never let go."""

    statistics = SessionStatistics()
    connected = True

    async def wait_free(self) -> None:
        await trio.sleep_forever()

    async def serve_connection(self, socket: FdSocket) -> None:
        raise AssertionError("the peer before is still there")


async def test_a_peer_that_waits_for_its_turn_is_hung_up_on_when_serving_ends(tmp_path: Path) -> None:
    theirs, ours = socket.socketpair()
    sessions = Sessions("blk0", tmp_path / "disk", Busy(), ExportReport("blk0", list[str]().append), SILENT)
    with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sessions.converse, ours)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        theirs.setblocking(False)
        assert theirs.recv(1) == b""


async def test_front_ends_that_come_while_the_former_one_is_let_go_wait_in_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would hold a descriptor of this process, which has too few for a storm of them."""
    leaving = trio.Event()
    async with served_disk(tmp_path) as disk:
        server = disk.served.server
        assert isinstance(server, VhostUserBack)
        leave = server.leave

        async def slow_leave() -> None:
            await leaving.wait()
            await leave()

        monkeypatch.setattr(server, "leave", slow_leave)
        (await connect(disk.path)).close()
        await until(lambda: server.statistics.sessions == 1)
        with ExitStack() as stack:
            refused = 0
            for _ in range(2 * (PEERS_MAX + BACKLOG)):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                refused += client.connect_ex(str(disk.path)) == errno.EAGAIN
                await trio.sleep(0.1)
        assert refused >= PEERS_MAX + BACKLOG - 2
        leaving.set()
        await trio.sleep(1)
        async with disk.front() as front:
            await front.bring_up()
