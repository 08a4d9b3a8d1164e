"""Both sides of one queue, in one memory."""

from __future__ import annotations

from typing import Literal

from rings.features import RingFeature, mask
from rings.formats import FORMATS
from rings.memory import Addr, MappedMemory
from rings.queue import Virtqueue, Vringh
from vnet.learn.machine import Machine, RecordedMemory
from vnet.learn.words import ring_areas, table_area

__all__ = ["RingMachine"]

RING_AT, TABLES_AT, BUFFERS_AT = Addr(0x1000), Addr(0x4000), Addr(0x8000)
BUFFER_STEP = 0x100
MEMORY_SIZE = 1 << 16


class RingMachine(Machine):
    """Both sides of one queue over one memory, as in one process."""

    def __init__(
        self, form: Literal["split", "packed"], num: int = 4, *, event_idx: bool = False, tables: int = 0
    ) -> None:
        """``tables`` is the maximum size of an indirect table in descriptors; 0: the feature is not negotiated."""
        memory = MappedMemory()
        memory.add(Addr(0), memoryview(bytearray(MEMORY_SIZE)))
        super().__init__(memory)
        driver, device = RecordedMemory(memory, "driver", self), RecordedMemory(memory, "device", self)
        self.num = num
        addrs, _ = FORMATS[form].contiguous(num, RING_AT, 64)
        features = mask(
            feature
            for feature, wanted in ((RingFeature.EVENT_IDX, event_idx), (RingFeature.INDIRECT_DESC, tables))
            if wanted
        )
        indirect = TABLES_AT if tables else None
        self.driver: Virtqueue = FORMATS[form].driver(
            driver, num, addrs, event_idx=event_idx, indirect=indirect, indirect_max=tables
        )
        self.device: Vringh = FORMATS[form].vringh(device, num, addrs, features, meter=None)
        self.areas += ring_areas(self, form, num, addrs)
        if tables:
            self.areas.append(table_area(self, form, TABLES_AT, tables))
        self._buffers = 0

    def new_buffer(self, name: str, size: int, writer: str) -> tuple[Addr, int]:
        """Return a buffer as (address, bytes), with a name."""
        addr = Addr(BUFFERS_AT + BUFFER_STEP * self._buffers)
        self._buffers += 1
        self.buffer(name, addr, size, writer)
        return addr, size

    def fill(self, name: str, segment: tuple[Addr, int], data: bytes) -> None:
        """Let the driver write ``data`` into a buffer."""
        self.put("driver", name, [self.memory.view(*segment, True)], data)
