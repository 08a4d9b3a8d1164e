"""The surroundings of one case: connections to the device, honest requests, and the judgement of reactions."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Generic, TypeVar

import attrs
import trio

from vnet.check.front import RING_PACKED, Front, Reaction, Vring
from vnet.check.kinds import Kind, Request
from vnet.check.peer import Peer
from vnet.check.verdicts import Broken, Level
from vnet.check.wire import HungUp, Journal

__all__ = ["Options", "Trial", "TrialOf"]

F_co = TypeVar("F_co", bound=Front, covariant=True)


@attrs.frozen
class Options:
    """Settings of a run."""

    patience: float = 2.0
    """Seconds that a device has to answer."""
    destructive: bool = False
    """Whether cases may write data to a disk."""
    policy: bool = False
    """Whether cases of `Level.POLICY` run."""

    @property
    def limit(self) -> float:
        """Seconds that one case may take."""
        return 15 * self.patience


class TrialOf(Generic[F_co]):
    """One run of one case over front ends of one class. `close` ends its connections."""

    def __init__(
        self, peer: Peer, kind: Kind, options: Options, carrier: Callable[[socket.socket, Journal, float], F_co]
    ) -> None:
        """``carrier`` makes a front end of a connection."""
        self.peer, self.kind, self.options = peer, kind, options
        self._carrier = carrier
        self.journal = Journal()
        self.fronts: list[F_co] = []

    async def connect(self) -> F_co:
        """Return a new connection, on which the device has answered the first message. Raises PeerError.

        A device that still ends the last connection may refuse this one for a moment.
        """
        front = await self.dial()
        await self._until_served(front)
        return front

    async def reconnect(self, front: Front) -> None:
        """Give a front end, whose memory and rings stay as they are, a new connection. Raises PeerError."""
        front.replace(await self.peer.connect(self.options.patience))
        await self._until_served(front)

    async def _until_served(self, front: Front) -> None:
        """Wait until the device answers, over new connections if it closes them at once. Raises PeerError."""
        in_setup, self.journal.in_setup = self.journal.in_setup, True
        end = trio.current_time() + self.options.patience
        try:
            while True:
                try:
                    await front.open()
                except HungUp:
                    if trio.current_time() > end or not self.peer.alive():
                        raise
                    await trio.sleep(0.01)
                    front.replace(await self.peer.connect(self.options.patience))
                else:
                    return
        finally:
            self.journal.in_setup = in_setup

    async def dial(self) -> F_co:
        """Return a new connection, on which nothing was sent. Raises PeerError."""
        front = self._carrier(await self.peer.connect(self.options.patience), self.journal, self.options.patience)
        front.names = {**front.names, **self.kind.features}
        self.fronts.append(front)
        return front

    async def negotiated(self, *features: int, packed: bool = False) -> F_co:
        """Return a connection whose features are chosen, and on which nothing else was set."""
        self.journal.in_setup = True
        try:
            front = await self.connect()
            await front.negotiate([*features, *([RING_PACKED] if packed else [])])
        finally:
            self.journal.in_setup = False
        return front

    async def up(
        self,
        *features: int,
        packed: bool = False,
        num: int | None = None,
        base: int | None = None,
        prepare: bool = True,
    ) -> F_co:
        """Return a connection to a running device with these features, and rings of ``num`` descriptors.

        Without ``prepare`` the rings are empty, those that the type of device needs filled included.
        """
        front = await self.negotiated(*features, packed=packed)
        self.journal.in_setup = True
        try:
            await front.accept()
            await self.start(front, packed=packed, num=num, base=base, prepare=prepare)
        finally:
            self.journal.in_setup = False
        return front

    async def start(
        self,
        front: Front,
        *,
        packed: bool = False,
        num: int | None = None,
        base: int | None = None,
        prepare: bool = True,
    ) -> None:
        """Start new rings and the device, which has features and memory; arguments as those of `up`."""
        for index in self.kind.rings:
            vring = front.new_ring(index, num or self.kind.size, packed=packed)
            if base is not None and not packed:
                vring.split.start_at(base)
            await front.start(vring, base)
        await front.driver_ok()
        if prepare:
            self.kind.prepare(front)

    async def set_up_again(self, front: Front) -> None:
        """Set up a device that was reset, with new rings. Raises Skipped, PeerError."""
        await front.negotiate()
        await front.accept()
        await self.start(front)

    def main(self, front: Front) -> Vring:
        """Return the ring of the honest request."""
        return front.rings[self.kind.main]

    # Honest requests

    async def honest(self, front: Front, vring: Vring | None = None) -> None:
        """Make an honest request, and wait until it succeeds. Raises Broken, HungUp."""
        request = self.kind.request(front)
        await self.serve(front, vring or self.main(front), request)

    async def serve(self, front: Front, vring: Vring, request: Request, *, succeeds: bool = True) -> int:
        """Make a request and wait for its answer; return its length. Raises Broken if it does not succeed, HungUp."""
        ident = front.submit(vring, request.buffers)
        vring.kick()
        head, used = await front.answer(vring)
        if head != ident:
            raise Broken(f"answered id {head}, and the request has id {ident}", Level.MUST)
        if succeeds and (wrong := request.judge(used)):
            raise Broken(f"an honest request failed: {wrong}")
        return used

    async def stays_idle(self, front: Front, when: str, seconds: float) -> None:
        """Make an honest request that the device must leave alone.

        Raises Broken if the device uses a buffer within ``seconds``; ``when`` ends its message.
        """
        vring = self.main(front)
        front.submit(vring, self.kind.request(front).buffers)
        vring.kick()
        await trio.sleep(seconds)
        if vring.ring.pending:
            raise Broken(f"used a buffer {when}")

    async def fails(self, front: Front, request: Request) -> str:
        """Make a request that must be answered, with an error; return the error. Raises Broken, HungUp."""
        used = await self.serve(front, self.main(front), request, succeeds=False)
        error = request.judge(used)
        if not error and self.kind.reports:
            raise Broken("it says that the request succeeded")
        return error or "gave the buffer back"

    # Bad rings

    async def refuses(
        self, front: Front, vring: Vring, request: Request | None = None, *, success: Level | None = Level.SHOULD
    ) -> str:
        """Kick after an invalid entry, and judge the reaction; return it if it is right.

        Right are an error of the request, an error of the queue, and a closed connection. ``request`` is the request in
        the entry, if it has a valid part that shows success; ``success`` is the level of the sentence that success
        breaks, None if success is right, too. Raises Broken, also for a device that loses the descriptors.
        """
        vring.kick()
        reaction = await front.reaction(vring)
        if reaction is Reaction.ANSWERED:
            return self._judge_answer(front, vring, request, success)
        if reaction is not Reaction.SILENT:
            return reaction.value
        raise await self._silence(front, vring)

    def _judge_answer(self, front: Front, vring: Vring, request: Request | None, success: Level | None) -> str:
        answers = vring.ring.answers()
        if not answers:
            raise Broken("the used index moved by a whole lap")
        for head, _ in answers:
            if head >= vring.ring.num:
                raise Broken(f"used id {head} in a ring of {vring.ring.num}", Level.MUST)
        if request is None or not self.kind.reports:
            return "gave the buffer back"
        if error := request.judge(answers[0][1]):
            return f"answered with an error: {error}"
        if success is None:
            return "served it"
        raise Broken("served it as if it were valid: the answer says success", success)

    async def _silence(self, front: Front, vring: Vring) -> Broken:
        """Return the error of an entry that had no effect, which says whether the queue still works."""
        front.note("then an honest request on the same ring")
        try:
            await self.serve(front, vring, self.kind.request(front))
        except Broken:
            return Broken(
                f"stopped the queue without a word: no answer, {front.signs}, no closed connection",
                Level.SHOULD,
            )
        return Broken(
            f"never answered it, and reported no error: {front.signs}, and the connection stays. Later requests are "
            "served, so the descriptors are lost to the driver until a reset"
        )

    def intact(self) -> bool:
        """Return whether the device wrote only into memory that it was granted."""
        return all(front.arena.intact() for front in self.fronts)

    def close(self) -> None:
        while self.fronts:
            self.fronts.pop().close()


Trial = TrialOf[Front]
