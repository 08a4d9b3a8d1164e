"""The other process at an end of a link: it is connected to, or waited for, again and again."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from contextlib import closing

import trio

from drivers.carriers.framing import ProtocolError
from drivers.contracts.events import NO_EVENTS, Events, LinkErrorDetected, Source
from drivers.errors import DriverError, TransportLost
from vnet.link.base import Link
from vnet.link.transaction.bulk import Bulk
from vnet.link.wire.errors import SEVERITIES, WireError
from vnet.linux.patience import Patience
from vnet.linux.unix_socket import Acceptor
from vnet.linux.waits import wait_readable, wait_writable
from vnet.stream.address import Address, connect, open_listeners
from vnet.stream.channel import Channel
from vnet.stream.cipher import Cipher, Plain, Tls
from vnet.stream.end import StreamEnd
from vnet.stream.frames import Control
from vnet.stream.handshake import Handshake, Side, StreamIdentity
from vnet.views.link import RemoteView

__all__ = ["DEADLINE", "RETRY", "StreamPeer"]

DEADLINE = 5.0
"""Seconds that the handshake may take."""
RETRY = 0.25
"""Seconds between two attempts to connect."""
FREE = 0.05
"""Seconds for which an access may block without being counted as late."""
GREETED_MAX = 8
"""Most connections whose handshake is under way."""


class StreamPeer:
    """The link is up while one connection has passed the handshake, and both sides want it up."""

    def __init__(
        self,
        link: Link,
        side: Side,
        end: StreamEnd,
        identity: StreamIdentity,
        key: str,
        address: Address,
        *,
        listens: bool,
        report: Callable[[str], None],
        events: Events = NO_EVENTS,
    ) -> None:
        """``side`` is ours, ``end`` the other one's on ``link``; ``report`` takes the reason of each link-down."""
        self._link = link
        self._side = side
        self._end = end
        self._identity = identity
        self._key = key
        self._address = address
        self._listens = listens
        self._report = report
        self._events = events
        self._patience = Patience(free=FREE)
        self._channel: Channel | None = None
        self._connections = 0
        self._trouble = "not connected yet"
        self._greeted = trio.CapacityLimiter(GREETED_MAX)
        self.errors: Counter[str] = Counter()
        """Errors of received packets, by name."""

    # ChannelEvents

    def arrived(self) -> None:
        self._end.arrived()

    def at_once(self, packet: Bulk) -> bool:
        return self._end.at_once(packet)

    def error(self, error: WireError, log: bytes) -> None:
        self.errors[error.value] += 1
        if (emit := self._events.links) is not None:
            what = self._side.value, error.value, SEVERITIES[error].value, log.hex()
            emit(LinkErrorDetected(trio.current_time(), Source(link=self._link.name), *what))

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self._channel is not None and isinstance(self._channel.cipher, Tls)

    # The system

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a connection until cancelled. Raises OSError if the address can't be listened at."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end.run)
            if self._listens:
                async with open_listeners(self._address) as listening:
                    task_status.started()
                    async with trio.open_nursery() as accepting:
                        for each in listening:
                            accepting.start_soon(self._accept, each, accepting)
            else:
                task_status.started()
                while True:
                    await self._dial()
                    await trio.sleep(RETRY)

    def snapshot(self) -> RemoteView:
        """Return the state of the connection."""
        connected = self._channel is not None
        return RemoteView(
            str(self._address),
            connected,
            self._connections,
            "" if connected else self._trouble,
            self._patience.blocked,
            dict(self.errors),
        )

    async def _dial(self) -> None:
        try:
            with trio.fail_after(DEADLINE):
                connected = await connect(self._address)
        except (TransportLost, trio.TooSlowError) as exc:
            self._say(str(exc) or f"{self._address}: no answer within {DEADLINE:g} s")
            return
        await self._serve(connected)

    async def _accept(self, listening: socket.socket, nursery: trio.Nursery) -> None:
        acceptor = Acceptor(listening, self._say)
        while True:
            await self._greeted.acquire_on_behalf_of(token := object())
            try:
                connected = await acceptor.accept()
            except BaseException:
                self._greeted.release_on_behalf_of(token)
                raise
            nursery.start_soon(self._serve, connected, token)

    def _say(self, trouble: str) -> None:
        if self._channel is None:
            self._trouble = trouble
        self._report(trouble)

    async def _serve(self, connected: socket.socket, token: object = None) -> None:
        """Greet the other process, and serve it until the connection ends."""
        with closing(connected):
            self._address.prepare(connected)
            try:
                try:
                    channel, handshake = await self._greet(connected)
                finally:
                    if token is not None:
                        self._greeted.release_on_behalf_of(token)
                with closing(channel):
                    await self._use(channel, handshake)
            except DriverError as exc:
                self._say(str(exc))

    # The handshake

    async def _greet(self, connected: socket.socket) -> tuple[Channel, Handshake]:
        """Return a connection that has passed the handshake. Raises ProtocolError, TransportLost."""
        with trio.move_on_after(DEADLINE):
            cipher = await self._secure(connected)
            channel = Channel(connected, cipher, self._end.completer, self, self._patience)
            handshake = Handshake(self._side, self._identity, self._key, self._end.memory)
            try:
                channel.send_control(Control.HELLO, handshake.hello)
                handshake.take_hello(await channel.receive_control(Control.HELLO))
                channel.send_control(Control.PROOF, handshake.proof(cipher.binding))
                handshake.take_proof(await channel.receive_control(Control.PROOF), cipher.binding)
            except BaseException as exc:
                # The reason is safe to tell: it is about what the other side has said itself.
                if isinstance(exc, ProtocolError):
                    channel.end(str(exc))
                channel.close()
                raise
            return channel, handshake
        raise ProtocolError(f"the other side did not finish the handshake within {DEADLINE:g} s")

    async def _secure(self, connected: socket.socket) -> Cipher:
        if self._address.stays_here(connected):
            return Plain()
        tls = Tls(server=self._listens)
        data = b""
        while True:
            out, done = tls.step(data)
            while out:
                try:
                    out = out[connected.send(out) :]
                except BlockingIOError:
                    await wait_writable(connected)
                except OSError as exc:
                    raise TransportLost(exc.strerror or str(exc)) from None
            if done:
                return tls
            await wait_readable(connected)
            try:
                data = connected.recv(1 << 16)
            except OSError as exc:
                raise TransportLost(exc.strerror or str(exc)) from None
            if not data:
                raise TransportLost("the other side hung up during the TLS handshake")

    # The link

    async def _use(self, channel: Channel, handshake: Handshake) -> None:
        """Have the link up until the connection ends. Raises why it ends."""
        if self._channel is not None:
            channel.end("another connection is open")
            raise TransportLost("refused a connection: another one is open")
        self._channel = channel
        self._connections += 1
        try:
            if self._side is Side.ENDPOINT:
                self._raise(channel, handshake)
                channel.send_control(Control.READY)
                channel.open()
            else:
                with trio.move_on_after(DEADLINE) as scope:
                    await channel.receive_control(Control.READY)
                if scope.cancelled_caught:
                    raise ProtocolError(f"the endpoint was not ready within {DEADLINE:g} s")
                channel.open()
                self._raise(channel, handshake)
            raise await channel.run()
        finally:
            self._channel = None
            self._end.disconnect()
            self._link.set_reachable(False)

    def _raise(self, channel: Channel, handshake: Handshake) -> None:
        """Bring the link up. Raises TransportLost if this side wants it down."""
        self._end.connect(channel, handshake.memory)
        self._link.set_reachable(True)
        if not self._link.up:
            reason = "the link is taken down there" if channel.ended is None else str(channel.ended)
            channel.end(reason)
            raise TransportLost("the link is taken down here" if channel.ended is None else str(channel.ended))
