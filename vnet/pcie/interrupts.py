"""Message-signalled interrupts at the root complex: numbers and their handlers."""

from __future__ import annotations

from itertools import count

from drivers.contracts.hw import Handler

__all__ = ["Interrupts"]

MSI_SIZE = 0x10_0000
MESSAGE = 4
"""Bytes of a message."""


class Interrupts:
    """Interrupt handlers by number. No number is used twice, so that a late message calls no other handler."""

    def __init__(self, base: int) -> None:
        """``base`` is the address of the 1 MiB window for messages, which are 4-byte writes."""
        self.base = base
        self.delivered = 0
        self.spurious = 0
        self._numbers = count(1)
        self._places = count()
        self._handlers: dict[tuple[int, int], tuple[object, Handler]] = {}
        """Source and handler of each message, by its address and data."""

    def request(self, source: object, handler: Handler) -> int:
        """Register ``handler`` for messages from root port ``source``; return their data word."""
        number = next(self._numbers)
        self._handlers[self.base, number] = source, handler
        return number

    def release(self, number: int) -> None:
        self.release_at(self.base, number)

    def place(self) -> int:
        """Return an address for MSI, whose messages differ in their data only."""
        return self.base + MESSAGE * (1 + next(self._places) % (MSI_SIZE // MESSAGE - 1))

    def request_at(self, address: int, data: int, source: object, handler: Handler) -> None:
        """Register ``handler`` for a message to an address of `place` from root port ``source``."""
        self._handlers[address, data] = source, handler

    def release_at(self, address: int, data: int) -> None:
        self._handlers.pop((address, data), None)

    def handler(self, source: object, message: tuple[int, int]) -> Handler | None:
        """Return the handler that a message from ``source`` calls; None if it is spurious."""
        owner, handler = self._handlers.get(message, (None, None))
        return handler if owner is source else None

    @property
    def requested(self) -> int:
        return len(self._handlers)

    def message(self, source: object, addr: int, size: int, data: int) -> bool:
        """Handle a write, if it is one to the window; return whether it is.

        It is spurious if its number is free or belongs to another port.
        """
        owner, handler = self._handlers.get((addr, data), (None, None))
        if handler is not None and owner is source and size == MESSAGE:
            self.delivered += 1
            handler()
            return True
        within = addr < self.base + MSI_SIZE and self.base < addr + size
        self.spurious += within
        return within
