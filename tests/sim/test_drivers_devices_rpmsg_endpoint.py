"""rpmsg endpoints that wait, and endpoints over resets."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing

from drivers.devices.rpmsg import RpmsgBus, RpmsgConfig
from drivers.errors import MessageTooLong, NoBuffer, NotBound, SendTimeout
from support.rigs.rpmsg import SERVICES, balance, fill, ping_pong, settled
from vnet.testing.checks import until
from vnet.testing.rpmsg import RpmsgOptions, bound_pair, open_rpmsg_pair

SAMPLE = "rpmsg-client-sample"
HELLO = b"hello world!"

# Waiting


async def test_send_waits_for_a_destination() -> None:
    async with open_rpmsg_pair() as pair:
        alone = pair.buses[0].create(SAMPLE)
        with pytest.raises(NotBound):
            alone.send_nowait(HELLO)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alone.send, HELLO)
            await trio.sleep(10)
            assert await pair.buses[1].create(SAMPLE).receive() == HELLO


@pytest.mark.hostile("M03")
async def test_send_gives_up_after_fifteen_seconds_without_a_destination() -> None:
    async with open_rpmsg_pair() as pair:
        alone = pair.buses[0].create(SAMPLE)
        began = trio.current_time()
        with pytest.raises(SendTimeout):
            await alone.send(HELLO)
        assert trio.current_time() - began == pytest.approx(15)
        with pytest.raises(SendTimeout):
            await alone.send(HELLO, timeout=0.5)
        assert trio.current_time() - began == pytest.approx(15.5)


@pytest.mark.hostile("M03")
@pytest.mark.parametrize("side", [0, 1])
async def test_a_reader_that_stops_holds_its_sender_up_and_loses_nothing(side: int) -> None:
    """256 buffers, an inbox of 10: the 257th message that can't be sent finds no buffer."""
    async with open_rpmsg_pair() as pair:
        source = pair.buses[side].create(SAMPLE)
        sink = pair.buses[1 - side].create(SAMPLE, inbox=10)
        await source.wait_bound()
        taken = await fill(source)
        # The device does not know how many buffers the driver has left: that many may wait besides.
        assert taken == 10 + 256 + (256 if side else 0)
        began = trio.current_time()
        with pytest.raises(SendTimeout):
            await source.send(HELLO)
        assert trio.current_time() - began == pytest.approx(15)
        for count in range(taken):
            assert await sink.receive() == struct.pack("<I", count)
        await source.send(HELLO)
        assert await sink.receive() == HELLO
        await settled()
        balance(pair)


@pytest.mark.parametrize("side", [0, 1])
async def test_many_senders_wait_for_a_slow_reader_and_everything_arrives_in_order(side: int) -> None:
    async with open_rpmsg_pair(RpmsgOptions(queue_size=8)) as pair:
        source = pair.buses[side].create(SAMPLE)
        sink = pair.buses[1 - side].create(SAMPLE, inbox=4)

        async def send(task: int) -> None:
            for count in range(100):
                await source.send(struct.pack("<II", task, count))

        last = [-1] * 10
        async with trio.open_nursery() as nursery:
            for task in range(10):
                nursery.start_soon(send, task)
            for _ in range(1000):
                await trio.sleep(0.001)
                task, count = struct.unpack("<II", await sink.receive())
                assert count == last[task] + 1
                last[task] = count
        balance(pair)


async def test_send_nowait_does_not_overtake_those_who_wait() -> None:
    async with open_rpmsg_pair(RpmsgOptions(queue_size=2)) as pair:
        source = pair.buses[0].create(SAMPLE)
        sink = pair.buses[1].create(SAMPLE, inbox=1)
        await source.wait_bound()
        taken = await fill(source)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.send, b"waits")
            await settled()
            with pytest.raises(NoBuffer):
                source.send_nowait(b"overtakes")
            for _ in range(taken):
                await sink.receive()
            assert await sink.receive() == b"waits"


async def test_a_sender_whose_turn_comes_without_a_destination_leaves_it_to_the_next() -> None:
    async with open_rpmsg_pair(RpmsgOptions(queue_size=2)) as pair:
        first, second = (pair.buses[0].create(name) for name in ("first", "second"))
        gone, sink = pair.buses[1].create("first"), pair.buses[1].create("second", inbox=1)
        await first.wait_bound()
        await second.wait_bound()
        taken = await fill(second)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.send, HELLO)
            await settled()
            nursery.start_soon(second.send, HELLO)
            await settled()
            first.unbind()  # as if the other side's endpoint had just gone
            assert await sink.receive() == struct.pack("<I", 0)
            await settled()
            assert second.statistics().sent == taken + 1
            first.bind(gone.addr)
            with trio.fail_after(1):
                for _ in range(taken - 1):
                    await sink.receive()
                assert await sink.receive() == HELLO
                assert await gone.receive() == HELLO


async def test_a_message_that_waited_is_refused_where_the_next_device_has_smaller_buffers() -> None:
    async with open_rpmsg_pair() as pair:
        source = pair.buses[0].create(SAMPLE)
        refused = trio.Event()

        async def send() -> None:
            with pytest.raises(MessageTooLong):
                await source.send(bytes(496))
            refused.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await settled()
            pair.ends[1].settings.config = RpmsgConfig(512, 128)
            await pair.ep.vhost.rebind(pair.vhost)
            await until(lambda: pair.virtio.restarts)
            await pair.world.wait_up()
            pair.buses[1].create(SAMPLE)
            with trio.fail_after(1):
                await refused.wait()
        assert source.max_payload == 112


async def test_an_unread_lossy_endpoint_holds_up_no_other() -> None:
    async with open_rpmsg_pair() as pair:
        source, other = (pair.buses[0].create(name) for name in ("deaf", "other"))
        deaf = pair.buses[1].create("deaf", inbox=5, lossy=True)
        sink = pair.buses[1].create("other")
        for _ in range(1000):
            await source.send(HELLO)
        await other.send(HELLO)
        with trio.fail_after(1):
            assert await sink.receive() == HELLO
        assert deaf.statistics().drops == pair.buses[1].received.drops == {"inbox_full": 995}
        balance(pair)


async def test_becoming_lossy_lets_go_of_what_was_held_up() -> None:
    async with open_rpmsg_pair() as pair:
        source, other = (pair.buses[0].create(name) for name in ("deaf", "other"))
        deaf = pair.buses[1].create("deaf", inbox=1)
        sink = pair.buses[1].create("other")
        for _ in range(3):
            await source.send(HELLO)
        await other.send(HELLO)
        await settled()
        with pytest.raises(trio.WouldBlock):
            sink.receive_nowait()
        deaf.lossy = True
        with trio.fail_after(1):
            assert await sink.receive() == HELLO


async def test_closing_an_endpoint_wakes_all_its_waiters() -> None:
    async with open_rpmsg_pair() as pair:
        end = pair.buses[0].create(SAMPLE)

        async def closed(wait: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await wait()

        async def iterate() -> None:
            async for _ in pair.buses[0].create("other", announce=False):
                raise AssertionError

        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:
                for wait in (end.receive, partial(end.send, HELLO), end.wait_bound):
                    nursery.start_soon(closed, wait)
                nursery.start_soon(iterate)
                await settled()
                for endpoint in pair.buses[0].endpoints:
                    endpoint.close()
                end.close()
        with pytest.raises(trio.ClosedResourceError):
            end.send_nowait(HELLO)
        with pytest.raises(trio.ClosedResourceError):
            end.receive_nowait()


async def test_one_task_at_a_time_receives() -> None:
    end = RpmsgBus().create("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end.receive)
        await settled()
        with pytest.raises(trio.BusyResourceError):
            await end.receive()
        nursery.cancel_scope.cancel()


async def test_a_task_that_never_has_to_wait_lets_others_run_and_can_be_cancelled() -> None:
    async with open_rpmsg_pair() as pair:
        source, sink = await bound_pair(*pair.buses, SAMPLE)
        received = 0
        with trio.move_on_after(1) as scope:
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    while True:
                        await source.send(HELLO)

                nursery.start_soon(send)
                async for _ in sink:
                    received += 1
                    if received == 10_000:
                        scope.cancel()
        assert scope.cancelled_caught
        assert received == 10_000


# Resets


@pytest.mark.parametrize("off", SERVICES.values(), ids=SERVICES.keys())
@pytest.mark.parametrize("how", ["reset", "link"])
async def test_endpoints_outlive_the_device_and_are_announced_anew(how: str, off: tuple[str, ...]) -> None:
    async with open_rpmsg_pair(RpmsgOptions(features_off=off)) as pair:
        ends = [await bound_pair(*pair.buses, f"channel {i}") for i in range(5)]
        for _ in range(3):
            if how == "link":
                pair.link.bring_down()
                await until(lambda: not any(bus.online for bus in pair.buses))
                assert not any(end.bound for both in ends for end in both)
                assert not any(bus.services for bus in pair.buses)
                pair.link.bring_up()
                await pair.world.wait_up()
            else:
                await pair.reset()
            for both in ends:
                await ping_pong(*both, 2)


async def test_a_sender_waits_while_the_link_is_down() -> None:
    async with open_rpmsg_pair() as pair:
        source, sink = await bound_pair(*pair.buses, SAMPLE)
        pair.link.bring_down()
        await until(lambda: not any(bus.online for bus in pair.buses))
        with pytest.raises(NotBound):
            source.send_nowait(HELLO)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.send, HELLO)
            await trio.sleep(5)
            pair.link.bring_up()
            assert await sink.receive() == HELLO


@pytest.mark.parametrize("side", [0, 1])
async def test_messages_lost_in_a_reset_are_counted(side: int) -> None:
    async with open_rpmsg_pair() as pair:
        source = pair.buses[side].create(SAMPLE)
        pair.buses[1 - side].create(SAMPLE, inbox=10)
        await source.wait_bound()
        taken = await fill(source)
        unsent = pair.buses[side].statistics().unsent
        assert unsent == (256 if side else 0)
        await pair.reset()
        assert pair.buses[side].sent.drops == ({"reset": unsent} if unsent else {})
        assert pair.buses[side].sent.packets >= taken - unsent
        await pair.transfer(1 << 16)


async def test_traffic_goes_on_after_the_link_came_back_under_load() -> None:
    async with open_rpmsg_pair() as pair:
        source, sink = await bound_pair(*pair.buses, SAMPLE)
        seen: list[int] = []

        async def send() -> None:
            for count in itertools.count():
                await source.send(struct.pack("<I", count))

        async def receive() -> None:
            async for message in sink:
                seen.append(struct.unpack("<I", message)[0])
                if len(seen) % 50 == 0:
                    await trio.sleep(0.0001)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(receive)
            for _ in range(5):
                await trio.sleep(0.003)
                pair.link.bring_down()
                await trio.sleep(0.01)
                pair.link.bring_up()
                await pair.world.wait_up()
                before = len(seen)
                await until(lambda before=before: len(seen) > before + 100)  # type: ignore[misc]
            nursery.cancel_scope.cancel()
        assert seen == sorted(set(seen)), "nothing arrives twice, or out of order"
