"""rpmsg between two hosts: endpoints find each other, and no message is lost without being counted."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing

from drivers.devices.rpmsg import Endpoint, RpmsgBus, RpmsgConfig
from drivers.devices.rpmsg.directory import MAX_ENDPOINTS
from drivers.devices.rpmsg.layout import ADDR_ANY, FIRST_DYNAMIC, NS_ADDR, NameMessage
from drivers.errors import MessageTooLong, NoBuffer, NotBound, RpmsgError, SendTimeout
from drivers.registry import TRANSPORTS
from vnet.cli.show import tree
from vnet.ends.rpmsg import ChannelSpec
from vnet.spec import FaultSpec, LinkSpec
from vnet.system.snapshot import describe
from vnet.system.world import open_world
from vnet.testing.checks import until
from vnet.testing.pair import ENDPOINT, ROOT
from vnet.testing.rpmsg import RpmsgOptions, RpmsgPair, bound_pair, open_rpmsg_pair
from vnet.topology import parse

SAMPLE = "rpmsg-client-sample"
HELLO = b"hello world!"
SERVICES = {"both services": (), "no address service": ("AS",)}
LINKED = [name for name, transport in TRANSPORTS.items() if transport.on in {"link", "host"}]
TIMED = LinkSpec(root=ROOT, endpoint=ENDPOINT, generation=2, lanes=1)
NTB = """
[hosts]
host1 = { memory = 96 }
host2 = {}
soc = {}
[links.a]
root = "host2"
endpoint = "soc"
[links.b]
root = "host1"
endpoint = "soc"
[ntbs.ntb0]
host = "soc"
primary = "a"
secondary = "b"
[devices.rpmsg0]
type = "rpmsg"
transport = "ntb"
ntb = "ntb0"
device = { channels = [{ name = "echo", surface = "echo" }] }
"""


async def ping_pong(first: Endpoint, second: Endpoint, count: int = 100, seconds: float = 1) -> None:
    """``count`` messages each way, each answered before the next. Raises trio.TooSlowError."""
    with trio.fail_after(seconds):
        for _ in range(count):
            await first.send(HELLO)
            assert await second.receive() == HELLO
            await second.send(HELLO)
            assert await first.receive() == HELLO


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked()


def balance(pair: RpmsgPair) -> None:
    """What one side sent the other received or dropped, and counted."""
    for source, sink in (pair.buses, pair.buses[::-1]):
        assert source.sent.packets == sink.received.packets + sum(sink.received.drops.values())


# Messages


@pytest.mark.parametrize("off", SERVICES.values(), ids=SERVICES.keys())
async def test_a_hundred_hello_worlds_go_each_way(off: tuple[str, ...]) -> None:
    async with open_rpmsg_pair(RpmsgOptions(features_off=off)) as pair:
        ends = await bound_pair(*pair.buses, SAMPLE)
        await ping_pong(*ends)
        assert [end.statistics().sent for end in ends] == [end.statistics().received for end in ends] == [100, 100]
        balance(pair)


@pytest.mark.parametrize("transport", LINKED)
@pytest.mark.parametrize("link", [LinkSpec(root=ROOT, endpoint=ENDPOINT), TIMED], ids=["ideal", "timed"])
async def test_every_transport_carries_it(transport: str, link: LinkSpec) -> None:
    async with open_rpmsg_pair(RpmsgOptions(transport=transport, link=link)) as pair:
        await ping_pong(*await bound_pair(*pair.buses, SAMPLE))
        await pair.transfer(1 << 18)
        balance(pair)


async def test_lost_notifications_cost_time_and_no_message() -> None:
    faults = FaultSpec(seed=3, lost_doorbells=0.2, lost_interrupts=0.2)
    link = LinkSpec(root=ROOT, endpoint=ENDPOINT, faults=faults)
    async with open_rpmsg_pair(RpmsgOptions(link=link, queue_size=16)) as pair:
        await ping_pong(*await bound_pair(*pair.buses, SAMPLE), seconds=20)
        await pair.transfer(1 << 16)
        signals = [queue.signal for queue in pair.virtio.queues] + [queue.signal for queue in pair.vhost.queues]
        assert sum(signal.rescues for signal in signals)
        balance(pair)


async def test_buffers_that_a_sender_finds_by_itself_are_used_though_nobody_told_of_them() -> None:
    link = LinkSpec(root=ROOT, endpoint=ENDPOINT, faults=FaultSpec(lost_interrupts=1.0))
    async with open_rpmsg_pair(RpmsgOptions(link=link, queue_size=4)) as pair:
        source = pair.buses[0].create(SAMPLE)
        sink = pair.buses[1].create(SAMPLE, inbox=1)
        await source.wait_bound()
        taken = await fill(source)
        with pytest.raises(SendTimeout):
            await source.send(HELLO, timeout=0.1)  # from here on the driver waits to be told
        for _ in range(taken):
            await sink.receive()
        await settled()
        source.send_nowait(HELLO)
        with trio.fail_after(0.1):
            assert await sink.receive() == HELLO


async def test_an_ntb_carries_it() -> None:
    async with open_world(parse(NTB), "test") as world:
        await world.wait_up()
        bus = world.devices["rpmsg0"].driver_end.settings.bus  # type: ignore[attr-defined]
        end = bus.create("echo")
        with trio.fail_after(5):
            for _ in range(100):
                await end.send(HELLO)
                assert await end.receive() == HELLO


@pytest.mark.parametrize("size", [0, 1, 495, 496])
async def test_messages_of_every_size_up_to_the_largest_arrive_as_they_were_sent(size: int) -> None:
    async with open_rpmsg_pair() as pair:
        for source, sink in itertools.permutations(await bound_pair(*pair.buses, "a")):
            message = bytes(i & 0xFF for i in range(size))
            await source.send(bytearray(message))
            assert await sink.receive() == message


async def test_a_message_that_no_buffer_holds_is_refused() -> None:
    async with open_rpmsg_pair() as pair:
        for end in await bound_pair(*pair.buses, "a"):
            assert end.max_payload == 496
            with pytest.raises(MessageTooLong):
                await end.send(bytes(497))
            with pytest.raises(MessageTooLong):
                end.send_nowait(bytes(497))
        await settled()
        balance(pair)


async def test_the_device_says_how_many_buffers_there_are_and_how_large_they_are() -> None:
    options = RpmsgOptions(queue_size=16, to_driver=4096, to_device=128)
    async with open_rpmsg_pair(options) as pair:
        driver, device = await bound_pair(*pair.buses, "a")
        assert (driver.max_payload, device.max_payload) == (112, 4080)
        assert [queue.ring.num for queue in pair.virtio.queues] == [16, 16]
        await driver.send(bytes(112))
        await device.send(bytes(4080))
        assert (len(await driver.receive()), len(await device.receive())) == (4080, 112)
        await pair.transfer(1 << 16)


async def test_buffers_have_512_bytes_where_their_size_was_not_agreed_on() -> None:
    async with open_rpmsg_pair(RpmsgOptions(features_off=("BUFSZ",), to_driver=4096, to_device=4096)) as pair:
        assert [end.max_payload for end in await bound_pair(*pair.buses, "a")] == [496, 496]
        await pair.transfer(1 << 16)


@pytest.mark.parametrize("off", [("EVENT_IDX",), ("INDIRECT_DESC",), ("EVENT_IDX", "INDIRECT_DESC", "BUFSZ", "AS")])
@pytest.mark.parametrize("queue_size", [2, 256])
async def test_it_works_without_ring_features_and_with_few_buffers(off: tuple[str, ...], queue_size: int) -> None:
    async with open_rpmsg_pair(RpmsgOptions(features_off=off, queue_size=queue_size)) as pair:
        await pair.transfer(1 << 16)
        balance(pair)


async def test_messages_to_any_address_show_where_they_come_from() -> None:
    """An endpoint with a well-known address serves many, none of which it is bound to."""
    async with open_rpmsg_pair() as pair:
        server = pair.buses[1].create("server", addr=100, announce=False)
        clients = [pair.buses[0].create(f"c{i}", dst=100) for i in range(3)]
        for client in clients:
            await client.send(client.name.encode())
        for client in clients:
            data, src = (await server.receive_from())[::-1]
            assert (data.decode(), src) == (client.name, client.addr)
            await server.send(b"to " + data, src)
        assert [await client.receive() for client in clients] == [b"to c0", b"to c1", b"to c2"]


# Who finds whom


@pytest.mark.parametrize("off", SERVICES.values(), ids=SERVICES.keys())
@pytest.mark.parametrize("order", list(itertools.permutations(("driver", "device", "up"))), ids="-".join)
async def test_endpoints_find_each_other_whichever_comes_first(order: tuple[str, ...], off: tuple[str, ...]) -> None:
    async with open_rpmsg_pair(RpmsgOptions(features_off=off)) as pair:
        pair.link.bring_down()
        await until(lambda: not any(bus.online for bus in pair.buses))
        ends: dict[str, Endpoint] = {}
        for step in order:
            if step == "up":
                pair.link.bring_up()
                await pair.world.wait_up()
            else:
                ends[step] = pair.buses[step == "device"].create(SAMPLE)
            await settled()
        await ping_pong(ends["driver"], ends["device"], 3)
        assert (ends["driver"].dst, ends["device"].dst) == (ends["device"].addr, ends["driver"].addr)


@pytest.mark.parametrize("off", SERVICES.values(), ids=SERVICES.keys())
@pytest.mark.parametrize("side", [0, 1])
async def test_one_that_only_binds_finds_one_that_announces(side: int, off: tuple[str, ...]) -> None:
    """What Linux does: the virtio side never announces what it did not create."""
    async with open_rpmsg_pair(RpmsgOptions(features_off=off)) as pair:
        quiet = pair.buses[side].create(SAMPLE, announce=False)
        loud = pair.buses[1 - side].create(SAMPLE)
        await ping_pong(quiet, loud, 3)
        assert not pair.buses[1 - side].services


async def test_both_can_announce_at_once() -> None:
    async with open_rpmsg_pair() as pair:
        ends = [bus.create(SAMPLE) for bus in pair.buses]
        await ping_pong(ends[0], ends[1], 3)
        assert not any(bus.received.drops for bus in pair.buses)


@pytest.mark.parametrize("off", SERVICES.values(), ids=SERVICES.keys())
@pytest.mark.parametrize("side", [0, 1])
async def test_an_endpoint_that_is_closed_is_gone_for_the_other_side_and_may_come_again(
    side: int, off: tuple[str, ...]
) -> None:
    async with open_rpmsg_pair(RpmsgOptions(features_off=off)) as pair:
        ends = list(await bound_pair(*pair.buses, SAMPLE))
        for _ in range(3):
            await ping_pong(ends[0], ends[1], 2)
            ends[side].close()
            await until(lambda: not ends[1 - side].bound)
            assert SAMPLE not in pair.buses[1 - side].services.values()
            ends[side] = pair.buses[side].create(SAMPLE)
        await ping_pong(ends[0], ends[1], 2)
        balance(pair)


async def test_a_name_can_be_used_many_times() -> None:
    async with open_rpmsg_pair() as pair:
        first = [pair.buses[0].create("many") for _ in range(20)]
        second = [pair.buses[1].create("many") for _ in range(20)]
        for end in first + second:
            await end.wait_bound()
        by_addr = {end.addr: end for end in second}
        assert sorted(end.dst for end in first) == sorted(by_addr)
        for end in first:
            await ping_pong(end, by_addr[end.dst], 1)


async def test_nothing_is_announced_before_the_device_runs() -> None:
    channels = tuple(ChannelSpec(name) for name in ("a", "b"))
    async with open_world(RpmsgOptions(device=channels).topology(), "test") as world:
        bus: RpmsgBus = world.devices["rpmsg0"].device_end.settings.bus  # type: ignore[attr-defined]
        other: RpmsgBus = world.devices["rpmsg0"].driver_end.settings.bus  # type: ignore[attr-defined]
        assert [end.name for end in bus.endpoints] == ["a", "b"]
        assert (bus.online, bus.sent.packets) == (False, 0)
        await world.wait_up()
        await settled()
        assert list(other.services.values()) == ["a", "b"]
        assert list(other.services) == [FIRST_DYNAMIC, FIRST_DYNAMIC + 1]


async def test_without_name_service_addresses_are_given() -> None:
    async with open_rpmsg_pair(RpmsgOptions(features_off=("NS", "AS"))) as pair:
        server = pair.buses[1].create(SAMPLE, addr=7)
        client = pair.buses[0].create(SAMPLE, dst=7)
        await settled()
        assert not server.bound
        await ping_pong(client, server)
        assert not any(bus.received.drops for bus in pair.buses)


async def test_an_assignment_does_not_move_an_endpoint_that_is_bound() -> None:
    async with open_rpmsg_pair() as pair:
        first, second = await bound_pair(*pair.buses, SAMPLE)
        message = SAMPLE.encode().ljust(32, b"\0") + struct.pack("<III", 2000, second.addr, 1)
        await first.send(message, 54)
        await settled()
        assert second.dst == first.addr
        assert pair.buses[1].received.drops == {"as_busy": 1}


async def test_an_endpoint_has_its_address_for_itself() -> None:
    bus = RpmsgBus()
    bus.create("a", addr=40)
    for addr in (40, 53, 54, -1, ADDR_ANY):
        with pytest.raises(RpmsgError):
            bus.create("b", addr=addr)
    with pytest.raises(RpmsgError):
        bus.create("b", dst=53)
    with pytest.raises(RpmsgError):
        bus.create("b", inbox=0)
    with pytest.raises(RpmsgError):
        bus.create("x" * 32)
    assert bus.create("b").addr == FIRST_DYNAMIC
    bus.endpoints[-1].close()
    assert bus.create("b").addr == FIRST_DYNAMIC + 1, "a message for one that is gone must not find the next one"


async def test_a_thousand_endpoints_talk_and_one_more_than_the_cap_is_refused() -> None:
    async with open_rpmsg_pair() as pair:
        first, second = ([bus.create(f"channel {i}") for i in range(MAX_ENDPOINTS)] for bus in pair.buses)
        for bus in pair.buses:
            with pytest.raises(RpmsgError):
                bus.create("one more")
        with trio.fail_after(5):
            for end in first:
                await end.send(end.name.encode())
            for end in second:
                assert await end.receive() == end.name.encode()
        assert not any(bus.received.drops for bus in pair.buses)
        for end in second:
            end.close()
        await until(lambda: not any(end.bound for end in first))


# Waiting


async def test_send_waits_until_there_is_somebody_to_send_to() -> None:
    async with open_rpmsg_pair() as pair:
        alone = pair.buses[0].create(SAMPLE)
        with pytest.raises(NotBound):
            alone.send_nowait(HELLO)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alone.send, HELLO)
            await trio.sleep(10)
            assert await pair.buses[1].create(SAMPLE).receive() == HELLO


@pytest.mark.hostile("M03")
async def test_send_gives_up_after_fifteen_seconds_without_somebody() -> None:
    async with open_rpmsg_pair() as pair:
        alone = pair.buses[0].create(SAMPLE)
        began = trio.current_time()
        with pytest.raises(SendTimeout):
            await alone.send(HELLO)
        assert trio.current_time() - began == pytest.approx(15)
        with pytest.raises(SendTimeout):
            await alone.send(HELLO, timeout=0.5)
        assert trio.current_time() - began == pytest.approx(15.5)


async def fill(source: Endpoint) -> int:
    """Send until no buffer is free, and none comes free; how many messages that took."""
    count = tries = 0
    while tries < 2:
        try:
            source.send_nowait(struct.pack("<I", count))
        except NoBuffer:
            tries += 1
            await settled()
        else:
            count, tries = count + 1, 0
    return count


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


async def test_a_sender_whose_turn_comes_when_it_has_nobody_to_send_to_leaves_it_to_the_next() -> None:
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
            pair.ends[1].settings.config = RpmsgConfig(512, 128)  # type: ignore[union-attr]
            await pair.ep.vhost.rebind(pair.vhost)
            await until(lambda: pair.virtio.restarts)
            await pair.world.wait_up()
            pair.buses[1].create(SAMPLE)
            with trio.fail_after(1):
                await refused.wait()
        assert source.max_payload == 112


async def test_an_endpoint_that_nobody_reads_can_be_lossy_and_then_holds_nobody_up() -> None:
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


async def test_closing_an_endpoint_wakes_everybody_who_waits_at_it() -> None:
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
async def test_what_a_reset_takes_is_counted(side: int) -> None:
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


# What is shown


async def test_a_running_system_shows_its_channels() -> None:
    channels = (ChannelSpec("echo", surface="echo"), ChannelSpec("idle", addr=9))
    async with open_rpmsg_pair(RpmsgOptions(device=channels)) as pair:
        await ping_pong_echo(pair.buses[0].create("echo"))
        found = json.loads(json.dumps(describe(pair.world)))
        port = found["devices"]["rpmsg0"]["device"]["port"]
        assert [(end["name"], end["addr"], end["surface"]) for end in port["endpoints"]] == [
            ("echo", FIRST_DYNAMIC, "echo"),
            ("idle", 9, "none"),
        ]
        assert found["drops"] == {}
        assert any("rpmsg0" in line for line in tree(found))
        rows = found["devices"]["rpmsg0"]["driver"]["queues"]
        assert [row["name"] for row in rows] == ["receiveq", "transmitq"]
        assert [row["packets"] for row in rows] == [12, 11], "10 messages, two announcements, one assignment"


async def ping_pong_echo(end: Endpoint) -> None:
    with trio.fail_after(1):
        for _ in range(10):
            await end.send(HELLO)
            assert await end.receive() == HELLO


@pytest.mark.hostile("M02")
async def test_a_hundred_thousand_announcements_are_bounded() -> None:
    """By a peer that is otherwise well: what it can still say afterwards is heard."""
    flood = 100_000
    async with open_rpmsg_pair() as pair:
        driver, device = pair.buses
        source = driver.create("flood")
        with trio.fail_after(30):
            for addr in range(10_000, 10_000 + flood):
                await source.send(NameMessage(f"n{addr}", addr).emit(), NS_ADDR)
            await settled()
        assert len(device.services) == MAX_ENDPOINTS
        assert device.received.drops == {"ns_full": flood + 1 - MAX_ENDPOINTS}
        assert len(device.outbox) == 0
        addr = next(iter(device.services))
        await source.send(NameMessage(device.services[addr], addr, flags=1).emit(), NS_ADDR)  # type: ignore[arg-type]
        await ping_pong(driver.create(SAMPLE), device.create(SAMPLE), 2)
        balance(pair)
