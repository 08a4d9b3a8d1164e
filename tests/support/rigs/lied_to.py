"""Drivers by hand that a device lies to: programs whose process is a task, with a reaction that a test chooses."""

from __future__ import annotations

import socket
from pathlib import Path

import trio

from drivers.transports.vhost_user.constants import FrontendRequest
from vnet.check.driver.hostile import HostileRun
from vnet.check.driver.lies import LIES
from vnet.check.kinds import KINDS
from vnet.check.kinds.net import RECEIVE
from vnet.check.program import Program
from vnet.check.verdicts import Broken, Result
from vnet.check.vhost_user import VhostUserFront
from vnet.check.wire import Journal, PeerError
from vnet.linux import unix_socket

__all__ = ["DriverProgram", "tell"]

REQUESTS = 6
SEGFAULT = -11


class DriverProgram(Program):
    """A driver whose ``reaction`` to an answer that can't be is to give up, to crash, to hang, or to go on."""

    def __init__(self, nursery: trio.Nursery, path: Path, kind: str, reaction: str) -> None:
        super().__init__()
        self.nursery, self.path, self.kind, self.reaction = nursery, path, KINDS[kind], reaction
        self.code: int | None = None
        self.scope = trio.CancelScope()
        self.connections = 0

    def spawn(self) -> None:
        if self.reaction == "absent":
            raise PeerError("driver can't be started: No such file or directory")
        self.nursery.start_soon(self.run)

    async def run(self) -> None:
        with self.scope:
            self.code = await self.drive()

    async def drive(self) -> int:
        """Make requests until an answer can't be; return the exit status."""
        good = False
        while not good:
            front = await self.connect()
            try:
                good = await self.make_requests(front)
            except (PeerError, Broken):
                good = False
            finally:
                front.close()
            if not good and self.reaction == "hangs":
                await trio.sleep_forever()
            if not good and self.reaction != "goes on":
                return SEGFAULT if self.reaction == "crashes" else 1
        return 0

    async def connect(self) -> VhostUserFront:
        self.connections += 1
        ours: socket.socket = unix_socket.connect(self.path)
        ours.setblocking(False)
        return VhostUserFront(ours, Journal(), 5.0)

    async def make_requests(self, front: VhostUserFront) -> bool:
        """Return whether all answers were as they must be."""
        await front.negotiate()
        await front.accept()
        await front.ask_number(FrontendRequest.GET_QUEUE_NUM)
        config = (await front.config(0, 60))[20:24] if self.kind.name == "blk" else b"\0\2\0\0"
        for index in self.kind.rings:
            await front.start(front.new_ring(index, 16))
        self.kind.prepare(front)
        if config != b"\0\2\0\0" or await front.read_features() != front.offered:
            return False
        vring = front.rings[self.kind.main]
        for _ in range(REQUESTS):
            request = self.kind.request(front)
            ident = vring.ring.submit(request.buffers)
            table = front.arena.read(vring.ring.desc, 256)
            vring.kick()
            head, used = await front.answer(vring)
            await trio.sleep(0.1)
            room = sum(one.size for one in request.writable)
            wrong = (
                head != ident or used > room or request.judge(used) or front.arena.read(vring.ring.desc, 256) != table
            )
            if wrong or vring.ring.pending or vring.calls() > 5:
                return False
            if self.kind.name == "net" and front.rings[RECEIVE].ring.pending:
                return False
        return True

    @property
    def status(self) -> int | None:
        return self.code

    def end(self) -> str:
        return "was killed by SIGSEGV" if self.code == SEGFAULT else f"ended with status {self.code}"

    async def stop(self) -> None:
        self.scope.cancel()


async def tell(folder: Path, kind: str, reaction: str, *ids: str, after: int = 2) -> dict[str, Result]:
    """Lie to a driver with that reaction, which works without a lie; return the results by id. Raises NoDevice."""
    problem: Exception | None = None
    results: dict[str, Result] = {}
    async with trio.open_nursery() as nursery:
        path = folder / "lied"
        programs = iter([reaction if reaction in ("absent", "dies") else ""])

        def make() -> Program:
            return DriverProgram(nursery, path, kind, next(programs, reaction))

        run = HostileRun(kind, path, make, 10.0, after, ["vnet", "check", "driver"])
        lies = [lie for lie in LIES if not ids or lie.id in ids]
        try:
            results = {result.id: result for result in await run.run(lies)}
        except Exception as exc:  # noqa: BLE001  not out of the nursery, which would wrap it in a group
            problem = exc
        nursery.cancel_scope.cancel()
    if problem is not None:
        raise problem
    return results
