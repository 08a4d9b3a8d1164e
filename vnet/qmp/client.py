"""The client of a control socket. It blocks and imports little, so that commands which ask a system start fast."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vnet.errors import ControlError
from vnet.qmp import codec
from vnet.qmp.codec import NEGOTIATE, LineFramer, QmpError, TooLong
from vnet.system.state import socket_path

__all__ = ["CHANGE_PATIENCE", "CHUNK", "PATIENCE", "REPLY_MAX", "Connection", "ask", "connect", "expect"]

REPLY_MAX = 16 << 20
"""Bytes of the longest reply."""
CHUNK = 1 << 20
"""Bytes of a read from the system."""
PATIENCE = 5.0
"""Seconds that a reply may take."""
CHANGE_PATIENCE = 120.0
"""Seconds that the reply to a change may take: devices must come up, and changes follow one another."""
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
    with connect(name, timeout, directory) as connection:
        return connection.ask(command, arguments)


@contextmanager
def connect(name: str, timeout: float | None = None, directory: Path | None = None) -> Iterator[Connection]:
    """Open a connection to the system ``name`` for several commands. Raises ControlError, OSError.

    Each command may take ``timeout`` seconds (default: `PATIENCE`), the first one and the connection together.
    """
    timeout = PATIENCE if timeout is None else timeout
    deadline = _Deadline(timeout)
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            _connect(opened, os.fspath(socket_path(name, directory)), deadline)
            yield Connection(opened, timeout, deadline)
    except TimeoutError:
        raise ControlError(f"{name} does not answer within {timeout:g} s") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise ControlError(f"{name} is not running; try: vnet up --name {name}") from None


class Connection:
    """A connection to a control socket. The first command negotiates before.

    A command may take ``timeout`` seconds, None: any time; the first one ends by the ``deadline``, if one is given.
    """

    def __init__(
        self, connected: socket.socket, timeout: float | None = None, deadline: _Deadline | None = None
    ) -> None:
        self._socket = connected
        self._timeout = timeout
        self._deadline = deadline
        self._framer = LineFramer(REPLY_MAX)
        self._negotiated = False

    def ask(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Return the result of a command. Raises ControlError, with the server's message if it refused.

        Raises TimeoutError after the deadline.
        """
        if self._negotiated:
            self._deadline = None if self._timeout is None else _Deadline(self._timeout)
        try:
            if not self._negotiated:
                expect("QMP", self._reply())
                self._execute({"execute": NEGOTIATE})
                self._negotiated = True
            return self._execute({"execute": command, "arguments": dict(arguments or {})})
        except EOFError:
            raise ControlError(f"the system closed the connection before it replied to {command}") from None
        except (QmpError, TooLong, ConnectionError) as exc:
            raise ControlError(f"unexpected reply to {command}: {exc}") from None

    def leave(self) -> tuple[socket.socket, bytes]:
        """Return the socket, and the bytes that came behind the last reply, after a command that ends the conversation.

        The caller closes the socket. Raises OSError.
        """
        self._socket.settimeout(None)
        return self._socket.dup(), self._framer.rest

    def _execute(self, request: Mapping[str, object]) -> object:
        self._socket.sendall(codec.emit(request))
        return expect("return", self._reply())

    def _reply(self) -> dict[str, object]:
        """Return the next message. Raises EOFError at the end of the connection."""
        data = b""
        while (message := next(self._framer.feed(data), None)) is None:
            self._socket.settimeout(None if self._deadline is None else self._deadline.left())
            data = self._socket.recv(CHUNK)
            if not data:
                raise EOFError
        return codec.parse(message)


def _connect(connection: socket.socket, path: str, deadline: _Deadline) -> None:
    """Connect to a control socket; wait while its backlog is full. Raises OSError."""
    while True:
        connection.settimeout(deadline.left())
        try:
            return connection.connect(path)
        except BlockingIOError:
            time.sleep(RETRY)


def expect(key: str, message: Mapping[str, object]) -> object:
    """Return the value of ``key``. Raises ControlError, with the server's error if that is the message."""
    if key not in message:
        error = message.get("error")
        raise ControlError(str(error["desc"] if isinstance(error, dict) and "desc" in error else message))
    return message[key]
