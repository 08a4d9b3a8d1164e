"""Devices that cases of the checker run against, each connection served in this process."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import trio

from drivers.bus.back import Identity
from drivers.bus.vhost import VhostDriver
from drivers.carriers.framing import ProtocolError
from drivers.devices.blk import BLK, BlkPlug
from drivers.errors import TransportLost
from rings.ids import DeviceId
from support.rigs.vfio_user import open_function
from support.rigs.vhost_user import open_back
from vnet.check.case import select
from vnet.check.cases import CASES
from vnet.check.driver.back import WatchingBack
from vnet.check.driver.clauses import Observations
from vnet.check.front import Front
from vnet.check.kinds import KINDS
from vnet.check.pci import PciFront
from vnet.check.peer import Peer
from vnet.check.runner import NoDevice, Run
from vnet.check.trial import Options
from vnet.check.verdicts import Result, Verdict
from vnet.check.vhost_user import VhostUserFront
from vnet.linux.ipc import UnixSocket
from vnet.ports.disk.store import MemoryStore

__all__ = [
    "ServedPeer",
    "check_disk",
    "check_function",
    "check_own",
    "check_peer",
    "check_watched",
    "open_served",
    "receive",
    "unlike",
]

P = TypeVar("P", bound=Peer)

KIND_OF = {DeviceId.NET: "net", DeviceId.BLOCK: "blk", DeviceId.SCSI: "scsi"}


def open_served(nursery: trio.Nursery, serve: Callable[[socket.socket], Awaitable[object]]) -> socket.socket:
    """Return a connection whose other end ``serve`` serves in a task."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for one in (ours, theirs):
        one.setblocking(False)
    nursery.start_soon(serve, theirs)
    return ours


async def receive(connected: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Receive ``size`` bytes, or fewer if the connection ends, and file descriptors."""
    data, fds = b"", list[int]()
    while len(data) < size:
        await trio.lowlevel.wait_readable(connected)
        try:
            part, more, _, _ = socket.recv_fds(connected, size - len(data), 253)
        except OSError:
            break
        if not part:
            break
        data, fds = data + part, fds + more
    return data, fds


class ServedPeer(Peer):
    """A peer whose connections ``serve`` serves, each in a task."""

    def __init__(self, nursery: trio.Nursery, serve: Callable[[socket.socket], Awaitable[object]]) -> None:
        super().__init__(Path("served"))
        self.nursery, self.serve = nursery, serve

    async def connect(self, patience: float) -> socket.socket:
        return open_served(self.nursery, self.serve)


async def check_peer(
    make: Callable[[trio.Nursery], P],
    kind: str,
    words: Sequence[str],
    options: Options | None = None,
    known: Collection[str] = (),
    carrier: type[Front] = VhostUserFront,
) -> tuple[P, dict[str, Result]]:
    """Run cases against a peer whose connections are tasks; return it and the results by id. Raises NoDevice."""
    problem: NoDevice | None = None
    results: dict[str, Result] = {}
    async with trio.open_nursery() as nursery:
        peer = make(nursery)
        run = Run(KINDS[kind], [peer], options or Options(), ["vnet", "check", "device"], known, carrier)
        try:
            results = {result.id: result for result in await run.run(select(CASES, words))}
        except NoDevice as exc:  # not out of the nursery, which would wrap it in a group
            problem = exc
        nursery.cancel_scope.cancel()
    if problem is not None:
        raise problem
    return peer, results


async def check_watched(
    kind: str, make: Callable[[Observations], WatchingBack], *words: str, options: Options | None = None
) -> dict[str, Result]:
    """Run cases against back ends of `vnet check driver`, one for each connection. Raises NoDevice."""

    async def serve(connected: socket.socket) -> None:
        await make(Observations(kind)).serve(UnixSocket(connected))

    return await _check(serve, kind, words, options)


async def check_own(
    driver: VhostDriver, device_id: DeviceId, *words: str, packed: bool = False, options: Options | None = None
) -> dict[str, Result]:
    """Run cases against a device of this project behind its back end. Raises NoDevice."""
    async with open_back(driver, Identity(device_id, "checked0", packed)) as back:

        async def serve(connected: socket.socket) -> None:
            with suppress(ProtocolError, TransportLost):
                await back.serve_connection(UnixSocket(connected))

        return await _check(serve, KIND_OF[device_id], words, options)


async def check_disk(
    *words: str, read_only: bool = False, packed: bool = False, options: Options | None = None
) -> dict[str, Result]:
    """Run cases against this project's disk of 1 MiB. Raises NoDevice."""
    plug = BlkPlug(MemoryStore(1 << 20, read_only=read_only))
    driver = BLK.vhost_driver(lambda device: plug)
    return await check_own(driver, DeviceId.BLOCK, *words, packed=packed, options=options)


async def check_function(
    driver: VhostDriver, device_id: DeviceId, *words: str, packed: bool = False, options: Options | None = None
) -> dict[str, Result]:
    """Run cases against a device of this project as a PCI function over vfio-user. Raises NoDevice."""
    async with open_function(driver, Identity(device_id, "checked0", packed)) as bench:

        async def serve(connected: socket.socket) -> None:
            with suppress(ProtocolError, TransportLost):
                await bench.server.serve_connection(UnixSocket(connected))

        return await _check(serve, KIND_OF[device_id], words, options, PciFront)


def unlike(results: Mapping[str, Result], verdict: Verdict) -> dict[str, str]:
    """Return what was seen in each case that did not end with ``verdict``."""
    return {ident: f"{one.verdict.value}: {one.seen}" for ident, one in results.items() if one.verdict is not verdict}


async def _check(
    serve: Callable[[socket.socket], Awaitable[object]],
    kind: str,
    words: Sequence[str],
    options: Options | None,
    carrier: type[Front] = VhostUserFront,
) -> dict[str, Result]:
    _, results = await check_peer(lambda nursery: ServedPeer(nursery, serve), kind, words, options, carrier=carrier)
    return results
