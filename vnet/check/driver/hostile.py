"""Runs a foreign driver once for each lie of its device, and judges whether it survives."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import attrs
import trio

from vnet.check.driver.clauses import Observations
from vnet.check.driver.lies import HONEST, Lie, LyingBack, Telling
from vnet.check.driver.types import DEVICES
from vnet.check.program import Program
from vnet.check.runner import NoDevice
from vnet.check.verdicts import Finding, Level, Result, Verdict
from vnet.check.wire import PeerError
from vnet.linux import unix_socket
from vnet.linux.ipc import UnixSocket

__all__ = ["HostileRun"]

START = 180.0
"""Seconds that a driver has to make the requests before the lie: a guest boots meanwhile."""
GRACE = 1.0
"""Seconds after a lie in which requests may be older than it."""
LOOK = 0.05
CRASH = 128
"""Exit status from which on a program counts as killed, as shells report it."""


@attrs.define
class HostileRun:
    """A run of lies, each with a program of its own."""

    kind: str
    path: Path
    make_program: Callable[[], Program]
    limit: float
    """Seconds after a lie in which the driver must go on, reset the device, or end."""
    after: int
    alone: Sequence[str]
    """Words of the command that tells a lie alone; its id follows."""
    without: Collection[int] = ()
    """Ring features that are not offered."""
    packed: bool = False
    """Whether packed rings are offered."""
    report: Callable[[Result], object] = lambda result: None

    async def run(self, lies: Sequence[Lie]) -> list[Result]:
        """Tell all lies, after a run without one; return a result for each. Raises NoDevice, OSError."""
        telling, finding, _ = await self._tell(HONEST)
        if telling.lie_time is None:
            raise NoDevice(
                f"{self.path}: the driver makes {telling.requests} requests, not {self.after + 1}: {finding.seen}"
            )
        if finding.verdict is not Verdict.PASS:
            raise NoDevice(f"{self.path}: the driver does not work without a lie: {finding.seen}")
        results = []
        for lie in lies:
            start = trio.current_time()
            result = self._result(lie, *await self._tell(lie), trio.current_time() - start)
            self.report(result)
            results.append(result)
        return results

    async def _tell(self, lie: Lie) -> tuple[Telling, Finding, str]:
        """Run the program with one lie; return what was told, the finding, and the program's output."""
        telling = Telling(lie, self.after)
        if lie.types and self.kind not in lie.types:
            return telling, Finding(Verdict.SKIP, f"not for {self.kind} devices"), ""
        if lie.split and self.packed:
            return telling, Finding(Verdict.SKIP, "not for packed rings"), ""
        program = self.make_program()
        try:
            with unix_socket.listen(self.path, socket.SOCK_STREAM, 1) as server:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._serve, server, telling)
                    try:
                        program.spawn()
                    except PeerError as exc:
                        finding = Finding(Verdict.SKIP, str(exc))
                    else:
                        finding = await self._judge(telling, program)
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await program.stop()
            output = program.output()
            program.close()
        return telling, finding, output

    async def _serve(self, server: socket.socket, telling: Telling) -> None:
        """Serve front ends one after the other: a driver may come back after a lie."""
        acceptor = unix_socket.Acceptor(server)
        while True:
            seen = Observations(self.kind, packed=self.packed)
            back = LyingBack(DEVICES[self.kind](seen), seen, telling, self.without, packed=self.packed)
            await back.serve(UnixSocket(await acceptor.accept()))

    async def _judge(self, telling: Telling, program: Program) -> Finding:
        """Wait for the end of the program, or for the end of the time that it has after the lie."""
        start = trio.current_time()
        while (status := program.status) is None:
            now = trio.current_time()
            if telling.lie_time is None and now > start + START:
                return Finding(Verdict.SKIP, f"made {telling.requests} requests in {START:g} s: the lie was not told")
            if telling.lie_time is not None and now > telling.lie_time + self.limit:
                return self._still(telling)
            await trio.sleep(LOOK)
        if status < 0 or status >= CRASH:
            return Finding(Verdict.CRASHED, f"the driver's program {program.end()}", Level.SAFETY)
        if telling.lie_time is None:
            return Finding(Verdict.SKIP, f"{program.end()} after {telling.requests} requests: the lie was not told")
        return Finding(Verdict.PASS, f"the driver's program {program.end()}")

    def _still(self, telling: Telling) -> Finding:
        """Judge a program that runs."""
        assert telling.lie_time is not None
        if telling.latest > telling.lie_time + GRACE:
            return Finding(Verdict.PASS, "goes on: it made requests or set the device up again")
        if telling.lie.final:
            return Finding(Verdict.PASS, "its program lives")
        seen = f"neither makes a request nor resets the device for {self.limit:g} s, and its program does not end"
        return Finding(Verdict.WEDGED, seen, Level.SAFETY)

    def _result(self, lie: Lie, telling: Telling, finding: Finding, output: str, seconds: float) -> Result:
        bad = finding.verdict in (Verdict.CRASHED, Verdict.WEDGED)
        row = f"hostile row {lie.id.partition('.')[0]}"
        return Result(
            lie.id, lie.title, "hostile", row, Level.SAFETY, finding.verdict, finding.seen,
            sent=tuple(telling.evidence), alone=shlex.join([*self.alone, lie.id]), output=output if bad else "",
            seconds=seconds,
        )  # fmt: skip
