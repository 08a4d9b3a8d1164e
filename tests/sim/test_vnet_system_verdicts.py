"""Verdicts on running systems: a reset loop, a device that does not answer, a link that loses doorbells."""

from __future__ import annotations

from functools import partial
from typing import Literal

import pytest
import trio

from rings.errors import BadRing
from vnet.spec import FaultSpec, LinkSpec
from vnet.system.snapshot import take_snapshot, take_status
from vnet.system.world import World
from vnet.testing import FRAME, Options, open_pair, over, until
from vnet.testing.blk import BlkOptions, open_blk_pair
from vnet.testing.pair import ENDPOINT, ROOT
from vnet.views.system import VerdictView

FAULT = BadRing("chain 3: next descriptor 99 of 64", "2.7.5")


def verdict(world: World, device: str) -> VerdictView | None:
    """The verdict of the snapshot, which is that of the status."""
    fault = take_snapshot(world).devices[device].verdict
    assert take_status(world).verdicts == ({} if fault is None else {device: fault})
    return fault


async def test_a_queue_that_breaks_again_and_again_is_a_reset_loop_with_the_rule_and_its_section() -> None:
    async with open_pair() as pair:
        for repeats in range(1, 4):
            assert verdict(pair.world, "net0") is None
            pair.vhost.queues[1].fail(FAULT)
            await until(lambda repeats=repeats: pair.virtio.repeats == repeats)  # type: ignore[misc]
            await pair.world.wait_up()
        fault = verdict(pair.world, "net0")
        assert fault is not None
        cause = f"transmitq1: {FAULT} (VIRTIO 1.4, 2.7.5) (the device asked for a reset)"
        assert (fault.rule, fault.text) == ("reset-loop", f"reset 3 times in a row: {cause}")
        await trio.sleep(60)
        assert verdict(pair.world, "net0") is None, "the device is well since"


async def test_a_device_that_does_not_answer_needs_a_single_look() -> None:
    async with open_blk_pair(BlkOptions()) as pair, trio.open_nursery() as nursery:
        pair.store.at_once, pair.store.gate = False, trio.Event()
        nursery.start_soon(partial(pair.disk.read, 0, 512))
        await trio.sleep(1)
        assert verdict(pair.world, "disk0") is None
        await trio.sleep(5)
        fault = verdict(pair.world, "disk0")
        assert fault is not None
        assert (fault.rule, fault.queue) == ("no-answer", "requestq1")
        assert fault.text.startswith("requestq1: the device has answered none of 1 chain, the oldest for at least ")
        pair.store.gate.set()
        await until(lambda: verdict(pair.world, "disk0") is None)


@pytest.mark.parametrize("ring", ["split", "packed"])
async def test_sent_frames_that_their_driver_has_not_taken_back_are_no_chains_that_wait(
    ring: Literal["split", "packed"], monkeypatch: pytest.MonkeyPatch
) -> None:
    with over("pci", ring):
        async with open_pair() as pair:
            pair.driver_port.inject(FRAME)
            await pair.device_port.receive()
            queue = pair.virtio.queues[1].ring
            assert queue.state().in_flight == 1, "a driver takes them back when it needs them"
            for _ in range(8):
                assert verdict(pair.world, "net0") is None
                await trio.sleep(1)
            monkeypatch.setattr(pair.vhost, "kick", lambda _: None)
            pair.driver_port.inject(FRAME)
            for _ in range(8):
                fault = verdict(pair.world, "net0")
                await trio.sleep(1)
            assert fault is not None
            assert (fault.rule, fault.queue) == ("stalled-queue", "transmitq1")


async def test_lost_doorbells_are_those_that_were_sent_and_did_not_arrive() -> None:
    link = LinkSpec(root=ROOT, endpoint=ENDPOINT, faults=FaultSpec(seed=1, lost_doorbells=0.5))
    async with open_pair(Options(link=link)) as pair:
        for count in range(1, 41):
            pair.driver_port.inject(FRAME)
            await until(lambda count=count: pair.device_port.tx_packets >= count)  # type: ignore[misc]
        fault = verdict(pair.world, "net0")
    assert fault is not None
    assert (fault.rule, fault.queue) == ("lost-notifications", "transmitq1")
    assert " kicks did not arrive; a re-check found the work " in fault.text
