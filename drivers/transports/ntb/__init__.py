"""virtio between two hosts joined by an NTB: registers in scratchpads, doorbells, and buffers in a memory window."""

from drivers.transports.ntb.back import NtbVhost
from drivers.transports.ntb.front import NTB_VIRTIO, NtbVirtioDriver
from drivers.transports.ntb.names import register_name
from drivers.transports.ntb.registers import MAX_QUEUES, spad_names

__all__ = ["MAX_QUEUES", "NTB_VIRTIO", "NtbVhost", "NtbVirtioDriver", "register_name", "spad_names"]
