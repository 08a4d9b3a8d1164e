"""Events as lines of text."""

from __future__ import annotations

import struct

import pytest

from drivers.contracts.events import Buffer, ChainAdded, Event, LinkMoved, Notified, Source
from support.captures import EVENT_NAMES, SOURCE, captured, event, frame
from vnet.capture.lines import line

PING = bytes.fromhex(
    "0200000000020200000000010800"
    "450000540001400040017a53c6120001c6120002"
    "0800f7ff00000000"
) + bytes(56)  # fmt: skip


def text(made: Event) -> str:
    """The line without its time."""
    time, _, rest = line(captured([made])[0]).partition(" ")
    assert time.endswith(":21.000000000")
    return rest


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (
            ChainAdded(1.0, SOURCE, 5, 3, None, (Buffer(0x1000, 12, False), Buffer(0x2000, 60, True)), False),
            (
                "net0.driver.transmitq1 chain added: chain 5, head 3, indirect no, "
                "buffers [(addr 0x1000, size 12, writable no), (addr 0x2000, size 60, writable yes)]"
            ),
        ),
        (
            Notified(1.0, SOURCE, "kick", "arrived", None),
            "net0.driver.transmitq1 notified: kind kick, outcome arrived",
        ),
        (LinkMoved(1.0, Source(link="pcie0"), False, 2), "pcie0 link moved: up no, epoch 2"),
        (
            frame(data=PING, header=struct.pack("<BBHHHHH", 2, 0, 0, 0, 0, 0, 1)),
            (
                "net0.driver.transmitq1 frame received: frame 7, chain 3, size 98, header checksum is valid: "
                "Ether / IP / ICMP 198.18.0.1 > 198.18.0.2 echo-request 0 / Raw"
            ),
        ),
    ],
)
def test_a_line_tells_place_kind_and_fields(made: Event, expected: str) -> None:
    assert text(made) == expected


@pytest.mark.parametrize("name", EVENT_NAMES)
def test_every_kind_of_event_is_one_line(name: str) -> None:
    assert "\n" not in text(event(name))
