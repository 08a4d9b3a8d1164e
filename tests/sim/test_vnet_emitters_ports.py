"""Events of ports: frames with their bytes, at the queue that they pass."""

from __future__ import annotations

import trio

from drivers.contracts.events import Event, FrameEvent, FrameReceived, FrameSent, Topic
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
