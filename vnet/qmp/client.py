"""The client of a control socket. It blocks and imports little, so that commands which ask a system start fast."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from vnet.errors import ControlError
from vnet.qmp import codec
from vnet.qmp.codec import NEGOTIATE, Framer, QmpError, TooLong
from vnet.system.state import socket_path

__all__ = ["ask", "exchange"]

REPLY_MAX = 16 << 20
"""Bytes of the longest reply."""
CHUNK = 1 << 20
"""Bytes of a read from the system."""
PATIENCE = 5.0
"""Seconds that a reply may take."""
RETRY = 0.02
"""Seconds between attempts to connect while the backlog is full."""


class _Deadline:
    def __init__(self, timeout: float) -> None:
        self._end = time.monotonic() + timeout

    def left(self) -> float:
        """Return the seconds left. Raises TimeoutError if there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def ask(
    name: str,
    command: str,
    arguments: Mapping[str, object] | None = None,
    timeout: float | None = None,
    directory: Path | None = None,
) -> object:
    """Return the result of a command from the system ``name``. Raises ControlError, OSError.

    ``directory`` has the system's control socket. Default: this user's.

    A system that does not reply within ``timeout`` seconds (default: `PATIENCE`) is a ControlError.
    """
    timeout = PATIENCE if timeout is None else timeout
    deadline = _Deadline(timeout)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            _connect(connection, os.fspath(socket_path(name, directory)), deadline)
            return exchange(connection, command, arguments or {}, deadline)
    except TimeoutError:
        raise ControlError(f"{name} does not answer within {timeout:g} s") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise ControlError(f"{name} is not running; try: vnet up --name {name}") from None


def _connect(connection: socket.socket, path: str, deadline: _Deadline) -> None:
    """Connect to a control socket; wait while its backlog is full. Raises OSError."""
    while True:
        connection.settimeout(deadline.left())
        try:
            return connection.connect(path)
        except BlockingIOError:
            time.sleep(RETRY)


def exchange(
    connection: socket.socket, command: str, arguments: Mapping[str, object], deadline: _Deadline | None = None
) -> object:
    """Execute one command over a new connection. Raises ControlError, with the server's message if it refused.

    Raises TimeoutError after the ``deadline``.
    """
    framer = Framer(REPLY_MAX)
    messages: list[dict[str, object]] = []

    def reply() -> dict[str, object]:
        while not messages:
            connection.settimeout(deadline.left() if deadline is not None else None)
            data = connection.recv(CHUNK)
            if not data:
                raise ControlError(f"the system closed the connection before it replied to {command}")
            messages.extend(map(codec.parse, framer.feed(data)))
        return messages.pop(0)

    try:
        _expect("QMP", reply())
        for request in ({"execute": NEGOTIATE}, {"execute": command, "arguments": dict(arguments)}):
            connection.sendall(codec.emit(request))
            result = _expect("return", reply())
        return result
    except (QmpError, TooLong, ConnectionError) as exc:
        raise ControlError(f"unexpected reply to {command}: {exc}") from None


def _expect(key: str, message: Mapping[str, object]) -> object:
    """Return the value of ``key``. Raises ControlError, with the server's error if that is the message."""
    if key not in message:
        error = message.get("error")
        raise ControlError(str(error["desc"] if isinstance(error, dict) and "desc" in error else message))
    return message[key]
