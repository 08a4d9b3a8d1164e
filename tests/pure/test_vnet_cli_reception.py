"""The receiving end of a capture: outputs that are slow, closed or fail, lost events, and how it ends."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator

import attrs
import pytest

from support.captures import event, frame, record
from vnet.capture.captured import Captured
from vnet.capture.pcapng import interface_block, packet_block, section_block, statistics_block
from vnet.capture.recorder import Selection
from vnet.cli import reception
from vnet.cli.reception import Ending, Output, Report, Stream, receive
from vnet.errors import ControlError

EVENTS = [event("ChainAdded", 1.0), event("LinkMoved", 2.0), frame(time=3.0), event("ChainAdded", 4.0)]
CAPTURE = record(EVENTS)


@attrs.frozen
class Rig:
    """A capture that has begun, with the system's end of its connection."""

    system: socket.socket
    stream: Stream

    def sends(self, data: bytes) -> None:
        """Send all, and end."""
        self.system.sendall(data)
        self.system.shutdown(socket.SHUT_WR)


@pytest.fixture
def rig() -> Iterator[Rig]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Rig(theirs, Stream(ours, b"", Ending(ours)))


@pytest.fixture
def null() -> Iterator[int]:
    fd = os.open(os.devnull, os.O_WRONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    """The two ends of a pipe; a test that closes one takes it out."""
    fds = list(os.pipe())
    yield fds
    for fd in fds:
        os.close(fd)


def test_each_output_gets_the_whole_capture(rig: Rig, null: int) -> None:
    rig.sends(CAPTURE)
    files = [bytearray(), bytearray()]
    shown: list[Captured] = []
    report = receive(
        rig.stream, [*(Output(null, write=each.extend) for each in files), Output(null, show=shown.extend)]
    )
    assert files == [CAPTURE, CAPTURE]
    assert [type(each.event) for each in shown] == [type(each) for each in EVENTS]
    assert str(report) == "4 events captured, 0 lost"


def test_bytes_that_came_with_the_reply_are_the_first(rig: Rig, null: int) -> None:
    rig.sends(CAPTURE[50:])
    written = bytearray()
    report = receive(attrs.evolve(rig.stream, rest=CAPTURE[:50]), [Output(null, write=written.extend)])
    assert written == CAPTURE
    assert report.captured == 4


def test_events_are_not_read_if_no_output_shows_them(rig: Rig, null: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(reception, "parse_packet")
    rig.sends(CAPTURE)
    assert receive(rig.stream, [Output(null, write=len)]).captured == 4


def statistics(*lost: tuple[str, int], reported: int | None = None) -> bytes:
    """A capture with these interfaces, of which the first ``reported`` (default: all) tell their lost events."""
    data = section_block("", "") + b"".join(interface_block(1, 0, name, "") for name, _ in lost)
    counts = [count for _, count in lost][:reported]
    return data + b"".join(statistics_block(number, 0, 100, count) for number, count in enumerate(counts))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "0 events captured, 0 lost"),
        (statistics(("a", 0), ("b", 0)), "0 events captured, 0 lost"),
        (statistics(("a", 3), ("b", 0)), "0 events captured, 3 lost (a 3)"),
        (statistics(("a", 3), ("b", 2), ("a", 4)), "0 events captured, 9 lost (a 7, b 2)"),
        (
            statistics(("a", 3), ("b", 2), reported=1),
            "0 events captured, the system ended before it told how many were lost",
        ),
        (
            statistics(("a", 3)) + packet_block(0, 0, b"", 0),
            "1 events captured, 3 lost (a 3), 1 not shown, which are those of another version",
        ),
    ],
)
def test_the_report_tells_what_was_lost_and_where(rig: Rig, null: int, data: bytes, text: str) -> None:
    rig.sends(data)
    shown: list[Captured] = []
    assert str(receive(rig.stream, [Output(null, show=shown.extend)])) == text
    assert shown == []


def test_a_system_that_dies_ends_the_capture_with_what_came(rig: Rig, null: int) -> None:
    rig.stream.connection.sendall(b"unread")  # so that the connection is reset
    cut = CAPTURE[: len(record(EVENTS[:1])) - 20]
    rig.system.sendall(cut)
    rig.system.close()
    report = receive(rig.stream, [Output(null, write=len)])
    assert "the system ended before it told how many were lost" in str(report)


def test_nonsense_of_the_system_is_one_error(rig: Rig, null: int) -> None:
    rig.sends(b"HTTP/1.1 200 OK\r\n")
    with pytest.raises(ControlError, match=r"^the system sends no capture: no pcapng block"):
        receive(rig.stream, [Output(null, write=len)])


def test_while_an_output_writes_nothing_is_read_ahead_and_nothing_is_lost(rig: Rig, null: int) -> None:
    """The system's buffers fill instead, and the system counts what finds no place."""
    capture = record([frame(data=bytes(1 << 16)) for _ in range(30)], Selection(snap_length=1 << 16))
    rig.system.setblocking(False)
    rest = memoryview(capture)
    written = bytearray()
    waiting: list[int] = []

    def send_until_full() -> None:
        nonlocal rest
        try:
            while rest:
                rest = rest[rig.system.send(rest[: 1 << 16]) :]
            rig.system.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            waiting.append(len(rest))

    def write(data: bytes | memoryview) -> None:
        written.extend(data)
        if rest:
            send_until_full()

    send_until_full()
    report = receive(rig.stream, [Output(null, write=write)])
    assert waiting, "the system had to wait"
    assert written == capture
    assert str(report) == "30 events captured, 0 lost"


def test_a_full_pipe_whose_reader_is_slow_ends_nothing(rig: Rig, pipe: list[int]) -> None:
    os.set_blocking(pipe[1], False)
    while select.select([], pipe[1:], [], 0)[1]:
        os.write(pipe[1], bytes(4096))
    rig.sends(CAPTURE)
    assert receive(rig.stream, [Output(pipe[1], write=len)]).captured == 4


@pytest.mark.parametrize("waiting", [b"", CAPTURE], ids=["quiet", "busy"])
def test_a_reader_that_leaves_ends_the_capture_also_of_a_quiet_system(
    rig: Rig, null: int, pipe: list[int], waiting: bytes
) -> None:
    rig.system.sendall(waiting)
    os.close(pipe.pop(0))
    written = bytearray()
    with pytest.raises(BrokenPipeError):
        receive(rig.stream, [Output(null, write=written.extend), Output(pipe[0], write=written.extend)])
    assert not written


@pytest.mark.parametrize("shows", [False, True], ids=["write", "show"])
def test_an_output_that_fails_ends_the_capture_with_its_error(rig: Rig, null: int, shows: bool) -> None:
    def fail(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file")

    rig.system.sendall(CAPTURE)  # and goes on
    with pytest.raises(OSError, match="No space left on device: 'file'"):
        receive(rig.stream, [Output(null, show=fail) if shows else Output(null, write=fail)])


def test_the_time_ends_a_capture_and_the_system_sends_what_is_left(rig: Rig, null: int) -> None:
    def end() -> None:
        rig.system.recv(1)  # returns at our end
        rig.sends(CAPTURE)

    system = threading.Thread(target=end)
    system.start()
    report = receive(rig.stream, [Output(null, write=len)], seconds=0.01)
    system.join()
    assert rig.stream.ending.begun
    assert report.captured == 4


def test_a_system_that_does_not_end_the_capture_is_not_waited_for(
    rig: Rig, null: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "PATIENCE", 0.05)
    rig.system.sendall(CAPTURE)
    with pytest.raises(ControlError, match=r"^the system does not end the capture within 0\.05 s$"):
        receive(rig.stream, [Output(null, write=len)], seconds=0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_capture_once_and_its_handler_is_restored(rig: Rig, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with rig.stream.ending.at_signals():
        signal.raise_signal(number)
        assert rig.stream.ending.begun
        assert rig.system.recv(1) == b"", "the system sees the end"
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) == before


def test_sighup_stays_ignored_under_nohup(rig: Rig) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with rig.stream.ending.at_signals():
            signal.raise_signal(signal.SIGHUP)
            assert not rig.stream.ending.begun
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_after_the_system_has_gone_is_no_error(rig: Rig, null: int) -> None:
    rig.system.close()
    rig.stream.ending(signal.SIGTERM)
    assert str(receive(rig.stream, [Output(null, write=len)])) == str(Report())
