"""The root complex in another process, on a link of this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs

from drivers.errors import DriverError
from rings.errors import MemoryFault
from rings.memory import Addr
from vnet.errors import LinkDown
from vnet.link.base import Direction, EndpointPort, Link, Region, all_ones
from vnet.link.transaction.bulk import Bulk
from vnet.link.transaction.fields import MessageCode
from vnet.link.wire.completer import Completer, EndpointCompleter, requester_of
from vnet.link.wire.ends import ERRORS
from vnet.link.wire.errors import Failure
from vnet.stream.channel import Channel
from vnet.stream.end import PAYLOAD, Connected
from vnet.stream.handshake import Span
from vnet.stream.memory import Dma, StreamCopies, StreamRange

__all__ = ["FarRoot"]


@attrs.frozen(eq=False)
class _LinkEndpoint:
    """The endpoint behind a link, for requests that travel it. Implements `vnet.link.base.EndpointPort`."""

    link: Link

    def config_read(self, function: int, offset: int, size: int) -> int | None:
        return self.link.config_read(function, offset, size)

    def config_write(self, function: int, offset: int, size: int, value: int) -> bool:
        self.link.config_write(function, offset, size, value)
        return True

    def mem_read(self, addr: int, size: int, function: int) -> int | None:
        return self.link.mem_read(Direction.DOWNSTREAM, addr, size)

    def mem_write(self, addr: int, size: int, value: int, function: int) -> bool:
        self.link.mem_write(Direction.DOWNSTREAM, addr, size, value)
        return True

    def regions(self, addr: int, size: int, function: int) -> Iterable[Region]:
        return ()

    def beyond(self, addr: int, size: int) -> Iterable[tuple[Link, Direction]]:
        return ()

    def link_up(self) -> None:
        """Do nothing."""

    def link_down(self) -> None:
        """Do nothing."""


@attrs.frozen(eq=False)
class _FarMemory(Dma):
    """Accesses of one function to the other host's memory."""

    channel: Channel
    requester: int

    def read(self, address: int, size: int) -> bytes:
        [data] = self.read_each([(address, size)])
        return data  # type: ignore[return-value]

    def read_each(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | bytearray]:
        address, size = ranges[0]
        try:
            answers = self.channel.read_each(self.requester, ranges)
        except DriverError as exc:
            raise LinkDown(address, size, write=False, reason=str(exc)) from None
        data: list[bytes | bytearray] = []
        for (at, length), answer in zip(ranges, answers, strict=True):
            if isinstance(answer, Failure):
                raise ERRORS[answer](at, length, write=False, reason=answer.value)
            data.append(answer)
        return data

    def write(self, address: int, data: bytes) -> None:
        try:
            self.channel.write(self.requester, address, data, at_once=False)
        except DriverError as exc:
            raise LinkDown(address, len(data), write=True, reason=str(exc)) from None

    def before(self, address: int, size: int) -> bytes:
        return self.read(address, size)


class FarRoot(Connected):
    """The root complex in another process. Implements `vnet.link.base.RootPort` and `StreamEnd`."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._end = _LinkEndpoint(link)
        self._copies = StreamCopies()
        self._spans: Sequence[Span] = ()
        self._dma: dict[int, _FarMemory] = {}
        self.memory: Sequence[Span] = ()

    # RootPort

    def mem_read(self, addr: int, size: int, function: int) -> int | None:
        dma = self._of(function)
        try:
            return None if dma is None else int.from_bytes(dma.read(addr, size), "little")
        except MemoryFault:
            return None

    def mem_write(self, addr: int, size: int, value: int, function: int) -> bool:
        """Send a write at once, behind those that were gathered: it is an interrupt."""
        self._copies.flush()
        data = (value & all_ones(size)).to_bytes(size, "little")
        return self._send(lambda channel: channel.write(requester_of(function), addr, data, at_once=True))

    def intx(self, function: int, asserted: bool) -> None:
        self._copies.flush()
        code = MessageCode.ASSERT_INTA if asserted else MessageCode.DEASSERT_INTA
        self._send(lambda channel: channel.message(code, function))

    def regions(self, addr: int, size: int, function: int) -> Iterable[Region]:
        dma = self._of(function)
        for base, length in self._spans if dma is not None else ():
            low, high = max(addr, base), min(addr + size, base + length)
            if low < high:
                assert dma is not None
                yield Addr(low), StreamRange(dma, self._copies, low, high - low)

    def beyond(self, addr: int, size: int) -> Iterable[tuple[Link, Direction]]:
        return ()

    def removed(self) -> None:
        """Do nothing: the link is down then."""

    def _of(self, function: int) -> _FarMemory | None:
        if self._channel is None:
            return None
        if function not in self._dma:
            self._dma[function] = _FarMemory(self._channel, requester_of(function))
        return self._dma[function]

    def _send(self, send: Callable[[Channel], None]) -> bool:
        try:
            if self._channel is not None:
                send(self._channel)
        except DriverError:
            return False
        return self._channel is not None

    # StreamEnd

    @property
    def completer(self) -> Completer[EndpointPort]:
        return EndpointCompleter(self._end, requester_of(0), PAYLOAD, None)

    def at_once(self, packet: Bulk) -> bool:
        """Requests wait: a function must not change between two words of a ring."""
        return False

    def arrived(self) -> None:
        self._copies.drop()

    def connect(self, channel: Channel, memory: Sequence[Span]) -> None:
        self._dma.clear()
        self._channel, self._spans = channel, memory

    def disconnect(self) -> None:
        super().disconnect()
        self._dma.clear()

    async def run(self) -> None:
        await self._copies.run()
