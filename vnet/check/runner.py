"""Runs cases against a device: one after the other, or one per spawned device at a time."""

from __future__ import annotations

import shlex
import struct
from collections.abc import Callable, Collection, Iterator, Sequence

import attrs
import trio

from vnet.check.case import Case
from vnet.check.front import Front
from vnet.check.kinds import Kind
from vnet.check.peer import Peer
from vnet.check.program import Figures
from vnet.check.trial import Options, Trial
from vnet.check.verdicts import OF_LEVEL, Broken, Finding, Level, Result, Skipped, Verdict
from vnet.check.vhost_user import VhostUserFront
from vnet.check.wire import PeerError

__all__ = ["NoDevice", "Run"]

WINDOW, CONFIRM = 0.03, 0.4
"""Seconds of the first look at a process's CPU, and of the second one if that was too much."""
GROWTH = 64 << 20
"""Bytes of resident memory that one case may cost a device."""
SETTLE = 3.0
"""Seconds that a device has to close what a connection left."""


class NoDevice(Exception):
    """No device of the type answers at the socket, so that nothing can be checked. The message says why."""


@attrs.define
class Run:
    """A run of cases against one device, or against several of the same command."""

    kind: Kind
    peers: Sequence[Peer]
    options: Options
    alone: Sequence[str]
    """Words of the command that runs a case alone; the case's id follows."""
    known: Collection[str] = ()
    """Ids of cases that are known to fail."""
    carrier: type[Front] = VhostUserFront
    report: Callable[[Result], object] = lambda result: None

    async def run(self, cases: Sequence[Case]) -> list[Result]:
        """Run all cases and return their results in the same order. Raises NoDevice."""
        results: dict[str, Result] = {}
        left = iter(cases)
        problems: list[NoDevice] = []

        async def work(peer: Peer) -> None:
            try:
                await self._work(peer, left, results)
            except NoDevice as exc:
                problems.append(exc)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for peer in self.peers:
                nursery.start_soon(work, peer)
        if problems:
            raise problems[0]
        return [results[case.id] for case in cases]

    async def _work(self, peer: Peer, left: Iterator[Case], results: dict[str, Result]) -> None:
        try:
            await self._begin(peer)
            gone = ""
            for case in left:
                if gone:
                    result = self._result(case, Finding(Verdict.SKIP, gone))
                else:
                    result = await self._run_case(case, peer)
                    if result.verdict in (Verdict.CRASHED, Verdict.WEDGED):
                        gone = await self._restart(peer, case)
                results[case.id] = result
                self.report(result)
        finally:
            with trio.CancelScope(shield=True):
                await peer.stop()
            peer.close()

    async def _begin(self, peer: Peer) -> None:
        """Find out whether there is a device at all; twice, so that what it does only once is done. Raises NoDevice."""
        try:
            await peer.start()
        except PeerError as exc:
            raise NoDevice(str(exc)) from None
        for _ in range(2):
            if why := await self._honest(peer):
                raise NoDevice(f"{peer.path}: no honest {self.kind.name} request works there: {why}")
        peer.busy = await _spins(peer)
        peer.output()

    async def _restart(self, peer: Peer, case: Case) -> str:
        """Get the device back; return why it is gone, or ""."""
        try:
            await peer.start()
        except PeerError as exc:
            return f"the device did not start again after {case.id}: {exc}"
        why = await self._honest(peer)
        return f"the device did not serve again after {case.id}: {why}" if why else ""

    async def _honest(self, peer: Peer) -> str:
        """Make an honest request on a new connection; return why it failed, or ""."""
        trial = Trial(peer, self.kind, self.options, self.carrier)
        try:
            with trio.move_on_after(self.options.limit):
                await trial.honest(await trial.up())
                return ""
        except (PeerError, Broken, Skipped) as exc:
            return str(exc)
        finally:
            trial.close()
        return f"no answer within {self.options.limit:g} s"

    async def _run_case(self, case: Case, peer: Peer) -> Result:
        start = trio.current_time()
        if case.types and self.kind.name not in case.types:
            return self._result(case, Finding(Verdict.SKIP, f"not for {self.kind.name} devices"))
        if case.carrier and case.carrier != self.carrier.carrier:
            return self._result(case, Finding(Verdict.SKIP, f"only over {case.carrier}"))
        if case.writes and not self.options.destructive:
            return self._result(case, Finding(Verdict.SKIP, "it writes to the disk, which --destructive allows"))
        if case.level is Level.POLICY and not self.options.policy:
            return self._result(case, Finding(Verdict.SKIP, "a rule of this project alone, which --policy runs"))
        before = peer.figures()
        trial = Trial(peer, self.kind, self.options, self.carrier)
        try:
            finding = await self._judge(case, trial)
            finding = await self._look_at_process(finding, trial, peer)
        finally:
            trial.close()
        output = peer.output()
        if trial.journal.setup or trial.journal.sent:
            finding = await self._look_afterwards(finding, peer, before)
        later = peer.output()  # of the honest request, unless that failed
        if finding.verdict in (Verdict.CRASHED, Verdict.WEDGED):
            output = "\n".join(filter(None, (output, later)))
        return attrs.evolve(
            self._result(case, finding),
            setup=tuple(trial.journal.setup),
            sent=tuple(trial.journal.sent),
            output=output,
            seconds=trio.current_time() - start,
        )

    async def _judge(self, case: Case, trial: Trial) -> Finding:
        """Run the function of a case within the time that it has."""
        with trio.move_on_after(self.options.limit):
            try:
                return Finding(Verdict.PASS, await case.run(trial) or "")
            except Skipped as exc:
                return Finding(Verdict.SKIP, str(exc))
            except Broken as exc:
                level = exc.level or case.level
                return Finding(OF_LEVEL[level], str(exc), level)
            except PeerError as exc:
                return Finding(OF_LEVEL[case.level], str(exc))
            except (LookupError, ValueError, struct.error) as exc:
                return Finding(OF_LEVEL[case.level], f"answered with values that make no sense: {exc!r}")
        return Finding(Verdict.FAIL, f"no verdict within {self.options.limit:g} s", Level.SAFETY)

    async def _look_at_process(self, finding: Finding, trial: Trial, peer: Peer) -> Finding:
        """Judge the device while the connections of the case are open."""
        if finding.verdict is Verdict.SKIP:
            return finding
        if not trial.intact():
            return _worse(finding, "wrote outside of the memory that it was granted")
        if await _spins(peer):
            return _worse(finding, "uses a whole core while nothing is asked of it")
        return finding

    async def _look_afterwards(self, finding: Finding, peer: Peer, before: Figures | None) -> Finding:
        """Judge the device after the connections of the case: it lives, serves, and kept nothing."""
        why = await self._honest(peer) if peer.alive() else ""
        if not peer.alive():
            return Finding(Verdict.CRASHED, _join(finding.seen, f"the device {peer.end()}"), Level.SAFETY)
        if why:
            return Finding(Verdict.WEDGED, _join(finding.seen, f"then no honest request works: {why}"), Level.SAFETY)
        if await _spins(peer):
            return _worse(finding, "uses a whole core after the connection has ended")
        after = peer.figures()
        if before is None or after is None:
            return finding
        with trio.move_on_after(SETTLE):
            while after is not None and after.fds > before.fds:
                await trio.sleep(0.02)
                after = peer.figures()
        if after is not None and after.fds > before.fds:
            return _worse(finding, f"kept {after.fds - before.fds} file descriptors after the connection has ended")
        if after is not None and after.rss > before.rss + GROWTH:
            return _worse(finding, f"grew by {after.rss - before.rss >> 20} MiB")
        return finding

    def _result(self, case: Case, finding: Finding) -> Result:
        return Result(
            case.id, case.title, case.area, case.section, finding.level or case.level, finding.verdict, finding.seen,
            alone=shlex.join([*self.alone, case.id]), known=case.id in self.known,
        )  # fmt: skip


async def _spins(peer: Peer) -> bool:
    """Return whether an idle process that does not poll uses a whole core, in two looks."""
    return not peer.busy and await peer.spins(WINDOW) and await peer.spins(CONFIRM)


def _worse(finding: Finding, seen: str) -> Finding:
    """Return a broken SAFETY sentence, behind what was seen before."""
    return Finding(OF_LEVEL[Level.SAFETY], _join(finding.seen, seen), Level.SAFETY)


def _join(*parts: str) -> str:
    return "; ".join(filter(None, parts))
