"""The surroundings of a case: connections, and the judgement of a device's reaction to a bad entry."""

from __future__ import annotations

import socket

import pytest
import trio

from support.rigs.checked import ServedPeer
from support.rigs.toy_back import ToyBack, ToyPeer, check_verdict
from vnet.check.kinds import KINDS
from vnet.check.trial import Options, Trial
from vnet.check.verdicts import Broken, Level, Verdict
from vnet.check.vhost_user import VhostUserFront
from vnet.check.wire import HungUp


@pytest.mark.parametrize(
    ("fault", "case", "verdict", "words"),
    [
        ("loses", "R04.size", Verdict.FAIL, "lost to the driver"),
        ("loses", "I01", Verdict.FAIL, "lost to the driver"),
        ("stops", "I01", Verdict.WARN, "without a word"),
    ],
)
async def test_a_device_that_loses_an_entry_or_stops_gets_its_verdict(
    fault: str, case: str, verdict: Verdict, words: str
) -> None:
    await check_verdict(fault, case, verdict, words)


async def test_a_device_that_refuses_connections_for_a_moment_is_waited_for() -> None:
    dialed = 0

    async def serve(connected: socket.socket) -> None:
        nonlocal dialed
        dialed += 1
        if dialed < 4:
            connected.close()
        else:
            await ToyBack(connected).serve()

    async with trio.open_nursery() as nursery:
        trial = Trial(ServedPeer(nursery, serve), KINDS["rng"], Options(), VhostUserFront)
        await trial.honest(await trial.up())
        trial.close()
        nursery.cancel_scope.cancel()
    assert dialed == 4


async def test_a_device_that_closes_every_connection_is_given_up() -> None:
    dialed = 0

    async def serve(connected: socket.socket) -> None:
        nonlocal dialed
        dialed += 1
        connected.close()

    async with trio.open_nursery() as nursery:
        trial = Trial(ServedPeer(nursery, serve), KINDS["rng"], Options(patience=0.5), VhostUserFront)
        with pytest.raises(HungUp, match="closed the connection"):
            await trial.connect()
        trial.close()
        nursery.cancel_scope.cancel()
    assert dialed > 1


async def test_bytes_of_the_set_up_are_kept_apart() -> None:
    async with trio.open_nursery() as nursery:
        trial = Trial(ToyPeer(nursery), KINDS["rng"], Options(), VhostUserFront)
        front = await trial.up()
        assert not trial.journal.sent
        assert any(text.startswith("SET_VRING_KICK with a file descriptor") for text in trial.journal.setup)
        await trial.honest(front)
        [request] = trial.journal.sent
        assert request.startswith("ring 0: request 0x40")
        trial.close()
        nursery.cancel_scope.cancel()


async def test_success_of_an_invalid_request_breaks_a_should_unless_it_is_right() -> None:
    async with trio.open_nursery() as nursery:
        trial = Trial(ToyPeer(nursery), KINDS["rng"], Options(), VhostUserFront)
        front = await trial.up()
        vring, request = trial.main(front), trial.kind.request(front)
        vring.ring.submit(request.buffers)
        assert await trial.refuses(front, vring, request, success=None) == "served it"
        vring.ring.submit(request.buffers)
        with pytest.raises(Broken, match="as if it were valid") as caught:
            await trial.refuses(front, vring, request)
        assert caught.value.level is Level.SHOULD
        trial.close()
        nursery.cancel_scope.cancel()
