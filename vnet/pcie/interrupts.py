"""Message-signalled interrupts at the root complex: which number belongs to whom."""

from __future__ import annotations

from itertools import count

from drivers.contracts.hw import Handler

__all__ = ["Interrupts"]

MSI_SIZE = 0x10_0000


class Interrupts:
    """Numbers are unique in the host and never used twice, so that a late message finds nobody."""

    def __init__(self, base: int) -> None:
        """Messages are 4-byte writes to the 1 MiB at ``base``."""
        self.base = base
        self.delivered = 0
        self.spurious = 0
        self._numbers = count(1)
        self._handlers: dict[int, tuple[object, Handler]] = {}

    def request(self, source: object, handler: Handler) -> int:
        """The data word of messages from behind the port ``source`` that shall call ``handler``."""
        number = next(self._numbers)
        self._handlers[number] = source, handler
        return number

    def release(self, number: int) -> None:
        self._handlers.pop(number, None)

    @property
    def requested(self) -> int:
        return len(self._handlers)

    def covers(self, addr: int, size: int) -> bool:
        return addr < self.base + MSI_SIZE and self.base < addr + size

    def message(self, source: object, addr: int, size: int, data: int) -> None:
        """One write to the window came in; nobody's, or another port's, is spurious."""
        owner, handler = self._handlers.get(data, (None, None))
        if handler is None or owner is not source or size != 4 or addr != self.base:
            self.spurious += 1
            return
        self.delivered += 1
        handler()
