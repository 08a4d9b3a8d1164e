"""An end of the stream on the link of this process, as its connection uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from vnet.link.transaction.bulk import Bulk
from vnet.link.wire.completer import Completer
from vnet.stream.channel import Channel
from vnet.stream.handshake import Span

__all__ = ["PAYLOAD", "ROOT", "Connected", "StreamEnd"]

ROOT = 0
"""Identity of the root complex."""
PAYLOAD = 4096
"""Most bytes of a packet's data."""


class StreamEnd(Protocol):
    """An end of the stream, as its connection uses it."""

    @property
    def memory(self) -> Sequence[Span]:
        """The host's memory, for the other side's handshake."""

    @property
    def completer(self) -> Completer[Any]:
        """Does the requests of the other side."""

    def at_once(self, packet: Bulk) -> bool:
        """Return whether a request may be done while an access of this process blocks."""

    def arrived(self) -> None:
        """Handle that a request is about to be done."""

    def connect(self, channel: Channel, memory: Sequence[Span]) -> None:
        """Use a connection from now on; the other host's ``memory`` is there."""

    def disconnect(self) -> None:
        """Use no connection."""

    async def run(self) -> None:
        """Work beside the connection, until cancelled."""


class Connected:
    """An end that has a connection while the other process is there."""

    def __init__(self) -> None:
        self._channel: Channel | None = None

    def link_up(self) -> None:
        """Do nothing: the other side notices by itself."""

    def link_down(self) -> None:
        """End the connection, which the other side takes for link-down."""
        if self._channel is not None:
            self._channel.end("the link was taken down")

    def disconnect(self) -> None:
        self._channel = None
