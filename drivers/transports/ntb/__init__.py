"""virtio between two hosts joined by an NTB: registers in scratchpads, doorbells, and buffers in a memory window."""

from drivers.carriers.ntb_registers import DB_ENTRY_SIZE, FIRST_DB, VECTORS, Bar
from drivers.carriers.transport import DoorbellRange, NtbTransport
from drivers.transports.ntb.back import NtbVhost
from drivers.transports.ntb.front import NTB_VIRTIO
from drivers.transports.ntb.names import register_name
from drivers.transports.ntb.registers import MAX_QUEUES

__all__ = ["NTB"]

NTB = NtbTransport(
    NTB_VIRTIO,
    NtbVhost,
    queues=MAX_QUEUES,
    register_name=register_name,
    extra_features=NtbVhost.extra_features,
    doorbells=(
        DoorbellRange(Bar.DOORBELLS, DB_ENTRY_SIZE * FIRST_DB, DB_ENTRY_SIZE * VECTORS, DB_ENTRY_SIZE, DB_ENTRY_SIZE),
    ),
)
