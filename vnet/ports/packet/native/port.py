"""The plain path of a port in C (`_frames.c`), by the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, ClassVar

from drivers.contracts.ports import NOT_PLAIN, FrameSlots, KnownHeads
from drivers.devices.net.flow import Figures
from rings.memory import Addr
from rings.native import NATIVE
from vnet.ports.packet.interface_port import InterfacePort

if TYPE_CHECKING or NATIVE:
    from vnet.ports.packet.native import _frames

__all__ = ["NativePort", "Reader", "Writer"]

Reader = tuple[int, Mapping[Any, bytes], int, float]
"""Descriptor of a port; fronts of known frames; bytes of a front; maximum bytes of header and frame without GSO."""
Writer = tuple[int, Mapping[bytes, bytes] | None]
"""Descriptor of a port; what replaces known heads, None if nothing does."""
UNLIMITED = 1 << 62
"""Budget in bytes without a limit."""


class NativePort(InterfacePort):
    """Implements `drivers.contracts.ports.NativeQueue` over the caches of a TUN or TAP port."""

    FRONT: ClassVar[int]
    _fd: int
    _plain: bool
    _limit: float
    native: bool = NATIVE
    carried_bytes = 0
    """Bytes without headers that shuttles read and wrote, of ``rx_bytes`` and ``tx_bytes``."""
    _left = 0
    """Bytes of a frame that a shuttle has read into the next buffer, and left to `judge_read`; 0 without one. No other
    frame may take that buffer.
    """

    def lend_reader(self) -> Reader | None:
        """Return what a shuttle needs to read; None if that is not possible now."""
        if not self._lends or not self._plain or self._left:
            return None
        return self._fd, self._caches()[0], self.FRONT, self._limit

    def lend_writer(self) -> Writer | None:
        """Return what a shuttle needs to write; None if that is not possible now."""
        return (self._fd, self._caches()[1]) if self._lends and self._fd >= 0 else None

    def uncarried_bytes(self) -> int:
        """Return the bytes of frames that crossed the port without a shuttle, in both directions."""
        return self.byte_count() - self.carried_bytes

    def take_back(self, received: Figures, left: int) -> None:
        """Count the frames that a shuttle read; ``left``: bytes of one more that it has read into the next buffer."""
        self.rx_packets += received.count
        self.rx_bytes += received.bytes
        self.carried_bytes += received.bytes
        if left:
            self._left, self._plain = left, False

    def sent(self, figures: Figures) -> None:
        """Count the frames that a shuttle wrote."""
        self.tx_packets += figures.count
        self.tx_bytes += figures.bytes
        self.carried_bytes += figures.bytes

    @property
    def _lends(self) -> bool:
        """Whether C moves the port's frames, and nothing observes them."""
        return self.native and getattr(self.recv_slots, "__func__", None) is NativePort.recv_slots

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
        if self._left:
            left, self._left = self._left, 0
            self._refresh()
            return [], 0, left
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

    def _refresh(self) -> None:
        """Update ``_plain``: whether the port is live, and neither a frame of its own nor one in a buffer waits."""
        raise NotImplementedError

    def _caches(self) -> tuple[Mapping[Any, bytes], Mapping[bytes, bytes] | None]:
        """Return the fronts of known frames from the interface, and what replaces the heads of those from the ring.

        The latter is None if frames are written with their heads.
        """
        raise NotImplementedError
