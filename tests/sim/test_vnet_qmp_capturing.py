"""A capture over the control socket: what is sent, what ends it, and a client that does not take it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair

from drivers.contracts.events import LinkMoved, Source, Topic
from vnet.capture import recorder
from vnet.capture.captured import parse_packet
from vnet.capture.pcapng import PacketBlock, PcapngBlock, PcapngReader, PcapngStatistics
from vnet.qmp.server import ControlServer
from vnet.system.world import World, open_world
from vnet.topology import DEFAULT, parse

IN_MEMORY = parse(DEFAULT.replace('"tun"', '"memory"'))
ALL: dict[str, Any] = {"on": [], "events": [], "filters": [], "snaplen": 256}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world(IN_MEMORY, "t-capture") as world:
        await world.wait_up()
        yield world


class Client:
    """One end of a connection, over which a capture was asked for."""

    def __init__(self, stream: trio.StapledStream[Any, Any]) -> None:
        self.stream = stream
        self.reader = PcapngReader()
        self._rest = b""

    async def ask(self, **choice: Any) -> dict[str, Any]:
        """Send the command; the reply."""
        await self._line()
        await self.stream.send_all(b'{"execute": "qmp_capabilities"}')
        await self._line()
        command = {"execute": "capture", "arguments": ALL | choice}
        await self.stream.send_all(json.dumps(command).encode())
        return await self._line()

    async def _line(self) -> dict[str, Any]:
        while b"\r\n" not in self._rest:
            self._rest += await self.stream.receive_some()
        line, _, self._rest = self._rest.partition(b"\r\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    async def blocks(self) -> list[PcapngBlock]:
        """All blocks up to the end."""
        read = list(self.reader.feed(self._rest))
        while data := await self.stream.receive_some():
            read += self.reader.feed(bytes(data))
        assert self.reader.complete
        return read

    async def end(self) -> list[PcapngBlock]:
        await self.stream.send_eof()
        return await self.blocks()


async def serve(world: World, stream: trio.StapledStream[Any, Any]) -> None:
    """Serve a client as the control socket does: at the end, the connection is closed."""
    async with stream:
        await ControlServer(world).converse(stream)


@asynccontextmanager
async def open_client(world: World) -> AsyncIterator[Client]:
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, world, theirs)
        yield Client(ours)
        await ours.aclose()


def kinds(blocks: list[PcapngBlock]) -> list[str]:
    return [type(parse_packet(each).event).__name__ for each in blocks if isinstance(each, PacketBlock)]


async def flap(world: World) -> None:
    await trio.sleep(0.1)
    world.links["pcie0"].bring_down()
    world.links["pcie0"].bring_up()
    await world.wait_up()


async def test_a_client_receives_events_until_it_ends_the_capture(world: World) -> None:
    sinks = list(world.events._sinks[Topic.LINKS])
    async with open_client(world) as client:
        assert await client.ask(events=["links"]) == {"return": {}}
        await flap(world)
        blocks = await client.end()
    assert kinds(blocks) == ["LinkMoved", "LinkMoved"]
    assert world.events._sinks[Topic.LINKS] == sinks
    (statistics,) = [block for block in blocks if isinstance(block, PcapngStatistics)]
    assert (statistics.interface.name, statistics.received, statistics.dropped) == ("pcie0", 2, 0)


async def test_all_events_come_with_times_that_never_go_back(world: World) -> None:
    async with open_client(world) as client:
        await client.ask()
        await flap(world)
        blocks = await client.end()
    times = [block.time for block in blocks if isinstance(block, PacketBlock)]
    assert times == sorted(times)
    assert {"LinkMoved", "StatusChanged", "FeaturesNegotiated", "QueueEnabled"} <= set(kinds(blocks))


async def test_only_what_was_chosen_is_sent(world: World) -> None:
    async with open_client(world) as client:
        await client.ask(events=["lifecycle"], filters=["lifecycle.status == 15", "side == driver"], on=["net0"])
        await flap(world)
        assert kinds(await client.end()) == ["StatusChanged"]


async def test_a_link_stands_for_the_devices_on_it_whose_events_name_no_link(world: World) -> None:
    async with open_client(world) as client:
        await client.ask(events=["lifecycle", "links"], on=["pcie0"])
        await flap(world)
        assert {"LinkMoved", "StatusChanged", "QueueEnabled"} <= set(kinds(await client.end()))


@pytest.mark.parametrize(
    ("choice", "why"),
    [
        ({"on": ["net1"]}, "device or link 'net1': must be one of net0, pcie0"),
        ({"events": ["frames", "smoke"]}, "events 'smoke': must be one of lifecycle, losses, links, "),
        ({"filters": ["x"]}, "filter 'x': must be a field, one of"),
        ({"snaplen": -1}, "snaplen -1: must be 0 to 262144 (bytes of a frame)"),
        ({"on": "net0"}, "Parameter 'on'"),
        ({"snaplen": True}, "Parameter 'snaplen'"),
    ],
)
async def test_an_impossible_choice_is_refused_and_the_connection_goes_on(
    world: World, choice: dict[str, Any], why: str
) -> None:
    async with open_client(world) as client:
        refused = await client.ask(**choice)
        assert refused["error"]["desc"].startswith(why)
        await client.stream.send_all(b'{"execute": "query-vnet-status"}')
        assert "return" in await client._line()


async def test_a_client_that_leaves_ends_its_capture_alone(world: World) -> None:
    async with open_client(world) as stays, open_client(world) as leaves:
        await stays.ask(events=["links"])
        await leaves.ask(events=["links"])
        await trio.sleep(0.1)
        await leaves.stream.aclose()
        await flap(world)
        assert kinds(await stays.end()) == ["LinkMoved", "LinkMoved"]


async def test_a_client_that_does_not_read_loses_events_that_are_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "BUFFER", 1000)
    async with open_client(world) as client:
        await client.ask(events=["links"])
        await trio.sleep(0.1)
        assert world.events.links is not None
        for epoch in range(100):  # at once: the task that sends them does not run meanwhile
            world.events.links(LinkMoved(trio.current_time(), Source(link="pcie0"), True, epoch))
        blocks = await client.end()
    (statistics,) = [block for block in blocks if isinstance(block, PcapngStatistics)]
    assert statistics.received == 100
    assert 0 < statistics.dropped < 100
    assert len(kinds(blocks)) == 100 - statistics.dropped


class StuckStream(trio.abc.HalfCloseableStream):
    """A client that asks for a capture and then neither reads nor leaves."""

    def __init__(self) -> None:
        self.sent = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data
        if b"\n\r\r\n" in self.sent or self.sent.count(b"\r\n") > 3:
            await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if b"return" not in self.sent:
            return b'{"execute": "qmp_capabilities"}' + json.dumps({"execute": "capture", "arguments": ALL}).encode()
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_client_that_is_stuck_delays_the_end_of_the_system_by_seconds_at_most(world: World) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ControlServer(world).converse, StuckStream())
        await flap(world)
        started = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - started <= 2.1


async def test_the_end_of_the_system_is_a_proper_end_of_the_capture(world: World) -> None:
    ours, theirs = memory_stream_pair()
    client = Client(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, world, theirs)
        await client.ask(events=["links"])
        await flap(world)
        nursery.cancel_scope.cancel()
    blocks = await client.blocks()
    assert kinds(blocks) == ["LinkMoved", "LinkMoved"]
    assert isinstance(blocks[-1], PcapngStatistics)
