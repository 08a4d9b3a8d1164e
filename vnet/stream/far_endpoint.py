"""The endpoint in another process, on a link of this one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from drivers.errors import DriverError
from vnet.link.base import Direction, Link, RangedMemory, Region, RootPort, all_ones
from vnet.link.transaction.bulk import Bulk
from vnet.link.transaction.packets import ConfigRead, ConfigWrite, Header
from vnet.link.wire.completer import Completer, RootCompleter, requester_of
from vnet.link.wire.ends import doublewords
from vnet.link.wire.errors import Failure
from vnet.stream.channel import Channel
from vnet.stream.end import PAYLOAD, ROOT, Connected
from vnet.stream.handshake import Span

__all__ = ["FarEndpoint"]

COMMAND = 0x04
BUS_MASTER = 0x04
"""Bit of the command register."""


@attrs.frozen(eq=False)
class _HostMemory:
    """The root complex's host, as the other side's functions access it. Implements `vnet.link.base.RootPort`."""

    link: Link
    memory: RangedMemory
    masters: set[int]
    """Functions whose bus mastering is on."""

    def mem_read(self, addr: int, size: int, function: int) -> int | None:
        return None  # all that can be read is memory

    def mem_write(self, addr: int, size: int, value: int, function: int) -> bool:
        """Take an interrupt message; other writes are those of memory."""
        if function not in self.masters or self.memory.contents(addr, size):
            return False
        before = self.link.statistics().upstream.unsupported
        self.link.mem_write(Direction.UPSTREAM, addr, size, value, function)
        return self.link.statistics().upstream.unsupported == before

    def regions(self, addr: int, size: int, function: int) -> Iterable[Region]:
        return self.memory.contents(addr, size) if function in self.masters else ()

    def beyond(self, addr: int, size: int) -> Iterable[tuple[Link, Direction]]:
        return ()

    def intx(self, function: int, asserted: bool) -> None:
        self.link.intx(function, asserted)

    def removed(self) -> None:
        """Do nothing."""

    def link_up(self) -> None:
        """Do nothing."""

    def link_down(self) -> None:
        """Do nothing."""


class FarEndpoint(Connected):
    """The endpoint in another process. Implements `vnet.link.base.EndpointPort` and `StreamEnd`.

    Its functions access the whole memory of this host, while their bus mastering is on.
    """

    def __init__(self, link: Link, memory: RangedMemory) -> None:
        super().__init__()
        self._masters: set[int] = set()
        self._host = _HostMemory(link, memory, self._masters)
        self.memory = memory.ranges

    # EndpointPort

    def config_read(self, function: int, offset: int, size: int) -> int | None:
        read = b""
        for piece in doublewords(offset, size):
            request = ConfigRead(
                header=Header(ROOT), target=requester_of(function), register=piece.address, enabled=piece.enables[0]
            )
            data = self._configure(request)
            if isinstance(data, Failure):
                return None
            read += data[piece.offset : piece.offset + piece.size]
        return int.from_bytes(read, "little")

    def config_write(self, function: int, offset: int, size: int, value: int) -> bool:
        rest, accepted = (value & all_ones(size)).to_bytes(size, "little"), True
        if offset <= COMMAND < offset + size:
            # Off first, and on only with the function: none accesses memory while its register says no.
            (self._masters.add if rest[COMMAND - offset] & BUS_MASTER else self._masters.discard)(function)
        for piece in doublewords(offset, size):
            data, rest = piece.padded(rest[: piece.size]), rest[piece.size :]
            request = ConfigWrite(
                header=Header(ROOT),
                target=requester_of(function),
                register=piece.address,
                enabled=piece.enables[0],
                data=data,
            )
            accepted &= not isinstance(self._configure(request), Failure)
        return accepted

    def mem_read(self, addr: int, size: int, function: int = 0) -> int | None:
        try:
            [data] = [] if self._channel is None else self._channel.read_each(ROOT, [(addr, size)])
        except (DriverError, ValueError):
            return None
        return None if isinstance(data, Failure) else int.from_bytes(data, "little")

    def mem_write(self, addr: int, size: int, value: int, function: int = 0) -> bool:
        try:
            if self._channel is not None:
                self._channel.write(ROOT, addr, (value & all_ones(size)).to_bytes(size, "little"), at_once=True)
        except DriverError:
            return False
        return self._channel is not None

    def regions(self, addr: int, size: int, function: int = 0) -> Iterable[Region]:
        return ()

    def beyond(self, addr: int, size: int) -> Iterable[tuple[Link, Direction]]:
        return ()

    def _configure(self, request: ConfigRead | ConfigWrite) -> bytes | Failure:
        try:
            return Failure.LINK_DOWN if self._channel is None else self._channel.configure(request)
        except DriverError:
            return Failure.LINK_DOWN

    # StreamEnd

    @property
    def completer(self) -> Completer[RootPort]:
        return RootCompleter(self._host, ROOT, PAYLOAD, None)

    def at_once(self, packet: Bulk) -> bool:
        """Accesses to memory are done at once: the other side waits for them. Interrupts wait for this side."""
        return bool(self._host.memory.contents(packet.start, packet.size))

    def arrived(self) -> None:
        """Do nothing."""

    def connect(self, channel: Channel, memory: Sequence[Span]) -> None:
        self._masters.clear()
        self._channel = channel

    async def run(self) -> None:
        """Return: there is nothing to do."""
