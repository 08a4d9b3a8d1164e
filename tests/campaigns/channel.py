"""An rpmsg channel under load: messages to an echo at the other side."""

from __future__ import annotations

import random
import socket
import time
from pathlib import Path

from campaigns.load import Load

__all__ = ["ChannelLoad"]

MESSAGE_MAX = 400
ANSWER = 0.5
"""Seconds after which a message counts as lost."""
PAUSE = 0.005


class ChannelLoad(Load):
    """Numbered messages: each comes back once at most, in order and as it was; lost ones are counted."""

    def __init__(self, path: Path, dice: random.Random) -> None:
        super().__init__()
        self.sent = 0
        self._path, self._dice = path, random.Random(dice.random())
        self._newest = -1
        """Number of the latest message that came back."""

    def counters(self) -> dict[str, int]:
        return {**super().counters(), "lost": self.sent - self.requests}

    def run(self) -> None:
        while not self.ending.is_set():
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                try:
                    client.settimeout(ANSWER)
                    client.connect(str(self._path))
                    self._use(client)
                except (EOFError, ConnectionError, FileNotFoundError):  # the channel is away while its link is down
                    time.sleep(0.01)
                except TimeoutError:
                    continue

    def _use(self, client: socket.socket) -> None:
        kept: dict[int, bytes] = {}
        while not self.ending.wait(PAUSE):
            number, self.sent = self.sent, self.sent + 1
            kept[number] = b"%08d" % number + self._dice.randbytes(self._dice.randrange(MESSAGE_MAX))
            sent = time.monotonic()
            client.send(kept[number])
            try:
                while self._take(client, kept) != number:
                    pass
            except TimeoutError:
                continue
            self.answered(sent)

    def _take(self, client: socket.socket, kept: dict[int, bytes]) -> int:
        """Return the number of the next message that comes back."""
        message = client.recv(65536)
        if not message:
            raise EOFError
        number = int(message[:8])
        assert number > self._newest, f"message {number} came after {self._newest}"
        self._newest = number
        assert number not in kept or message == kept[number], f"message {number} came back with other bytes"
        for old in [each for each in kept if each <= number]:
            del kept[old]
        return number
