"""A mailbox endpoint with its driver under a recorder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from drivers.transports.epf_mailbox.back import MailboxEpf
from drivers.transports.epf_mailbox.front import VirtioMailbox
from vnet.testing import FRAME, NetPair, Options, bounded

MAILBOX = Options(transport="epf_mailbox", queue_size=16)
POLLED = attrs.evolve(MAILBOX, poll=True)


@asynccontextmanager
async def alone(pair: NetPair) -> AsyncIterator[VirtioMailbox]:
    """The driver's half without a bus above it, which is bound again, and up, at the end."""
    bus, function = pair.carrier
    await bus.unregister_device(function)
    front = VirtioMailbox(function)
    function.watch(front)
    yield front
    with trio.CancelScope(shield=True):
        await front.reset()
    function.watch(None)
    bus.register_device(function)
    await pair.world.wait_up()


def back(pair: NetPair) -> MailboxEpf:
    actual = pair.device.back
    assert isinstance(actual, MailboxEpf)
    return actual


async def exchange(pair: NetPair, count: int = 20) -> None:
    for source, sink in ((pair.driver_port, pair.device_port), (pair.device_port, pair.driver_port)):
        for _ in range(count):
            source.inject(FRAME)
        for _ in range(count):
            with bounded():
                assert (await sink.receive())[1] == FRAME


class Sluggish:
    """An endpoint that looks when a test says so: doorbells are kept until then."""

    def __init__(self, pair: NetPair, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rung: list[int] = []
        self._epf = back(pair)
        self._look = self._epf.serve_doorbell
        monkeypatch.setattr(self._epf, "serve_doorbell", self.rung.append)

    def catch_up(self) -> None:
        """Look for all that was rung."""
        rung, self.rung[:] = list(self.rung), []
        for doorbell in rung:
            self._look(doorbell)

    def wake(self) -> None:
        self.catch_up()
        self._epf.serve_doorbell = self._look  # type: ignore[method-assign]
