"""MSI of one function: up to 32 vectors with one address, told apart by the low bits of the data (7.7.1)."""

from __future__ import annotations

from collections.abc import Callable

from vnet.pcie.config_space import MSI_CAPABLE, MSI_ENABLE, MSI_ENABLED

__all__ = ["Msi"]


class Msi:
    """MSI registers as they are now; ``send(address, data)`` sends a message."""

    def __init__(self, vectors: int, send: Callable[[int, int], None]) -> None:
        self.vectors = vectors
        self._send = send
        self.configure(0, 0, 0, bus_master=False)

    def configure(self, control: int, address: int, data: int, *, bus_master: bool) -> None:
        """Apply the registers of the capability and bus mastering."""
        self.enabled = bool(control & MSI_ENABLE)
        self._open = self.enabled and bus_master
        self._address = address
        capable, enabled = (control & MSI_CAPABLE) >> 1, (control & MSI_ENABLED) >> 4
        self._low = (1 << min(capable, enabled)) - 1
        self._data = data & ~self._low

    def fire(self, vector: int) -> None:
        """Send the vector's message; one beyond the enabled number shares the message of a lower one.

        Raises ValueError if the function has no such vector.
        """
        if not 0 <= vector < self.vectors:
            raise ValueError(f"there is no MSI vector {vector} of {self.vectors}")
        if self._open:
            self._send(self._address, self._data | vector & self._low)
