"""A vhost-user back end that answers by the book, or as a test says, and moves no data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import trio

from drivers.contracts.ipc import FdSocket, Handle
from drivers.errors import TransportLost
from drivers.transports.vhost_user.constants import F_PROTOCOL_FEATURES, FrontendRequest
from drivers.transports.vhost_user.front import PROTOCOL_FEATURES
from drivers.transports.vhost_user.messages import FRONTEND_MESSAGES, Assembler, UserMessage, ack, parse, reply
from drivers.transports.vhost_user.payloads import U64, Config, Payload, VringState
from rings.features import RingFeature
from vnet.linux.ipc import UnixSocket

__all__ = ["HANG_UP", "SILENCE", "ScriptedBack"]

R = FrontendRequest
SILENCE = b""
"""A lie: no answer at all."""
HANG_UP = b"\0"
"""A lie: the end of the connection."""
Lie = Callable[[bytes], bytes]


@attrs.define(eq=False)
class ScriptedBack:
    """One device, for one front end after the other."""

    features: int = 1 << RingFeature.VERSION_1 | 1 << F_PROTOCOL_FEATURES
    protocol_features: int = PROTOCOL_FEATURES
    config: bytes = (2048).to_bytes(8, "little") + bytes(52)
    lies: dict[FrontendRequest, Lie] = attrs.field(factory=dict)
    """Wrong answers, by request: bytes to send instead of the right ones."""
    lie_fds: list[Handle] = attrs.field(factory=list)
    """File descriptors to send with every wrong answer."""
    log: list[tuple[FrontendRequest, Payload, int]] = attrs.field(factory=list)
    """Messages in order: request, body, number of file descriptors."""
    ends: list[str] = attrs.field(factory=list)
    """How connections ended."""
    patience: int = 1 << 30
    """Messages after which it hangs up."""
    kept: dict[tuple[FrontendRequest, int], Handle] = attrs.field(factory=dict)
    """File descriptors that came with messages that are about one ring, or with the channel of its own (ring 0)."""
    socket: FdSocket | None = None
    _status: int = 0

    @property
    def requests(self) -> list[FrontendRequest]:
        return [request for request, _, _ in self.log]

    async def listen(self, path: Path, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        with trio.socket.socket(trio.socket.AF_UNIX) as listening:
            await listening.bind(str(path))
            listening.listen(4)
            task_status.started()
            try:
                while True:
                    connected, _ = await listening.accept()
                    await self.converse(UnixSocket(connected._sock))  # type: ignore[attr-defined]
            finally:
                path.unlink()  # noqa: ASYNC240  at once

    async def converse(self, socket: FdSocket) -> None:
        assembler = Assembler(FRONTEND_MESSAGES)
        self.socket, self._status = socket, 0
        count = 0
        try:
            while True:
                data, handles = await socket.receive(assembler.missing)
                if not data:
                    self.ends.append("the front end hung up")
                    return
                message = assembler.feed(data, handles)
                if message is None:
                    continue
                if count == self.patience:
                    message.close()
                    self.ends.append("out of patience")
                    return
                count += 1
                if not await self._answer(socket, message):
                    self.ends.append("lied")
                    return
        except TransportLost as exc:
            self.ends.append(str(exc))
        finally:
            assembler.close()
            socket.close()
            self.socket = None
            while self.kept:
                self.kept.popitem()[1].close()

    async def _answer(self, socket: FdSocket, message: UserMessage) -> bool:
        request = R(message.request)
        payload: Any = parse(message, FRONTEND_MESSAGES)
        self.log.append((request, payload, len(message.handles)))
        if len(message.handles) == 1:
            place = request, getattr(payload, "index", 0)
            if place in self.kept:
                self.kept[place].close()
            self.kept[place] = message.handles.pop()
        message.close()
        if request is R.SET_STATUS:
            self._status = payload.value
        right = self._right(request, payload, message.need_reply)
        if request not in self.lies:
            if right:
                await socket.send(right)
            return True
        answer = self.lies[request](right)
        if answer not in (SILENCE, HANG_UP):
            await socket.send(answer, self.lie_fds)
        return answer != HANG_UP

    def _right(self, request: FrontendRequest, payload: Any, need_reply: bool) -> bytes:
        answers: dict[FrontendRequest, Callable[[], Payload]] = {
            R.GET_FEATURES: lambda: U64(self.features),
            R.GET_PROTOCOL_FEATURES: lambda: U64(self.protocol_features),
            R.GET_QUEUE_NUM: lambda: U64(1),
            R.GET_VRING_BASE: lambda: VringState(payload.index, 0),
            R.GET_CONFIG: lambda: Config(payload.offset, payload.flags, self._config(len(payload.data))),
            R.GET_STATUS: lambda: U64(self._status),
        }
        if request in answers:
            return reply(request, answers[request]())
        return ack(request, good=True) if need_reply else b""

    def _config(self, size: int) -> bytes:
        return self.config[:size] if size <= len(self.config) else b""
