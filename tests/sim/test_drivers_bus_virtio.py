"""The driver's bus: figures over all lives of a device, the pace of bring-ups, and what comes before DRIVER_OK."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from rings.queue import QueueStatistics
from rings.status import Status
from vnet.cli.tree import tree
from vnet.system.snapshot import take_snapshot
from vnet.testing import FRAME, NetPair, Options, open_pair, unharmed, until
from vnet.testing.blk import open_blk_pair
from vnet.testing.rpmsg import open_rpmsg_pair
from vnet.testing.scsi import open_scsi_pair
from vnet.views.plain import to_plain

SMALL = Options(queue_size=16)


def figures(pair: NetPair) -> dict[str, tuple[QueueStatistics, int]]:
    """Figures of both ends of the transmit queue, which no bring-up adds to: the rings', and the batches."""
    driver, device = pair.virtio.queues[1], pair.device.vhost.queues
    actual = {"driver": (driver.statistics(), sum(driver.batches))}
    if device:
        actual["device"] = (device[1].statistics(), sum(device[1].batches))
    return actual


@pytest.mark.every_transport
async def test_figures_of_former_lives_count_once_over_failed_bring_ups(transport: str) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair):
        for _ in range(5):
            pair.driver_port.inject(FRAME)
            await pair.device_port.receive()
        await trio.testing.wait_all_tasks_blocked()
        before = figures(pair)
        assert before["driver"][0].chains == 5
        bus = pair.device.device_host.vhost
        driver = bus.match(pair.vhost)
        assert driver is not None
        virtio = pair.virtio
        for _ in range(3):
            await bus.unregister_driver(driver)  # nothing is offered: all bring-ups fail
            await trio.sleep(2)
            assert figures(pair)["driver"] == before["driver"]
            bus.register_driver(driver)
            await pair.world.wait_up()
            await trio.testing.wait_all_tasks_blocked()
            assert pair.virtio is virtio
            assert figures(pair) == before


async def test_figures_do_not_dip_while_the_link_is_down() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair):
        pair.driver_port.inject(FRAME)
        await pair.device_port.receive()
        await trio.testing.wait_all_tasks_blocked()
        before = figures(pair)
        pair.link.bring_down()
        assert figures(pair) == before
        await trio.sleep(1)
        assert figures(pair) == before
        pair.link.bring_up()
        await pair.world.wait_up()
        assert figures(pair) == before


async def test_rescues_count_over_all_resets() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair):
        pair.virtio.queues[0].signal.rescues = 3
        pair.vhost.queues[0].signal.rescues = 4
        await pair.reset()
        await pair.device.device_host.vhost.rebind(pair.vhost)
        await pair.world.wait_up()
        assert (pair.virtio.queues[0].signal.rescues, pair.vhost.queues[0].signal.rescues) == (3, 4)


# The pace of bring-ups


def doomed(pair: NetPair, monkeypatch: pytest.MonkeyPatch, lives: float) -> list[float]:
    """Have the device ask for a reset after ``lives`` seconds of each life; returns when it came up, as it happens."""
    began: list[float] = []
    write = pair.vhost.write_status

    def write_status(value: int) -> None:
        write(value)
        if value & Status.DRIVER_OK:
            began.append(trio.current_time())
            trio.lowlevel.spawn_system_task(fail, pair.vhost.resets)

    async def fail(life: int) -> None:
        await trio.sleep(lives)
        if pair.vhost.resets == life:
            pair.vhost.fail("again")

    monkeypatch.setattr(pair.vhost, "write_status", write_status)
    return began


@pytest.mark.parametrize("lives", [0, 0.2, 2])
async def test_a_device_that_resets_again_and_again_slows_down_and_says_so(
    monkeypatch: pytest.MonkeyPatch, lives: float
) -> None:
    async with open_pair(SMALL) as pair:
        began = doomed(pair, monkeypatch, lives)
        await pair.rc.virtio.rebind(pair.virtio)
        await trio.sleep(100)
        gaps = [later - earlier - lives for earlier, later in pairwise(began)]
        assert gaps[0] < 0.1
        assert all(later > 1.5 * earlier for earlier, later in pairwise(gaps[:8]))
        assert all(4.9 < gap < 5.1 for gap in gaps[10:])
        assert len(gaps) > 15
        virtio = pair.virtio
        reason = "the device asked for a reset"
        assert (virtio.last_reset, virtio.repeats, virtio.restarts) == (reason, virtio.restarts, virtio.restarts)
        actual: Any = to_plain(take_snapshot(pair.world))
        shown = actual["devices"]["net0"]["driver"]["last_reset"]
        assert 0 <= shown.pop("age") <= virtio.pause + lives
        assert shown == {"reason": reason, "in_a_row": virtio.restarts, "pause": virtio.pause}
        text = "\n".join(tree(take_snapshot(pair.world)))
        assert f"last reset, {virtio.restarts} in a row: {reason}" in text
        assert text.count("failed: the device asked for a reset") == 1


async def test_a_device_that_lived_well_comes_up_at_once_after_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_pair(SMALL) as pair:
        began = doomed(pair, monkeypatch, 0)
        await pair.rc.virtio.rebind(pair.virtio)
        await trio.sleep(30)
        monkeypatch.undo()
        await pair.world.wait_up()
        await trio.sleep(6)
        assert pair.virtio.pause == 0
        before = trio.current_time()
        pair.vhost.fail("of its own accord")
        await until(lambda: pair.virtio.status & Status.DRIVER_OK == 0)
        await pair.world.wait_up()
        assert trio.current_time() - before < 0.1
        assert began[-1] < before


async def test_restarts_for_different_reasons_are_counted_apart() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair):
        for repeats in (1, 2):
            pair.vhost.fail("of its own accord")
            await until(lambda: pair.virtio.restarts == repeats and pair.device.up)  # noqa: B023
            assert (pair.virtio.last_reset, pair.virtio.repeats) == ("the device asked for a reset", repeats)
        pair.link.bring_down()
        pair.link.bring_up()
        await until(lambda: pair.virtio.restarts == 3 and pair.device.up)
        assert (pair.virtio.last_reset, pair.virtio.repeats) == ("the link went down", 1)


# Before DRIVER_OK

OPENERS: dict[str, tuple[Callable[[], AbstractAsyncContextManager[Any]], int | None]] = {
    "net": (lambda: open_pair(Options(control=True)), 0),
    "blk": (open_blk_pair, None),
    "scsi": (open_scsi_pair, 1),
    "rpmsg": (open_rpmsg_pair, 0),
}
"""For each device type: a pair, and the queue that its driver fills with buffers, if there is one."""


@pytest.mark.every_transport
@pytest.mark.virtio("INIT-DRV-13")
@pytest.mark.parametrize(("opener", "filled"), OPENERS.values(), ids=OPENERS)
async def test_no_buffer_is_available_and_no_kick_sent_before_driver_ok(
    opener: Callable[[], AbstractAsyncContextManager[Any]], filled: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opener() as pair:
        vhost = pair.vhost
        write, looks = vhost.write_status, 0
        kicks = [(queue.kicks, queue.spurious) for queue in vhost.queues]

        def write_status(value: int) -> None:
            nonlocal looks
            if value & Status.DRIVER_OK:
                rings = [queue.ring for queue in vhost.queues if queue.ring is not None]
                assert not any(ring.notify_enable() for ring in rings), "a buffer is available already"
                assert [(queue.kicks, queue.spurious) for queue in vhost.queues] == kicks
                looks += len(rings)
            write(value)

        monkeypatch.setattr(vhost, "write_status", write_status)
        await pair.rc.virtio.rebind(pair.device.virtio)
        await pair.world.wait_up()
        await trio.testing.wait_all_tasks_blocked()
        assert looks
        if filled is not None:
            assert vhost.queues[filled].kicks > kicks[filled][0], "it is told of its buffers once it is live"
