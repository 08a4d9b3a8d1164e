"""Events of a capture as a timeline in the Trace Event format, which Perfetto and chrome://tracing open.

Each host and link is a process, whose threads are lanes. Arrows join the events of one frame, in the order of time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from drivers.contracts.events import (
    ChainEvent,
    ConfigAccessed,
    DmaMoved,
    Event,
    FrameEvent,
    InterruptSent,
    Notified,
    RegisterAccessed,
    TlpCarried,
    TlpSent,
    Topic,
)
from vnet.capture.captured import Captured, fields_in_words, name_in_words

__all__ = ["Timeline", "lane"]

Key = tuple[str, str, int]
"""Device, queue and number of a chain; or "", link and number of a request."""
DURATION = 1000
"""Nanoseconds that an event takes on the timeline, unless the next one of its lane begins sooner."""
FRAMES = 4096
"""Frames whose next event is awaited; beyond, the arrows of the oldest one end."""
KEYS = 65536
"""Chains and requests whose frame is remembered."""
HEAD = '{"displayTimeUnit": "ns", "traceEvents": [\n'
TAIL = "\n]}\n"


def lane(event: Event) -> str:
    """Return the lane of an event within its host or link."""
    source = event.source
    match event:
        case FrameEvent():
            return f"port {source.port or source.device}"
        case ChainEvent():
            return f"ring {source.device} {source.queue}"
        case Notified(kind="kick") | RegisterAccessed(doorbell=True):
            return "doorbells"
        case Notified() | InterruptSent():
            return "interrupts"
        case RegisterAccessed():
            return "registers"
        case DmaMoved():
            return "DMA"
        case TlpSent():
            return "requests"
        case TlpCarried():
            return "packets"
        case ConfigAccessed():
            return "configuration"
    return LANES[event.topic]


LANES: Mapping[Topic, str] = {
    Topic.LIFECYCLE: "configuration",
    Topic.LOSSES: "losses",
    Topic.LINKS: "link",
    Topic.VHOST_USER: "vhost-user",
    Topic.CONTROL: "control socket",
}
"""Lane of the other events, by topic."""


@attrs.define
class _Slice:
    """An event on the timeline. It is written when the next one of its lane is known, which bounds its length."""

    process: int
    thread: int
    start: int
    name: str
    category: str
    arguments: Mapping[str, str]


@attrs.define
class _Flow:
    """The arrows of a frame: its last event so far."""

    process: int
    thread: int
    time: int
    started: bool = False


class Timeline:
    """Writes a timeline: `add` each event, then `close`."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._separator = HEAD
        self._origin: int | None = None
        self._processes: dict[str, int] = {}
        self._threads: dict[tuple[int, str], int] = {}
        self._slices: dict[int, _Slice] = {}
        self._flows: dict[int, _Flow] = {}
        self._frames: dict[Key, int] = {}

    def add(self, captured: Captured) -> None:
        """Add an event; events come in the order of their times."""
        event = captured.event
        if self._origin is None:
            self._origin = captured.time
        time = captured.time - self._origin
        process = self._process(event)
        thread = self._thread(process, lane(event))
        self._end_slice(thread, time)
        self._slices[thread] = _Slice(
            process, thread, time, name_in_words(event), event.topic.value, _arguments(captured)
        )
        frame = self._frame(event)
        if frame is not None:
            self._join(frame, _Flow(process, thread, time))

    def close(self) -> None:
        """Write what waits for further events, and the end of the file."""
        for frame in list(self._flows):
            self._end_flow(frame)
        for thread in list(self._slices):
            self._end_slice(thread, None)
        self._write((HEAD if self._separator == HEAD else "") + TAIL)

    def _emit(self, event: Mapping[str, Any]) -> None:
        self._write(self._separator + json.dumps(event))
        self._separator = ",\n"

    def _process(self, event: Event) -> int:
        source = event.source
        if source.host and not (source.link and isinstance(event, TlpSent)):  # a request on a link is on neither host
            name = f"host {source.host}"
        else:
            name = f"link {source.link}" if source.link else "system"
        if name not in self._processes:
            number = self._processes[name] = len(self._processes) + 1
            self._emit({"ph": "M", "name": "process_name", "pid": number, "tid": 0, "args": {"name": name}})
        return self._processes[name]

    def _thread(self, process: int, name: str) -> int:
        if (process, name) not in self._threads:
            number = self._threads[process, name] = len(self._threads) + 1
            self._emit({"ph": "M", "name": "thread_name", "pid": process, "tid": number, "args": {"name": name}})
        return self._threads[process, name]

    def _end_slice(self, thread: int, next_time: int | None) -> None:
        done = self._slices.pop(thread, None)
        if done is None:
            return
        duration = DURATION if next_time is None else max(0, min(DURATION, next_time - done.start))
        about = {"name": done.name, "cat": done.category, "pid": done.process, "tid": done.thread}
        times = {"ts": done.start / 1000, "dur": duration / 1000}
        self._emit({"ph": "X", **about, **times, "args": done.arguments})

    def _frame(self, event: Event) -> int | None:
        """Return the frame of an event: its own, or that of its chain, of its request, or of what it announces."""
        keys = list(_keys(event))
        frame: int | None = getattr(event, "frame", None)
        if frame is None:
            frame = next((self._frames[key] for key in keys if key in self._frames), None)
        if frame is not None:
            for key in keys:
                self._remember(key, frame)
        return frame

    def _remember(self, key: Key, frame: int) -> None:
        self._frames.pop(key, None)
        if len(self._frames) >= KEYS:
            del self._frames[next(iter(self._frames))]
        self._frames[key] = frame

    def _join(self, frame: int, last: _Flow) -> None:
        before = self._flows.pop(frame, None)
        if before is not None:
            self._emit_flow(frame, before, "t" if before.started else "s")
            last.started = True
        elif len(self._flows) >= FRAMES:
            self._end_flow(next(iter(self._flows)))
        self._flows[frame] = last

    def _end_flow(self, frame: int) -> None:
        last = self._flows.pop(frame)
        if last.started:
            self._emit_flow(frame, last, "f")

    def _emit_flow(self, frame: int, at: _Flow, phase: str) -> None:
        about = {"name": f"frame {frame}", "cat": "frame", "id": frame, "pid": at.process, "tid": at.thread}
        self._emit({"ph": phase, "bp": "e", **about, "ts": at.time / 1000})


def _keys(event: Event) -> Iterator[Key]:
    """Yield by what other events join this one: its chain, the last chain that it announces, its request."""
    device, queue = event.source.device, event.source.queue
    chain: int | None = getattr(event, "chain", None)
    if chain is not None:
        yield device, queue, chain
    if published := getattr(event, "published", None):
        yield device, queue, published - 1
    request: object = getattr(event, "request", None)
    if isinstance(request, int):
        yield "", event.source.link, request


def _arguments(captured: Captured) -> Mapping[str, str]:
    source = captured.event.source
    return {**{name: text for name, text in attrs.asdict(source).items() if text}, **fields_in_words(captured)}
