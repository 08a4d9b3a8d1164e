"""Events of a capture as lines of text."""

from __future__ import annotations

from datetime import datetime

from drivers.contracts.events import FrameEvent
from vnet.capture.captured import Captured, fields_in_words, name_in_words, place

__all__ = ["line"]


def line(captured: Captured) -> str:
    """Return an event as a line: its time, place, kind and fields; for a frame also what the packet is."""
    event = captured.event
    seconds, nanoseconds = divmod(captured.time, 10**9)
    time = f"{datetime.fromtimestamp(seconds):%H:%M:%S}.{nanoseconds:09}"  # noqa: DTZ006 - local time, as tcpdump's
    words = ", ".join(f"{name} {text}" for name, text in fields_in_words(captured).items())
    text = f"{time} {place(event.source)} {name_in_words(event)}: {words}"
    return f"{text}: {_packet(event)}" if isinstance(event, FrameEvent) else text


def _packet(event: FrameEvent) -> str:
    """Return what a frame is, as scapy names it."""
    from scapy.layers.inet import ICMP  # noqa: F401 - scapy knows the layers that are imported
    from scapy.layers.inet6 import IPv6  # noqa: F401
    from scapy.layers.l2 import Ether

    return " ".join(Ether(event.data()).summary().split())
