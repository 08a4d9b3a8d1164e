"""MSI-X of one function: table and pending bits. No interrupt is lost or doubled (7.7.2, 6.1.4)."""

from __future__ import annotations

from collections.abc import Callable

from drivers.contracts.hw import RegisterBlock
from vnet.views.pci import MsixView

__all__ = ["ENTRY", "MsixBar", "MsixTable", "NoRegisters", "pending_bytes"]

ENTRY = 16
"""Size of a table entry in bytes: address (8), data (4), vector control (4)."""
VECTOR_MASK = 1


def pending_bytes(vectors: int) -> int:
    """Return the size of the pending bit array in bytes: whole 64-bit words."""
    return -(-vectors // 64) * 8


class MsixTable:
    """MSI-X table; ``send(address, data)`` sends a message. Every vector starts masked."""

    def __init__(self, vectors: int, send: Callable[[int, int], None]) -> None:
        self.vectors = vectors
        self._send = send
        self.reset()

    def reset(self) -> None:
        self._table = bytearray(ENTRY * self.vectors)
        for vector in range(self.vectors):
            self._table[ENTRY * vector + 12] = VECTOR_MASK
        # Address and data of each vector, decoded when its entry changes; None while the vector is masked.
        self._messages: list[tuple[int, int] | None] = [None] * self.vectors
        self._pending = 0
        self.enabled = False
        self._open = False

    def configure(self, *, enabled: bool, masked: bool, bus_master: bool) -> None:
        """Apply MSI-X enable, function mask and bus mastering. Disabling MSI-X clears pending bits."""
        self.enabled = enabled
        self._open = enabled and bus_master and not masked
        if not enabled:
            self._pending = 0
        for vector in range(self.vectors if self._pending else 0):
            self._flush(vector)

    def fire(self, vector: int) -> None:
        """Send the vector's message, or set its pending bit while masked. Raises ValueError beyond the table."""
        if not 0 <= vector < self.vectors:
            raise ValueError(f"there is no MSI-X vector {vector} of {self.vectors}")
        if self.enabled:
            message = self._messages[vector] if self._open else None
            if message is None:
                self._pending |= 1 << vector
            else:
                self._send(*message)

    def message_of(self, vector: int) -> tuple[int, int] | None:
        """Return address and data of the message that `fire` sends now; None if it sends none."""
        return self._messages[vector] if self._open and vector < self.vectors else None

    def vector_of(self, address: int, data: int) -> int | None:
        """Return the unmasked vector with this message; None if there is none."""
        message = address, data
        return self._messages.index(message) if message in self._messages else None

    def masked(self, vector: int) -> bool:
        """Return whether the vector's own mask is set."""
        return self._messages[vector] is None

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self._table[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        if offset + size > len(self._table):
            return
        self._table[offset : offset + size] = value.to_bytes(size, "little")
        for vector in range(offset // ENTRY, (offset + size - 1) // ENTRY + 1):
            at = ENTRY * vector
            self._table[at] &= ~3
            masked = self._table[at + 12] & VECTOR_MASK
            self._table[at + 12 : at + 16] = bytes((masked, 0, 0, 0))
            self._messages[vector] = None if masked else (self.read(at, 8), self.read(at + 8, 4))
            self._flush(vector)

    def read_pending(self, offset: int, size: int) -> int:
        return self._pending >> 8 * offset & (1 << 8 * size) - 1

    def snapshot(self) -> MsixView:
        return MsixView(
            self.vectors,
            self.enabled,
            tuple(v for v, message in enumerate(self._messages) if message is None),
            tuple(v for v in range(self.vectors) if self._pending >> v & 1),
        )

    def _flush(self, vector: int) -> None:
        message = self._messages[vector]
        if self._open and self._pending >> vector & 1 and message is not None:
            # Cleared first: the interrupt handler may cause this vector to fire again before `_send` returns.
            self._pending &= ~(1 << vector)
            self._send(*message)


class NoRegisters:
    """Register block of a BAR that holds an MSI-X table only: reads 0, ignores writes."""

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        pass


class MsixBar:
    """A BAR with an MSI-X table and pending bits; ``block`` handles all other accesses."""

    def __init__(self, block: RegisterBlock, table: MsixTable, table_at: int, pending_at: int) -> None:
        self._block = block
        self._table = table
        self._table_at = table_at
        self._table_end = table_at + ENTRY * table.vectors
        self._pending_at = pending_at
        self._pending_end = pending_at + pending_bytes(table.vectors)

    def read(self, offset: int, size: int) -> int:
        if self._table_at <= offset < self._table_end:
            return self._table.read(offset - self._table_at, size)
        if self._pending_at <= offset < self._pending_end:
            return self._table.read_pending(offset - self._pending_at, size)
        return self._block.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        if self._table_at <= offset < self._table_end:
            self._table.write(offset - self._table_at, size, value)
        elif not self._pending_at <= offset < self._pending_end:  # pending bits are read-only
            self._block.write(offset, size, value)
