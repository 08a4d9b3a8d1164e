"""The plain path of a port in C (`_frames.c`), by the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, ClassVar

from drivers.contracts.ports import NOT_PLAIN, FrameSlots, KnownHeads
from rings.memory import Addr
from rings.native import NATIVE
from vnet.ports.packet.interface_port import InterfacePort

if TYPE_CHECKING or NATIVE:
    from vnet.ports.packet.native import _frames

__all__ = ["NativePort"]

UNLIMITED = 1 << 62
"""Budget in bytes without a limit."""


class NativePort(InterfacePort):
    """Implements `drivers.contracts.ports.NativeQueue` over the caches of a TUN or TAP port."""

    FRONT: ClassVar[int]
    _fd: int
    _plain: bool
    _limit: float
    native: bool = NATIVE

    def send_each(
        self,
        view: memoryview,
        frames: Sequence[tuple[int, ...]],
        known: KnownHeads,
        exceptions: AbstractSet[bytes] | None = None,
        single: bool = False,
        pitch: int = 0,
        /,
    ) -> tuple[int, int]:
        sent, octets = _frames.send_each(self._fd, view, frames, known, self._caches()[1], exceptions, single, pitch)
        self.tx_packets += sent
        self.tx_bytes += octets
        return sent, octets

    def recv_chains(
        self, view: memoryview, chains: Sequence[tuple[int, int, int]], verdicts: Mapping[bytes, str] | None, /
    ) -> tuple[list[tuple[int, int]], int, int]:
        return self._recv_each(view, chains, len(chains), UNLIMITED, None, 0, 0, verdicts, True)

    def recv_slots(
        self, slots: FrameSlots, free: Sequence[int], limit: int, budget: int, /
    ) -> tuple[list[tuple[Addr, int, int]], int, int]:
        return self._recv_each(slots.block, free, limit, budget, slots.addrs, slots.addrs[0], slots.size, None, False)

    def _recv_each(
        self,
        view: memoryview,
        targets: Sequence[object],
        limit: int,
        budget: int,
        addrs: Sequence[Addr] | None,
        base: int,
        room: int,
        verdicts: Mapping[bytes, str] | None,
        one_buffer: bool,
    ) -> tuple[list[Any], int, int]:
        if not self._plain:
            return [], 0, NOT_PLAIN
        fronts, _ = self._caches()
        done, octets, stopped = _frames.recv_each(
            self._fd, view, targets, limit, budget, addrs, base, room, fronts, self.FRONT, self._limit, verdicts,
            one_buffer,
        )  # fmt: skip
        self.rx_packets += len(done)
        self.rx_bytes += octets
        return done, octets, stopped

    def _caches(self) -> tuple[Mapping[Any, bytes], Mapping[bytes, bytes] | None]:
        """Return the fronts of known frames from the interface, and what replaces the heads of those from the ring.

        The latter is None if frames are written with their heads.
        """
        raise NotImplementedError
