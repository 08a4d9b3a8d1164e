"""A running device over a link with faults: what it survives, and how it recovers."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from drivers.bus.binding import BindState
from rings.status import Status
from support.rigs.faulty_link import ERRORS, FAILED_READS, FAULTY, faulty, open_bench
from vnet.link.base import Direction
from vnet.link.faults import Action, Flap, LinkRequest, Rule
from vnet.spec import FaultSpec, LinkSpec
from vnet.testing import FRAME, Options, bounded, open_pair, unharmed, until

UP, DOWN = Direction.UPSTREAM, Direction.DOWNSTREAM

# Reads that fail under a running device


@pytest.mark.parametrize("action", FAILED_READS)
async def test_a_device_that_can_not_read_a_buffer_asks_for_a_reset_and_never_sends_it(action: Action) -> None:
    async with open_pair(Options(link=FAULTY, devices=2)) as pair, unharmed(pair):
        faulty(pair).add(Rule(LinkRequest.DMA_READ, action, nth={3}))
        with bounded():
            for number in range(5):
                pair.driver_port.inject(FRAME + bytes([number]))
            await until(lambda: pair.virtio.restarts == 1)
        await pair.world.wait_up()
        arrived = []
        with trio.move_on_after(0.1):
            while True:
                arrived.append((await pair.device_port.receive())[1][-1])
        assert arrived == [0, 1]  # what came before it; what the ring held behind it went with the reset
        assert [ERRORS[action].__name__ for failure in pair.vhost.failures if "transmitq1" in failure] == [
            ERRORS[action].__name__
        ]


@pytest.mark.hostile("L10")
async def test_registers_that_read_all_ones_are_taken_for_a_lost_device_and_never_for_values() -> None:
    async with open_pair(Options(link=FAULTY)) as pair, unharmed(pair):
        device = pair.virtio
        faulty(pair).add(
            Rule(LinkRequest.READ, Action.TIME_OUT, rate=1),
            Rule(LinkRequest.INTERRUPT, Action.LOSE, nth={1_000_000}),  # the driver looks at the status again and again
        )
        with bounded(seconds=3):
            await until(lambda: device.restarts >= 2, seconds=3)  # noticed, and tried again in vain
        assert any("does not answer" in failure for failure in device.failures)
        assert not pair.device.up
        assert not any("descriptor" in failure or "index" in failure for failure in pair.vhost.failures)
        assert pair.rc.virtio.binding(device).state is not BindState.FAILED
        faulty(pair).clear()
        await pair.world.wait_up()
        assert pair.virtio is device


@pytest.mark.hostile("L05")
@pytest.mark.parametrize("number", range(1, 60, 3))
async def test_one_lost_completion_during_bring_up_is_made_up_for(number: int) -> None:
    async with open_pair(Options(link=FAULTY, queue_size=16)) as pair:
        faulty(pair).add(Rule(LinkRequest.READ, Action.TIME_OUT, nth={number}))
        await pair.reset()
        assert pair.virtio.status & Status.DRIVER_OK
        assert [queue.ring.num for queue in pair.virtio.queues] == [16, 16]
        assert pair.vhost.features == pair.virtio.features
        await pair.transfer(10_000)


@pytest.mark.hostile("L05")
async def test_a_lost_completion_during_bring_up_of_a_mailbox_is_made_up_for() -> None:
    async with open_pair(Options(link=FAULTY, queue_size=16, transport="epf_mailbox")) as pair:
        for number in range(1, 120, 3):
            faulty(pair).add(Rule(LinkRequest.READ, Action.TIME_OUT, nth={number}))
            await pair.reset()
            faulty(pair).clear()
            assert pair.vhost.features == pair.virtio.features
            await pair.transfer(1000)


# Flaps


@pytest.mark.hostile("L11")
@pytest.mark.parametrize("length", [0.001, 0.05, 0.1])
async def test_a_flap_under_load_keeps_drivers_bound_and_starts_a_new_epoch(length: float) -> None:
    spec = LinkSpec("rc", "ep", faults=FaultSpec(flap_ms=1000 * length))
    async with open_pair(Options(link=spec)) as pair, unharmed(pair):
        function, device, epoch = pair.function, pair.virtio, pair.link.epoch
        faulty(pair).add(Rule(LinkRequest.DOORBELL, Action.FLAP, nth={1}))
        for _ in range(200):
            pair.driver_port.inject(FRAME)
            pair.device_port.inject(FRAME)
        with bounded():
            await until(lambda: pair.link.epoch == epoch + 1)
        await pair.world.wait_up()
        assert (pair.function, pair.virtio) == (function, device)
        assert device.restarts == 1
        assert all(queue.ring.state().avail <= 200 + queue.ring.num for queue in device.queues)


@pytest.mark.hostile("L11")
async def test_a_hundred_flaps_in_a_second_end_in_a_system_that_works() -> None:
    async with open_pair(Options(link=FAULTY)) as pair, unharmed(pair):
        device, epoch = pair.virtio, pair.link.epoch
        faulty(pair).add(Flap(0, 0.005, 0.01, 100))
        with trio.move_on_after(1):
            while True:
                pair.driver_port.inject(FRAME)
                pair.device_port.inject(FRAME)
                await trio.sleep(0.001)
        await pair.world.wait_up()
        assert pair.link.epoch == epoch + 100
        assert pair.link.statistics().faults["link down"] == 100
        assert pair.virtio is device


async def test_flaps_come_as_planned_and_by_hand_it_stays_down() -> None:
    async with open_bench(flaps=[Flap(1, 0.05, 1, 3)]) as bench:
        moves = []
        for _ in range(4):
            moves.append(bench.link.up)
            await trio.sleep(1.01)
        assert moves == [True, False, False, False]  # at 0, 1.01, 2.02, 3.03
        assert bench.link.up
        assert bench.link.epoch == 4
        bench.link.add(Rule(LinkRequest.READ, Action.FLAP, nth={1}))
        assert bench.read() == 0xFFFF_FFFF
        assert not bench.link.up
        bench.link.bring_up()
        assert not bench.link.up  # the flap is not over
        bench.link.bring_down()
        await trio.sleep(1)
        assert not bench.link.up  # it was taken down by hand meanwhile
        bench.link.bring_up()
        assert bench.link.up


@pytest.mark.hostile("L11")
async def test_a_topology_that_asks_for_flaps_gets_traffic_between_them() -> None:
    faults = FaultSpec(flap_every_ms=500, flap_ms=20)
    async with open_pair(Options(link=LinkSpec("rc", "ep", faults=faults))) as pair:
        for flaps in range(1, 4):
            await pair.transfer()
            await trio.sleep(0.51)
            await pair.world.wait_up()
            assert pair.link.statistics().faults == {"link down": flaps}
            assert pair.link.epoch == 1 + flaps
