"""Flaps, deaths and lost doorbells of either end of virtio over an NTB."""

from __future__ import annotations

import random

import pytest
import trio

from drivers.transports.ntb.end import BEAT, NtbEnd
from rings.errors import MemoryFault
from support.rigs.ntb import open_hosts

# Flaps


@pytest.mark.hostile("T02")
@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("down", [0, 0.001, 0.3])
async def test_a_flap_of_either_link_starts_a_new_session_with_rings_from_zero(at: int, down: float) -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        device = hosts.device
        assert device is not None
        queue, old = device.queues[0], hosts.back.memory()
        for _ in range(3):
            queue.ring.add(((hosts.front.dma.base, 1),), (), 0)
        queue.ring.publish()
        hosts.links[at].bring_down()
        assert not hosts.back.device.queues[0].live
        assert not queue.live
        if down:
            await trio.sleep(down)
            assert hosts.back.device.status == 0
        hosts.links[at].bring_up()
        await trio.sleep(0.1)
        await hosts.wait_up()
        assert (hosts.back.session, hosts.front.session) == (2, 2)
        assert hosts.ntb.link_epoch == 2
        states = (device.queues[0].ring.state(), hosts.back.device.queues[0].ring.state())  # type: ignore[union-attr]
        assert [(s.avail, s.used, s.in_flight) for s in states] == [(0, 0, 0)] * 2
        with pytest.raises(MemoryFault):
            old.view(hosts.front.dma.base, 1)


@pytest.mark.parametrize("at", [0, 1])
async def test_lost_completions_at_link_up_delay_the_next_session(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        function = (await hosts.raw(at))._function
        read, lost = function.bar_read, iter(range(2))

        def bar_read(bar: int, offset: int, size: int) -> int:
            return 0xFFFF_FFFF if next(lost, None) is not None else read(bar, offset, size)

        hosts.links[at].bring_down()
        monkeypatch.setattr(function, "bar_read", bar_read)
        hosts.links[at].bring_up()
        await trio.sleep(0.1)
        await hosts.wait_up()
        assert next(lost, None) is None
        assert hosts.back.session == hosts.front.session


async def test_a_storm_of_flaps_ends_well() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        dice = random.Random(7)
        for _ in range(200):
            link = dice.choice(hosts.links)
            dice.choice((link.bring_down, link.bring_up))()
            await trio.sleep(dice.random() / 50)
        for link in hosts.links:
            link.bring_up()
        await hosts.wait_up(5)
        assert hosts.back.session == hosts.front.session


# Ends that die


def kill(end: NtbEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    """That host does nothing any more; its link stays up."""

    async def look() -> None:
        pass

    monkeypatch.setattr(end, "_beat", lambda: None)
    monkeypatch.setattr(end, "_recheck", lambda: None)
    monkeypatch.setattr(end, "handle_scratchpads", look)
    monkeypatch.setattr(end, "db_event", lambda: None)
    monkeypatch.setattr(end, "link_event", lambda: None)


@pytest.mark.hostile("T01")
async def test_the_death_of_the_virtio_side_is_seen_within_200_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        await trio.sleep(random.Random(3).random())
        with monkeypatch.context() as dead:
            kill(hosts.front, dead)
            began = trio.current_time()
            with trio.fail_after(0.2):
                while hosts.back.session == 1:  # noqa: ASYNC110
                    await trio.sleep(0.001)
            assert trio.current_time() - began > BEAT
            assert hosts.ntb.link_is_up
            assert not any(queue.live for queue in hosts.back.device.queues)
            assert "no heartbeat" in hosts.back.device.failures[-1]
            await trio.sleep(5)
            assert len(hosts.back.device.failures) == 1
        await hosts.wait_up()  # it was only slow
        assert hosts.back.session == hosts.front.session == 2


@pytest.mark.hostile("T01")
async def test_the_death_of_the_vhost_side_is_seen_within_200_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        front = hosts.front
        with monkeypatch.context() as dead:
            kill(hosts.back, dead)
            with trio.fail_after(0.2):
                while front.online:  # noqa: ASYNC110
                    await trio.sleep(0.001)
            await trio.sleep(0.01)
            assert hosts.device is not None
            assert not any(queue.live for queue in hosts.device.queues)
            assert list(hosts.device.failures)[-2:] == [
                "session 1: no heartbeat from the other host",
                "the device can't be reached",
            ]
            assert front.dma.used == 0
            with pytest.raises(MemoryFault):  # what is freed is out of its reach
                hosts.back.memory().view(front.dma.base, 1)
            await trio.sleep(5)
            assert not front.online
        await hosts.wait_up()
        assert hosts.back.session == front.session == 2


@pytest.mark.hostile("T01")
async def test_a_vhost_side_that_starts_anew_is_noticed_although_it_beats() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        hosts.back.end()
        hosts.back._last_session = 0
        await trio.sleep(0.2)
        await hosts.wait_up()
        assert hosts.back.session == hosts.front.session == 2


async def test_both_ends_beat_for_as_long_as_they_live() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        await trio.sleep(100)
        assert (hosts.back.session, hosts.front.session) == (1, 1)
        assert not hosts.back.device.failures


# Doorbells that get lost


@pytest.mark.hostile("T04")
@pytest.mark.parametrize("end", [0, 1])
async def test_no_loss_of_doorbells_stops_a_queue_or_a_command(end: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        monkeypatch.setattr((hosts.back, hosts.front)[end].ntb, "peer_db_set", lambda bits: None)
        began = trio.current_time()
        await hosts.front.write_config(0, b"lost")
        assert trio.current_time() - began <= 0.1
        hosts.back.device.set_config(bytes(30))
        await trio.sleep(0.1)
        assert hosts.virtio.changes >= 1
