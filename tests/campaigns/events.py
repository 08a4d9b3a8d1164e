"""Events of a running system, with the times that it gives them."""

from __future__ import annotations

import time

from campaigns.load import PATIENCE
from vnet.qmp import codec
from vnet.qmp.client import CHUNK, REPLY_MAX, connect
from vnet.qmp.codec import LineFramer

__all__ = ["Events"]


class Events:
    """A connection to a control socket that takes one kind of event."""

    def __init__(self, system: str, event: str) -> None:
        self.system, self.event = system, event
        with connect(system, PATIENCE) as connection:
            connection.ask("set-events", {"events": [event]})
            self._socket, self._rest = connection.leave()
        self._framer = LineFramer(REPLY_MAX)

    def close(self) -> None:
        self._socket.close()

    def wait(self, since: float) -> float:
        """Wait for an event after ``since``, a time of `time.time`; return the seconds in between.

        Raises AssertionError if none comes, TimeoutError, OSError.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            data, self._rest = self._rest, b""
            for line in self._framer.feed(data):
                stamp = codec.parse(line)["timestamp"]
                assert isinstance(stamp, dict)
                at = stamp["seconds"] + stamp["microseconds"] / 1e6
                if at >= since:
                    return float(at - since)
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            self._rest = self._socket.recv(CHUNK)
            assert self._rest, f"{self.system} closed its control socket"
