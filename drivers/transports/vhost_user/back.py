"""The device's half: a virtio device for whoever connects as its front end, one at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import attrs
import trio

from drivers.bus.vhost import DeviceQueue, VhostDevice
from drivers.contracts.ipc import FdSocket, Handle, Ipc, Unusable
from drivers.errors import TransportLost
from drivers.transports.vhost_user.constants import BackendRequest, ProtocolFeature
from drivers.transports.vhost_user.messages import FRONTEND_MESSAGES, Assembler, emit
from drivers.transports.vhost_user.payloads import ProtocolError
from drivers.transports.vhost_user.session import Session
from rings.formats import RING_FEATURES
from rings.memory import MappedMemory, Memory
from rings.status import Status

__all__ = ["BackStatistics", "VhostUserBack"]

T = TypeVar("T")
VENDOR = 0x1AF4
DEADLINE = 5.0
"""Seconds that a front end may take to say what it began to say, to hear what it asked for, and to say anything."""


@attrs.define(eq=False)
class BackStatistics:
    """Since the device exists."""

    sessions: int = 0
    messages: int = 0
    refused: int = 0
    """Connections that came while there was one."""
    broken: int = 0
    """Sessions that ended because the front end broke the protocol, or was too slow."""


class VhostUserBack:
    """`drivers.bus.vhost.VhostBack` and `drivers.bus.vhost.VhostOps` over connections that somebody else opens."""

    features = RING_FEATURES

    def __init__(self, ipc: Ipc, device_id: int, name: str = "") -> None:
        self.device = VhostDevice(device_id, VENDOR, self, name)
        self.device.on_change = self._changed
        self.device.on_broken = self._broken
        self.trouble: Callable[[str], None] = lambda text: None
        """Called with one line for each message that is refused and each queue that breaks, while a session goes on."""
        self.statistics = BackStatistics()
        self._ipc = ipc
        self._session: Session | None = None
        self._scope: trio.CancelScope | None = None
        self._bound = False
        self._config_changed = trio.Event()
        self._nothing = MappedMemory(ipc.fence)

    # VhostBack

    def bind(self) -> None:
        """From now on front ends are served."""
        self._bound = True

    def unbind(self) -> None:
        """No longer; whoever is connected is hung up on."""
        self._bound = False
        if self._scope is not None:
            self._scope.cancel()

    async def serve(self) -> None:
        """`converse` does it all."""

    def registers(self) -> dict[str, int]:
        """There are none."""
        return {}

    # VhostOps

    def memory(self) -> Memory:
        return self._session.rings.reach if self._session is not None else self._nothing

    def call(self, queue: DeviceQueue) -> None:
        if self._session is not None:
            call = self._session.rings[queue.index].call
            if call is not None:
                call.notify()

    def config_changed(self) -> None:
        """Where there is no channel to say it on, the front end finds out when it looks."""
        self._config_changed.set()
        if self._session is not None and self.device.status & Status.NEEDS_RESET:
            for queue in self.device.queues:
                err = self._session.rings[queue.index].err
                if err is not None and queue.ring is not None and queue.ring.broken:
                    err.notify()

    async def settle(self) -> None:
        """There is no link to pay."""

    def _changed(self) -> None:
        """A device that lost its driver is nobody's any more."""
        if not self.device.ready.is_set() and self._scope is not None:
            self._scope.cancel()

    def _broken(self, queue: DeviceQueue, error: Exception) -> None:
        self.trouble(f"queue {queue.index} ({queue.name}) stands still until the driver resets the device: {error}")

    # Connections

    @property
    def connected(self) -> bool:
        return self._session is not None

    async def converse(self, socket: FdSocket) -> None:
        """Serve one front end until it hangs up; one that comes while there is another is refused.

        Takes the socket over. Raises ProtocolError or TransportLost where it ended in any other way.
        """
        if self._session is not None or not self._bound:
            self.statistics.refused += 1
            socket.close()
            return
        self.statistics.sessions += 1
        session = self._session = Session(self.device, self._ipc, self.trouble)
        assembler = Assembler(FRONTEND_MESSAGES)
        error: ProtocolError | TransportLost | None = None
        try:
            with trio.CancelScope() as self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._tell_changes, session)
                    try:
                        await self._listen(session, socket, assembler)
                    except (ProtocolError, TransportLost) as exc:
                        error = exc
                    nursery.cancel_scope.cancel()
        finally:
            self._scope = None
            assembler.close()
            await session.close()
            self._session = None
            socket.close()
        if error is not None:
            self.statistics.broken += isinstance(error, ProtocolError)
            raise error

    async def _listen(self, session: Session, socket: FdSocket, assembler: Assembler) -> None:
        spoken = False
        while True:
            receive = partial(socket.receive, assembler.wanted)
            try:
                data, handles = await (receive() if spoken and not assembler.begun else _in_time(receive))
            except Unusable as exc:
                raise ProtocolError(str(exc)) from None
            if not data:
                if assembler.begun:
                    raise ProtocolError("the connection ended in the middle of a message")
                return
            message = assembler.feed(data, handles)
            if message is None:
                continue
            spoken = True
            self.statistics.messages += 1
            passed: tuple[Handle, ...] = ()
            try:
                answer = await session.serve(message)
                if answer is not None:
                    said, passed = answer[0], tuple(answer[1])
                    await _in_time(partial(socket.send, said, passed))
            finally:
                message.close()
                for handle in passed:
                    handle.close()

    async def _tell_changes(self, session: Session) -> None:
        """Say that the configuration changed, once for all changes that nobody heard of yet."""
        while True:
            await self._config_changed.wait()
            self._config_changed = trio.Event()
            if session.channel is not None and session.agreed(ProtocolFeature.CONFIG):
                try:
                    await _in_time(partial(session.channel.send, emit(BackendRequest.CONFIG_CHANGE_MSG)))
                except (ProtocolError, TransportLost):
                    session.channel.close()  # nobody listens to it any more
                    session.channel = None


async def _in_time(call: Callable[[], Awaitable[T]]) -> T:
    with trio.move_on_after(DEADLINE):
        return await call()
    raise ProtocolError(f"the front end did not go on for {DEADLINE:g} s")
