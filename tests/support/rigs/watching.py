"""A driver by hand, and the back end of ``vnet check driver`` that watches it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from vnet.check.driver.back import WatchingBack
from vnet.check.driver.clauses import Observations
from vnet.check.driver.types import DEVICES
from vnet.check.front import RING_PACKED, Vring
from vnet.check.kinds import KINDS, Request
from vnet.check.verdicts import Result, Verdict
from vnet.check.vhost_user import VhostUserFront
from vnet.check.wire import Journal
from vnet.linux.ipc import UnixSocket

__all__ = ["Watch", "check_broken", "watching"]


class Watch:
    """A driver by hand, and the back end that watches it."""

    def __init__(self, kind: str, without: Sequence[int], packed: bool = False) -> None:
        self.kind = KINDS[kind]
        self.seen = Observations(kind, packed=packed)
        self.back = WatchingBack(DEVICES[kind](self.seen), self.seen, without, packed=packed)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.theirs = theirs
        self.front = VhostUserFront(ours, Journal(), 5.0)

    @property
    def main(self) -> Vring:
        return self.front.rings[self.kind.main]

    async def up(self, features: Sequence[int], change: Callable[[VhostUserFront], None] = lambda front: None) -> None:
        front = self.front
        await front.negotiate(features)
        change(front)
        await front.accept()
        for index in self.kind.rings:
            await front.start(front.new_ring(index, 16, packed=bool(front.features >> RING_PACKED & 1)))
        self.kind.prepare(front)

    async def serve(self, request: Request) -> str:
        """Make a request; return what is wrong with its answer."""
        self.main.ring.submit(request.buffers)
        self.main.kick()
        _, used = await self.front.answer(self.main)
        return request.judge(used)

    def results(self) -> dict[str, Result]:
        return {result.id: result for result in self.seen.results(["vnet", "check", "driver"])}


@asynccontextmanager
async def watching(
    kind: str, *features: int, without: Sequence[int] = (), change: Callable[[VhostUserFront], Any] = lambda front: None
) -> AsyncIterator[Watch]:
    watch = Watch(kind, without, RING_PACKED in features)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.back.serve, UnixSocket(watch.theirs))
        await watch.up(features, change)
        yield watch
        await trio.sleep(1)
        watch.front.close()


def check_broken(watch: Watch, ident: str, words: str, verdict: Verdict = Verdict.FAIL) -> None:
    """Check that a clause was broken, with ``words`` in the evidence."""
    result = watch.results()[ident]
    assert result.verdict is verdict
    assert any(words in text for text in result.sent), result.sent
