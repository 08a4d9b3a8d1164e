"""The test kit of drivers: a PCI function that logs and falsifies accesses, a back half with wrapped memory.

For tests, examples and other test kits only.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from drivers.bus.vhost import DeviceQueue, VhostOps
from drivers.contracts.hw import PciFunction
from drivers.transports.pci.registers import SIZES, CfgType, Common, Structure
from rings.memory import Memory
from rings.observers.meter import Meter

__all__ = ["CONFIG", "WrappedOps", "CountedHandle", "TappedAccess", "TappedFunction", "read_structures"]

CONFIG = -1
"""Pseudo BAR number of the configuration space."""
Lie = Callable[[int], int]
"""Maps the register's value to the value that the reader gets."""


@attrs.frozen
class TappedAccess:
    """An access by a driver: BAR or CONFIG, ``size`` in bytes, the value written or read."""

    bar: int
    offset: int
    size: int
    value: int
    write: bool


class TappedFunction:
    """Any `drivers.contracts.hw.PciFunction`, with a log of all accesses, and with false values on request.

    The keys of ``lies`` are (BAR or CONFIG, offset), for accesses of any size; registers in ``deaf`` ignore writes.
    """

    def __init__(self, inner: PciFunction) -> None:
        self._inner = inner
        self.name = inner.name
        self.log: list[TappedAccess] = []
        self.lies: dict[tuple[int, int], Lie] = {}
        self.deaf: set[tuple[int, int]] = set()
        self._on_write: Callable[[TappedAccess], object] | None = None
        self.bar_sizes: dict[int, int] = {}
        """Sizes to report instead of the real ones."""
        self.max_vectors: int | None = None
        """Maximum number of MSI-X vectors; 0 hides MSI-X."""
        self.structures = read_structures(inner)
        self.vendor_id, self.device_id, self.dma = inner.vendor_id, inner.device_id, inner.dma
        self.bar_map, self.bar_toll, self.watch = inner.bar_map, inner.bar_toll, inner.watch
        self.disable_msix, self.free_irqs = inner.disable_msix, inner.free_irqs
        self.request_irq, self.request_intx = inner.request_irq, inner.request_intx

    # For tests

    def call_on_write(self, call: Callable[[TappedAccess], object] | None) -> None:
        """Call ``call`` from now on after every write that is not ignored; None: no more."""
        self._on_write = call

    def at(self, field: Common) -> tuple[int, int]:
        """Return the key of a common configuration field in ``lies`` and ``deaf``."""
        common = self.structures[CfgType.COMMON]
        return common.bar, common.offset + field

    def common(self) -> list[tuple[Common, int, bool]]:
        """Return the log of the common configuration: field, value, whether written. Halves are two accesses."""
        common = self.structures[CfgType.COMMON]
        ends = {common.offset + field: field for field in Common}
        return [(ends[a.offset], a.value, a.write) for a in self.log if a.bar == common.bar and a.offset in ends]

    def within(self, kind: CfgType) -> list[TappedAccess]:
        """Return the accesses to one structure, with offsets in the BAR."""
        s = self.structures[kind]
        return [a for a in self.log if a.bar == s.bar and s.offset <= a.offset < s.offset + s.length]

    def read_common(self, field: Common) -> int:
        """Read a field's true value, without logging."""
        bar, offset = self.at(field)
        return self._inner.bar_read(bar, offset, SIZES[field])

    # PciFunction

    @property
    def online(self) -> bool:
        return self._inner.online

    @property
    def lossy(self) -> bool:
        return self._inner.lossy

    def config_read(self, offset: int, size: int) -> int:
        return self._read(CONFIG, offset, size, self._inner.config_read(offset, size))

    def config_write(self, offset: int, size: int, value: int) -> None:
        if self._write(CONFIG, offset, size, value):
            self._inner.config_write(offset, size, value)
            self._written(TappedAccess(CONFIG, offset, size, value, True))

    def bar_size(self, bar: int) -> int:
        return self.bar_sizes.get(bar, self._inner.bar_size(bar))

    def bar_read(self, bar: int, offset: int, size: int) -> int:
        return self._read(bar, offset, size, self._inner.bar_read(bar, offset, size))

    def bar_write(self, bar: int, offset: int, size: int, value: int) -> None:
        if self._write(bar, offset, size, value):
            self._inner.bar_write(bar, offset, size, value)
            self._written(TappedAccess(bar, offset, size, value, True))

    def enable_msix(self) -> int:
        if self.max_vectors == 0:
            self._inner.disable_msix()
            return 0
        vectors = self._inner.enable_msix()
        return vectors if self.max_vectors is None else min(vectors, self.max_vectors)

    def _read(self, bar: int, offset: int, size: int, value: int) -> int:
        lie = self.lies.get((bar, offset))
        result = value if lie is None else lie(value) & (1 << 8 * size) - 1
        self.log.append(TappedAccess(bar, offset, size, result, False))
        return result

    def _written(self, access: TappedAccess) -> None:
        if self._on_write is not None:
            self._on_write(access)

    def _write(self, bar: int, offset: int, size: int, value: int) -> bool:
        self.log.append(TappedAccess(bar, offset, size, value, True))
        return (bar, offset) not in self.deaf


class CountedHandle:
    """A fake file descriptor, which is in ``open_handles`` until it is closed."""

    def __init__(self, open_handles: list[CountedHandle]) -> None:
        self._open = open_handles
        self._open.append(self)

    def close(self) -> None:
        if self in self._open:
            self._open.remove(self)


def read_structures(function: PciFunction) -> dict[int, Structure]:
    """Return the first structure of each kind in the capability list, without validation."""
    structures: dict[int, Structure] = {}
    at = function.config_read(0x34, 1)
    while at:
        if function.config_read(at, 1) == 0x09:
            size = function.config_read(at + 2, 1)
            structure = Structure.parse(bytes(function.config_read(at + i, 1) for i in range(2, size)))
            structures.setdefault(structure.kind, structure)
        at = function.config_read(at + 1, 1)
    return structures


class WrappedOps:
    """A back half with wrapped memory, such as a `rings.testing.Watched`."""

    def __init__(self, inner: VhostOps, wrap: Callable[[Memory], Memory]) -> None:
        self._inner = inner
        self._wrap = wrap
        self.calls: list[int] = []
        """Indices of the queues called, in order."""
        self.features, self.lossy, self.settle = inner.features, inner.lossy, inner.settle
        self.config_changed, self.status_changed = inner.config_changed, inner.status_changed
        self.changed = inner.changed

    @property
    def meter(self) -> Meter | None:
        return self._inner.meter

    def memory(self) -> Memory:
        return self._wrap(self._inner.memory())

    def call(self, queue: DeviceQueue) -> None:
        self.calls.append(queue.index)
        self._inner.call(queue)
