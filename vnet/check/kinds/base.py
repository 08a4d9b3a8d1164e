"""The interface of a device type to the checker: its rings, and one honest request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import attrs

from vnet.check.front import Front
from vnet.check.split import Buffer

__all__ = ["Kind", "Request"]


@attrs.frozen
class Request:
    """One request and the judgement of its answer."""

    buffers: Sequence[Buffer]
    judge: Callable[[int], str]
    """Returns what is wrong with the answer of that many bytes; "" if the request succeeded."""
    written: int = 0
    """Bytes that a device writes for a request that succeeds."""

    @property
    def readable(self) -> list[Buffer]:
        return [one for one in self.buffers if not one.writable]

    @property
    def writable(self) -> list[Buffer]:
        return [one for one in self.buffers if one.writable]

    def cut(self, size: int) -> Request:
        """Return the same request in buffers of at most ``size`` bytes."""
        pieces = [
            Buffer(one.addr + low, min(size, one.size - low), one.writable)
            for one in self.buffers
            for low in range(0, one.size, size)
        ]
        return Request(pieces, self.judge)

    def joined(self, front: Front) -> Request:
        """Return the same request in one readable and one writable buffer, or in the one of both that it has."""
        arena, sides = front.arena, [side for side in (self.readable, self.writable) if side]
        places = [arena.alloc(sum(one.size for one in side)) for side in sides]
        for side, place in zip(sides, places, strict=True):
            arena.write(place, b"".join(arena.read(one.addr, one.size) for one in side))

        def judge(used: int) -> str:
            low = places[-1]
            for one in self.writable:  # the judgement reads the original buffers
                arena.write(one.addr, arena.read(low, one.size))
                low += one.size
            return self.judge(used)

        buffers = [
            Buffer(place, sum(one.size for one in side), side[0].writable)
            for side, place in zip(sides, places, strict=True)
        ]
        return Request(buffers, judge, self.written)


class Kind(ABC):
    """A device type. The checker has its numbers from the specification, not from this project's drivers."""

    name: ClassVar[str]
    device_id: ClassVar[int]
    """Virtio device id."""
    configured: ClassVar[bool] = True
    """Whether the type has a device configuration."""
    main: ClassVar[int] = 0
    """Ring of the honest request."""
    rings: ClassVar[Sequence[int]] = (0,)
    """Rings that must be started for it."""
    reports: ClassVar[bool] = True
    """Whether an answer says if the request succeeded."""
    features: ClassVar[Mapping[int, str]] = {}
    """Names of its feature bits."""
    size: ClassVar[int] = 16
    """Descriptors of each ring."""

    @abstractmethod
    def request(self, front: Front) -> Request:
        """Return a request in new memory that changes no data of the device."""

    def prepare(self, front: Front) -> None:  # noqa: B027  most types need nothing
        """Do what a driver does before its first request, such as adding receive buffers."""
