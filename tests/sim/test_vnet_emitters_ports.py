"""Events of ports: frames with their bytes, at the queue that they pass."""

from __future__ import annotations

from contextlib import ExitStack

import attrs
import pytest
import trio

from drivers.contracts.events import Event, FrameEvent, FrameReceived, FrameSent, Topic
from support.captures import blocks
from vnet.capture.captured import parse_packet
from vnet.capture.filters import parse_filter
from vnet.capture.pcapng import PacketBlock
from vnet.capture.recorder import Recorder, Selection
from vnet.testing import FRAME, Options, open_pair

FRAMES = (Topic.FRAMES, Topic.RINGS)
FLOWS = 16


async def test_a_sink_can_copy_the_header_and_the_bytes_of_a_frame_while_it_is_called() -> None:
    async with open_pair() as pair:
        taken: list[tuple[FrameEvent, bytes, bytes]] = []

        def sink(event: Event) -> None:
            if isinstance(event, FrameEvent):
                taken.append((event, event.data(), event.data(20)))

        with pair.world.events.listen(sink, FRAMES):
            pair.driver_port.inject(FRAME)
            await pair.device_port.receive()
    assert [type(event) for event, _, _ in taken] == [FrameReceived, FrameSent]
    for event, data, start in taken:
        assert (data, start, event.size, len(event.header)) == (FRAME, FRAME[:20], len(FRAME), 12)
        assert (event.source.port, event.source.queue) == ("memory", "transmitq1")


async def test_frames_of_several_pairs_of_queues_name_their_queue_on_both_sides() -> None:
    async with open_pair(Options(control=True, pairs=2)) as pair:
        taken: list[Event] = []
        with pair.world.events.listen(taken.append, FRAMES):
            for flow in range(FLOWS):
                pair.driver_port.inject(FRAME[:6] + bytes(5) + bytes([2 + 2 * flow]) + FRAME[12:])
                await pair.device_port.receive()
    received = [event for event in taken if isinstance(event, FrameReceived)]
    sent = {event.frame: event for event in taken if isinstance(event, FrameSent)}
    assert len(received) == len(sent) == FLOWS
    assert {event.source.queue for event in received} == {"transmitq1", "transmitq2"}
    for event in received:
        assert sent[event.frame].source.queue == event.source.queue


async def test_a_frame_that_waits_for_a_full_port_is_sent_once() -> None:
    async with open_pair(Options(capacity=2)) as pair:
        taken: list[Event] = []
        with pair.world.events.listen(taken.append, FRAMES):
            for _ in range(4):
                pair.driver_port.inject(FRAME)
                await trio.sleep(0.1)
            assert len([event for event in taken if isinstance(event, FrameSent)]) == 2
            for _ in range(4):
                await pair.device_port.receive()
                await trio.sleep(0.1)
    numbers = [event.frame for event in taken if isinstance(event, FrameSent)]
    assert numbers == [event.frame for event in taken if isinstance(event, FrameReceived)]
    assert len(numbers) == 4


def frames_of(recorder: Recorder) -> list[tuple[FrameEvent, bytes]]:
    """The frames of a capture, with their bytes."""
    read = (
        parse_packet(block).event for block in blocks(bytes(recorder.finish(0.0))) if isinstance(block, PacketBlock)
    )
    return [(event, event.data()) for event in read if isinstance(event, FrameEvent)]


async def captured(filters: tuple[str, ...] = (), *, rings: bool = False, records: bool = False) -> list[FrameEvent]:
    """The captured frames of a frame in each direction; with ``records``, another sink takes records of them."""
    selection = Selection((Topic.FRAMES,), filters=[parse_filter(text) for text in filters])
    recorder = Recorder("test", selection, 0, lambda: None)
    others = [topic for topic, wanted in ((Topic.RINGS, rings), (Topic.FRAMES, records)) if wanted]
    async with open_pair() as pair:
        with ExitStack() as stack:
            stack.enter_context(pair.world.events.listen(recorder, (Topic.FRAMES,)))
            stack.enter_context(pair.world.events.listen(lambda _: None, others))
            for sender, receiver in ((pair.driver_port, pair.device_port), (pair.device_port, pair.driver_port)):
                sender.inject(FRAME)
                await receiver.receive()
    frames = frames_of(recorder)
    assert {data for _, data in frames} <= {FRAME}
    return [attrs.evolve(frame, time=0.0, pieces=()) for frame, _ in frames]


@pytest.mark.parametrize("rings", [True, False])
async def test_a_sink_that_needs_no_records_takes_the_same_frames(rings: bool) -> None:
    alone, shared = await captured(rings=rings), await captured(rings=rings, records=True)
    assert alone == shared
    assert len(alone) == 4
    assert rings == any(frame.chain is not None for frame in alone)


@pytest.mark.parametrize(
    ("condition", "count"),
    [("side == driver", 2), ("frame.size > 1000", 0), ("frame.frame == 1", 1), ("ring.chain == 1", 0)],
)
async def test_conditions_hold_without_records(condition: str, count: int) -> None:
    assert len(await captured((condition,))) == count
