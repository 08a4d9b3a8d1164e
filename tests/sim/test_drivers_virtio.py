"""The driver's bus: figures over all lives of a device, and the pace of bring-ups."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from rings.queue import QueueStatistics
from vnet.testing import FRAME, Options, Pair, open_pair, unharmed

SMALL = Options(queue_size=16)


def figures(pair: Pair) -> dict[str, tuple[QueueStatistics, int]]:
    """Figures of both ends of the transmit queue, which no bring-up adds to: the rings', and the batches."""
    driver, device = pair.virtio.queues[1], pair.device.vhost.queues
    found = {"driver": (pair.virtio.statistics(driver), sum(driver.batches))}
    if device:
        found["device"] = (device[1].statistics(), sum(device[1].batches))
    return found


@pytest.mark.every_transport
async def test_figures_of_former_lives_count_once_over_failed_bring_ups(transport: str) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair):
        for _ in range(5):
            pair.driver_port.inject(FRAME)
            await pair.device_port.receive()
        await trio.testing.wait_all_tasks_blocked()
        before = figures(pair)
        assert before["driver"][0].chains == 5
        bus = pair.device.endpoint.vhost
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
        await pair.device.endpoint.vhost.rebind(pair.vhost)
        await pair.world.wait_up()
        assert (pair.virtio.queues[0].signal.rescues, pair.vhost.queues[0].signal.rescues) == (3, 4)
