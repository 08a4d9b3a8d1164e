"""A function behind a link as a vfio-user client sees it: regions, with the registers that belong to the client."""

from __future__ import annotations

from collections.abc import Callable

from drivers.carriers.base import pieces
from drivers.contracts.hw import LinkEvents
from vnet.link.base import all_ones
from vnet.pcie.config_space import (
    BARS,
    CAP_MSI,
    CAP_MSIX,
    CAP_PCI_EXPRESS,
    COMMAND,
    CONTROL_FLR,
    DEVICE_CONTROL,
    MSI_ADDRESS,
    MSI_CONTROL,
    MSI_DATA,
    MSI_ENABLE,
    MSI_ENABLED,
    MSIX_CONTROL,
    MSIX_ENABLE,
    MSIX_FUNCTION_MASK,
    SIZE,
)
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.vfio_user.constants import Region
from vnet.vfio_user.payloads import Refused

__all__ = ["ClientFunction"]

BAR_COUNT = 6


class ClientFunction(LinkEvents):
    """Reads and writes of a function's regions. They travel its link.

    The client's BARs hold the client's addresses, while the root complex places ours on the link. Enables of MSI and
    MSI-X, MSI's messages and the function mask are the client's, too: its interrupts decide about ours.
    """

    def __init__(self, handle: PciFunctionHandle, reset: Callable[[], object]) -> None:
        """``reset`` is called after each reset of the function, to set up its interrupts again."""
        self.handle = handle
        self._reset = reset
        self._own: dict[int, int] = {}
        """Writable bits of each byte that belongs to the client."""
        self._values: dict[int, int] = {}
        self._command = 0
        self._flr_at = -1
        handle.watch(self)

    def size(self, region: int) -> int:
        """Return the bytes of a region; 0 if the function has none."""
        return SIZE if region == Region.CONFIG else self.handle.bar_size(region) if region < BAR_COUNT else 0

    def read(self, region: int, offset: int, count: int) -> bytes:
        """Read bytes of a region. Raises Refused."""
        self._check(region, offset, count)
        if region != Region.CONFIG:
            read, bar = self.handle.bar_read, region
            return b"".join(read(bar, at, n).to_bytes(n, "little") for at, n in pieces(offset, count, 8))
        data = bytearray()
        for at, size in pieces(offset, count, 4):
            data += self.handle.config_read(at, size).to_bytes(size, "little")
        for at in self._own.keys() & range(offset, offset + count):
            data[at - offset] = data[at - offset] & ~self._own[at] | self._values[at]
        return bytes(data)

    def write(self, region: int, offset: int, data: bytes) -> None:
        """Write bytes of a region. Raises Refused."""
        self._check(region, offset, len(data))
        largest = 4 if region == Region.CONFIG else 8
        for at, size in pieces(offset, len(data), largest):
            part = data[at - offset : at - offset + size]
            if region == Region.CONFIG:
                self._write_config(at, part)
            else:
                self.handle.bar_write(region, at, size, int.from_bytes(part, "little"))

    def reset(self) -> None:
        """Reset the function as after power-up, except its interrupts."""
        self.handle.reset()
        self._command = 0
        self._take_registers()
        self._restore()

    def close(self) -> None:
        """Reset the function, and follow its link no longer."""
        self.reset()
        self.handle.watch(None)

    def link_up(self) -> None:
        """Set the function up again as it was: a client sees no link."""
        self._restore()

    def link_down(self) -> None:
        """Do nothing: reads return all-ones."""

    def _restore(self) -> None:
        self._reset()  # while accesses to the MSI-X table are decoded
        self.handle.config_write(COMMAND, 2, self._command)

    def _take_registers(self) -> None:
        """Initialise the registers that belong to the client."""
        self._own = {}
        for bar in range(BAR_COUNT):
            if size := self.handle.bar_size(bar):
                address_bits = (-size & all_ones(8)).to_bytes(8, "little")
                self._own.update(enumerate(address_bits, BARS + 4 * bar))
        msi = self.handle.capability(CAP_MSI)
        if msi is not None:
            self._own[msi + MSI_CONTROL] = MSI_ENABLE | MSI_ENABLED
            self._own.update(dict.fromkeys(range(msi + MSI_ADDRESS, msi + MSI_DATA + 2), 0xFF))
            self._own[msi + MSI_ADDRESS] = 0xFC
        msix = self.handle.capability(CAP_MSIX)
        if msix is not None:
            self._own[msix + MSIX_CONTROL + 1] = (MSIX_ENABLE | MSIX_FUNCTION_MASK) >> 8
        express = self.handle.capability(CAP_PCI_EXPRESS)
        self._flr_at = -1 if express is None else express + DEVICE_CONTROL + 1
        self._values = dict.fromkeys(self._own, 0)

    def _write_config(self, offset: int, data: bytes) -> None:
        places = range(offset, offset + len(data))
        if self._own.keys() & set(places):
            for at, byte in zip(places, data, strict=True):
                if at in self._own:
                    self._values[at] = byte & self._own[at]
                else:
                    self.handle.config_write(at, 1, byte)
            return
        self.handle.config_write(offset, len(data), int.from_bytes(data, "little"))
        for at, byte in zip(places, data, strict=True):
            if COMMAND <= at < COMMAND + 2:
                shift = 8 * (at - COMMAND)
                self._command = self._command & ~(0xFF << shift) | byte << shift
            elif at == self._flr_at and byte & CONTROL_FLR >> 8:
                self.reset()

    def _check(self, region: int, offset: int, count: int) -> None:
        size = self.size(region)
        if offset + count > size:
            raise Refused(f"region {region}: {count} bytes at {offset:#x}: it has {size:#x}")
