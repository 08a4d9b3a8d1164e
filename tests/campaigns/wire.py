"""A link of packets with errors and retrains, under requests over HTTP, a disk, a SCSI host and an rpmsg channel."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial

import attrs
import trio

from campaigns.load import PATIENCE
from campaigns.network import HttpLoad, TcpLoad
from campaigns.scenes import namespace
from campaigns.stage import Stage
from drivers.devices.blk import Disk
from drivers.devices.rpmsg import Endpoint
from drivers.devices.scsi import Initiator, cdb
from support.rigs.wire import Observer
from vnet.ends.rpmsg.exercise import send_and_compare
from vnet.link.wire.impairments import rates
from vnet.link.wire.link import WireLink
from vnet.linux.netns import run_in_netns
from vnet.system.world import World, open_world
from vnet.topology import parse

__all__ = ["errors", "retrains"]

FRONT, BACK = "198.18.0.1", "198.18.0.2"
HTTP, BLK, SCSI, RPMSG = 1 << 20, 2 << 20, 1 << 20, 1 << 14
"""Bytes of a round in each direction."""
PIECE = 1 << 19
"""Bytes of a request to a disk."""
SECTOR = 512
RATES = -4.0, -2.0
"""Smallest and largest rate of a fault per packet, as powers of ten."""
FAULTS = "bit_errors", "lost_tlps", "lost_acks", "duplicated", "reordered", "lost_credits"
RETRAINS = 10
"""Retrains of a round."""
MOMENT = 0.02
"""Most seconds between two retrains."""
TOPOLOGY = """
[hosts.rc]
[hosts.ep]
[links.pcie0]
root = "rc"
endpoint = "ep"
max_payload = 4096
max_read_request = 4096
wire = {{}}
[devices.net0]
link = "pcie0"
driver = {{ netns = "{front}", addresses = ["198.18.0.1/24"] }}
device = {{ netns = "{back}", addresses = ["198.18.0.2/24"] }}
[devices.disk0]
type = "blk"
link = "pcie0"
function = 1
device = {{ store = "memory", size = 8 }}
[devices.scsi0]
type = "scsi"
link = "pcie0"
function = 2
device = {{ luns = [{{ store = "memory", size = 8 }}] }}
[devices.rpmsg0]
type = "rpmsg"
link = "pcie0"
function = 3
"""


@attrs.frozen
class _System:
    world: World
    front: str
    back: str
    """Namespaces of the network device."""
    wire: WireLink
    observer: Observer
    """Fails if a packet is delivered twice, or out of order."""
    disk: Disk
    initiator: Initiator
    ends: tuple[Endpoint, Endpoint]


@asynccontextmanager
async def _system() -> AsyncIterator[_System]:
    with namespace("f") as front, namespace("b") as back:
        text = TOPOLOGY.format(front=front, back=back)
        async with open_world(parse(text), f"c{os.getpid()}-wire") as world:
            with trio.fail_after(PATIENCE):
                await world.wait_up()
                buses = [end.bus for end in world.running("rpmsg0").ends]
                ends = buses[0].create("campaign"), buses[1].create("campaign")
                for end in ends:
                    await end.wait_bound()
            observer = Observer()
            wire = world.wires["pcie0"]
            wire.tap = observer
            disk, initiator = world.running("disk0").ends[0].disk, world.running("scsi0").ends[0].initiator
            yield _System(world, front, back, wire, observer, disk, initiator, ends)
            assert wire.epoch == 1, f"the link went down {wire.epoch - 1} times"


def _count(stage: Stage, system: _System) -> None:
    """Add the figures of the wire to the counters."""
    figures = system.wire.statistics().wire
    assert figures is not None
    stage.add("packets observed", system.observer.delivered)
    stage.add("retrains", figures.retrains)
    for port in figures.ports.values():
        stage.add("replays", port.replayed)
        stage.add("duplicates dropped", port.duplicates)
        for name, number in port.errors.items():
            stage.add(name, number)


# Errors


def errors(stage: Stage) -> None:
    """Move data of all devices at once, at a rate of errors from 10^-4 to 10^-2 per packet; hashes must be equal."""
    trio.run(_errors, stage)


async def _errors(stage: Stage) -> None:
    async with _system() as system:
        for dice in stage.rounds():
            rate = 10 ** dice.uniform(*RATES)
            faults = system.wire.impairments
            faults.random = dice
            faults.set(rates(**dict.fromkeys(FAULTS, rate)))
            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    for move in (_move_http, _move_disk, _move_scsi, _move_messages):
                        nursery.start_soon(move, system, dice.getrandbits(64))
            stage.add("bytes", 2 * (HTTP + BLK + SCSI + RPMSG))
            stage.raise_to("largest rate, per million packets", round(rate * 1e6))
        system.wire.impairments.set(())
        _count(stage, system)


async def _move_http(system: _System, seed: int) -> None:
    for here, there, address in ((system.front, system.back, BACK), (system.back, system.front, FRONT)):
        await trio.to_thread.run_sync(partial(_download, here, there, address, seed))


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = random.Random(self.path).randbytes(HTTP)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", hashlib.sha256(body).hexdigest())
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _server(netns: str, address: str) -> Iterator[tuple[str, int]]:
    server = run_in_netns(netns, lambda: http.server.HTTPServer((address, 0), _Answer))
    thread = threading.Thread(target=server.serve_forever, args=(0.1,))
    thread.start()
    try:
        yield address, server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _download(netns: str, there: str, address: str, seed: int) -> None:
    with _server(there, address) as place:
        run_in_netns(netns, lambda: _get(place, seed))


def _get(place: tuple[str, int], seed: int) -> None:
    with closing(http.client.HTTPConnection(*place, timeout=PATIENCE)) as connection:
        connection.request("GET", f"/{seed}")
        answer = connection.getresponse()
        body = answer.read()
    assert len(body) == HTTP, f"{len(body)} bytes over HTTP"
    assert hashlib.sha256(body).hexdigest() == answer.headers["ETag"], "an answer over HTTP has another hash"


async def _move_disk(system: _System, seed: int) -> None:
    disk = system.disk

    async def read(at: int) -> bytes:
        return bytes(await disk.read(at, PIECE))

    await _move_blocks(seed, BLK, disk.write, read)


async def _move_scsi(system: _System, seed: int) -> None:
    async def write(at: int, data: bytes) -> None:
        result = await system.initiator.execute(cdb.write(at // SECTOR, len(data) // SECTOR), data_out=data)
        assert result.good, result

    async def read(at: int) -> bytes:
        result = await system.initiator.execute(cdb.read(at // SECTOR, PIECE // SECTOR), data_in=PIECE)
        assert result.good, result
        return bytes(result.data)

    await _move_blocks(seed, SCSI, write, read)


async def _move_blocks(
    seed: int, size: int, write: Callable[[int, bytes], Awaitable[object]], read: Callable[[int], Awaitable[bytes]]
) -> None:
    data = random.Random(seed).randbytes(size)
    for at in range(0, size, PIECE):
        await write(at, data[at : at + PIECE])
    back = b"".join([await read(at) for at in range(0, size, PIECE)])
    assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest(), "a disk has other data than were written"


async def _move_messages(system: _System, seed: int) -> None:
    for source, sink in (system.ends, system.ends[::-1]):
        await send_and_compare(source, sink, RPMSG)


# Retrains


def retrains(stage: Stage) -> None:
    """Retrain the link under load; no connection may break, no request fail, and no packet be lost."""
    trio.run(_retrains, stage)


async def _retrains(stage: Stage) -> None:
    async with _system() as system:
        front, back = system.front, system.back
        with TcpLoad(front, back, BACK, random.Random(stage.seed)) as tcp, HttpLoad(front, back, BACK) as web:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_keep_disk_busy, system, stage)
                for dice in stage.rounds():
                    for _ in range(RETRAINS):
                        await trio.sleep(dice.uniform(0, MOMENT))
                        assert system.wire.retrain(), "the link did not come up again"
                    for load in (tcp, web):
                        load.mark(time.monotonic())
                        await trio.to_thread.run_sync(load.wait_back)
                nursery.cancel_scope.cancel()
            stage.add("tcp requests", tcp.requests)
            stage.add("http requests", web.requests)
            await trio.to_thread.run_sync(tcp.end)
            await trio.to_thread.run_sync(web.end)
        _count(stage, system)


async def _keep_disk_busy(system: _System, stage: Stage) -> None:
    number = 0
    while True:
        number += 1
        data = random.Random(number).randbytes(PIECE)
        await system.disk.write(0, data)
        assert bytes(await system.disk.read(0, PIECE)) == data, "the disk has other data than were written"
        stage.add("disk requests", 2)
