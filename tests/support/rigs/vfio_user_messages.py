"""Commands of a vfio-user client as values, and how the parser refuses them."""

from __future__ import annotations

import pytest

from drivers.testing import CountedHandle
from vnet.vfio_user.constants import Command
from vnet.vfio_user.messages import Message, SessionState, parse
from vnet.vfio_user.payloads import Refused

__all__ = ["message", "refused", "state_of"]

C = Command
READY = SessionState.READY


def state_of(command: int) -> SessionState:
    return SessionState.NEW if command == C.VERSION else READY


def message(command: int, body: bytes, fds: int = 0) -> Message:
    return Message(1, command, 0, body, [CountedHandle([]) for _ in range(fds)])


def refused(command: int, body: bytes, fds: int = 0) -> str:
    with pytest.raises(Refused) as caught:
        parse(message(command, body, fds), state_of(command))
    return str(caught.value)
