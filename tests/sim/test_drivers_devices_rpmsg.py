"""rpmsg between two hosts: every message arrives or is counted."""

from __future__ import annotations

import itertools
import json

import pytest
import trio
import trio.testing

from drivers.devices.rpmsg import Endpoint
from drivers.devices.rpmsg.directory import MAX_ENDPOINTS
from drivers.devices.rpmsg.layout import FIRST_DYNAMIC, NS_ADDR, NameMessage
from drivers.errors import MessageTooLong, SendTimeout
from support.rigs.rpmsg import SERVICES, balance, fill, ping_pong, settled
from vnet.cli.tree import tree
from vnet.ends.rpmsg import ChannelSpec
from vnet.spec import FaultSpec, LinkSpec
from vnet.system.snapshot import take_snapshot
from vnet.system.world import open_world
from vnet.testing.pair import ENDPOINT, ROOT
from vnet.testing.rpmsg import RpmsgOptions, bound_pair, open_rpmsg_pair
from vnet.topology import parse
from vnet.transports import TRANSPORTS
from vnet.views.plain import to_plain

SAMPLE = "rpmsg-client-sample"
HELLO = b"hello world!"
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


async def test_buffers_that_a_sender_finds_by_itself_are_used_without_a_notification() -> None:
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


# What is shown


async def test_a_running_system_shows_its_channels() -> None:
    channels = (ChannelSpec("echo", surface="echo"), ChannelSpec("idle", addr=9))
    async with open_rpmsg_pair(RpmsgOptions(device=channels)) as pair:
        await ping_pong_echo(pair.buses[0].create("echo"))
        actual = json.loads(json.dumps(to_plain(take_snapshot(pair.world))))
        port = actual["devices"]["rpmsg0"]["device"]["port"]
        assert [(end["name"], end["addr"], end["surface"]) for end in port["endpoints"]] == [
            ("echo", FIRST_DYNAMIC, "echo"),
            ("idle", 9, "none"),
        ]
        assert actual["drops"] == {}
        assert any("rpmsg0" in line for line in tree(take_snapshot(pair.world)))
        rows = actual["devices"]["rpmsg0"]["driver"]["queues"]
        assert [row["name"] for row in rows] == ["receiveq", "transmitq"]
        assert [row["packets"] for row in rows] == [12, 11], "10 messages, two announcements, one assignment"


async def ping_pong_echo(end: Endpoint) -> None:
    with trio.fail_after(1):
        for _ in range(10):
            await end.send(HELLO)
            assert await end.receive() == HELLO


@pytest.mark.hostile("M02")
async def test_a_hundred_thousand_announcements_are_bounded() -> None:
    """The peer is well otherwise: its later messages are delivered."""
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
