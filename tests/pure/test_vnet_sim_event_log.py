"""A line of the log of a run has all fields of an event, and of a frame its content."""

from __future__ import annotations

import hashlib
import zlib

from drivers.contracts.events import DeviceReset, Event, FrameSent, Source
from vnet.sim.event_log import EventLog, line

RESET = DeviceReset(0.25, Source("rc", "net0", "driver"), "the device needs one", 2)


def sent(*pieces: bytes, size: int) -> Event:
    return FrameSent(
        1.5,
        Source("ep", "net0", "device", "transmitq1"),
        3,
        7,
        bytes(12),
        size,
        [memoryview(piece) for piece in pieces],
    )


def test_a_line_has_time_place_kind_and_fields() -> None:
    assert line(RESET) == "0.250000000 rc net0 driver DeviceReset cause=the device needs one repeats=2"
    assert line(DeviceReset(0.0, Source())) == "0.000000000 - DeviceReset cause= repeats=0"


def test_frames_with_other_content_have_other_lines() -> None:
    text = line(sent(b"abc", b"def", size=6))
    assert text.endswith(f"frame=3 chain=7 header={'00' * 12} size=6 crc={zlib.crc32(b'abcdef'):08x}")
    assert line(sent(b"abcdef", b"", size=6)) == text
    assert line(sent(b"abcdefgh", size=6)) == text
    assert line(sent(b"abcdeF", size=6)) != text


def test_the_hash_is_that_of_all_lines() -> None:
    lines: list[str] = []
    log = EventLog(lines.append)
    log(RESET)
    log(sent(b"abc", size=3))
    assert log.digest() == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert (log.events, len(lines)) == (2, 2)
