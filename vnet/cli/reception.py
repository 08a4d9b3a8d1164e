"""The receiving end of a capture: takes the stream of a running system until a signal, a time or the system ends it."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import attrs

from vnet.capture.captured import Captured, parse_packet
from vnet.capture.pcapng import NotPcapng, PacketBlock, PcapngBlock, PcapngReader, PcapngStatistics
from vnet.cli.signals import SIGNALS, not_ignored
from vnet.errors import ControlError
from vnet.qmp.client import connect

__all__ = ["CaptureChoice", "Ending", "Output", "Report", "Stream", "begin", "receive"]

CHUNK = 1 << 20
"""Bytes of a read from the system."""
PATIENCE = 10.0
"""Seconds between two pieces of the rest, once the capture is to end."""


@attrs.frozen
class CaptureChoice:
    """The events that the system sends. An empty list: all."""

    on: list[str]
    """Names of devices and links."""
    events: list[str]
    """Names of topics."""
    filters: list[str]
    """Conditions that all must hold."""
    snaplen: int
    """Bytes of a frame that are captured."""


@attrs.frozen
class Output:
    """A file or a pipe that the capture goes to. Errors of writing, which are OSError, end the capture."""

    fd: int
    """If it is a pipe without a reader, the capture ends."""
    write: Callable[[bytes | memoryview], object] | None = None
    """Takes each part of the pcapng stream, which changes after the call."""
    show: Callable[[Sequence[Captured]], object] | None = None
    """Takes the events in it."""


@attrs.define
class Report:
    """Result of a capture."""

    captured: int = 0
    interfaces: int = 0
    reported: int = 0
    """Interfaces whose lost events are known."""
    lost: dict[str, int] = attrs.field(factory=dict)
    """Events that the system lost because they were not received fast enough, by interface."""
    unreadable: int = 0
    """Events of another version of this program."""

    def __str__(self) -> str:
        lost = sum(self.lost.values())
        places = ", ".join(f"{name} {count}" for name, count in self.lost.items())
        parts = [f"{self.captured} events captured"]
        if self.reported == self.interfaces:
            parts.append(f"{lost} lost" + (f" ({places})" if lost else ""))
        else:
            parts.append("the system ended before it told how many were lost")
        if self.unreadable:
            parts.append(f"{self.unreadable} not shown, which are those of another version")
        return ", ".join(parts)


class Ending:
    """Ends the capture at a signal: the system then sends what is left. A second Ctrl-C ends the command at once."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.begun = False

    def __call__(self, number: int = 0, _frame: FrameType | None = None) -> None:
        if self.begun and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.begun:
            self.begun = True
            try:
                self._connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the system has gone: the loop sees it

    @contextmanager
    def at_signals(self) -> Iterator[None]:
        """Handle `SIGNALS` during the context, but for ignored ones."""
        before = {each: signal.signal(each, self) for each in not_ignored(SIGNALS)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


@attrs.frozen
class Stream:
    """A capture that has begun."""

    connection: socket.socket
    rest: bytes
    """The first bytes."""
    ending: Ending


@contextmanager
def begin(name: str, choice: CaptureChoice) -> Iterator[Stream]:
    """Begin a capture of the system ``name``; signals end it. Raises ControlError, OSError."""
    with connect(name) as conversation:
        conversation.ask("capture", attrs.asdict(choice))
        connection, rest = conversation.leave()
    with connection:
        ending = Ending(connection)
        with ending.at_signals():
            yield Stream(connection, rest, ending)


def receive(stream: Stream, outputs: Sequence[Output], seconds: float | None = None) -> Report:
    """Pass the capture to the outputs until it ends, at the latest after so many ``seconds``; return the result.

    Raises OSError of an output, BrokenPipeError if its reader has gone, ControlError if the system sends nonsense.
    """
    report = Report()
    shows = [output.show for output in outputs if output.show is not None]
    writes = [output.write for output in outputs if output.write is not None]
    reader = PcapngReader(skip_packets=not shows)
    for data in _parts(stream, [output.fd for output in outputs], seconds):
        for write in writes:
            write(data)
        try:
            events = list(_events(reader.feed(data), report))
        except NotPcapng as exc:
            raise ControlError(f"the system sends no capture: {exc}") from None
        for show in shows:
            show(events)
    report.captured = reader.packets
    return report


def _parts(stream: Stream, outputs: Sequence[int], seconds: float | None) -> Iterator[bytes | memoryview]:
    """Yield the parts of the stream until its end; each is valid until the next one.

    Raises BrokenPipeError if the reader of an output has gone.
    """
    buffer = memoryview(bytearray(CHUNK))  # memory for each part anew would cost a page fault per 4 KiB
    poll = select.poll()
    poll.register(stream.connection, select.POLLIN)
    for fd in outputs:
        poll.register(fd, 0)
    end = None if seconds is None else time.monotonic() + seconds
    if stream.rest:
        yield stream.rest
    while True:
        if stream.ending.begun:
            wait: float | None = PATIENCE
        else:
            wait = None if end is None else max(0.0, end - time.monotonic())
        ready = dict(poll.poll(None if wait is None else wait * 1000))
        if any(fd in ready for fd in outputs):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        if stream.connection.fileno() in ready:
            try:
                size = stream.connection.recv_into(buffer)
            except ConnectionError:
                size = 0
            if not size:
                return
            yield buffer[:size]
        elif stream.ending.begun:
            raise ControlError(f"the system does not end the capture within {PATIENCE:g} s")
        if end is not None and time.monotonic() >= end:
            stream.ending()


def _events(blocks: Iterator[PcapngBlock], report: Report) -> Iterator[Captured]:
    """Yield the events in blocks, and add the other blocks to the report."""
    for block in blocks:
        if isinstance(block, PacketBlock):
            try:
                yield parse_packet(block)
            except ValueError:
                report.unreadable += 1
        elif isinstance(block, PcapngStatistics):
            report.reported += 1
            if block.dropped:
                report.lost[block.interface.name] = report.lost.get(block.interface.name, 0) + block.dropped
        else:
            report.interfaces += 1
