"""The device's half: a virtio device with trapped registers on its driver's own host."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from drivers.bus.back import Identity, VhostBack
from drivers.bus.registers import SelectedRegisters
from drivers.bus.vhost import DeviceQueue
from drivers.contracts.hw import PlatformSlot
from drivers.transports.mmio.registers import CONFIG, EXTRA_FEATURES, MAGIC, VERSION, Interrupt, Register
from rings.features import RingFeature
from rings.layout import Area
from rings.memory import Memory
from rings.status import Status

__all__ = ["MmioDevice", "MmioRegisters"]

NO_REGION = 0xFFFF_FFFF
"""Register value of the length and base of a shared memory region that does not exist."""
WORD = 0xFFFF_FFFF
USED_BUFFER, CONFIG_CHANGE = int(Interrupt.USED_BUFFER), int(Interrupt.CONFIG_CHANGE)
_LOWS = Register.QUEUE_DESC_LOW, Register.QUEUE_DRIVER_LOW, Register.QUEUE_DEVICE_LOW
_ADDRESSES = {low + at: (area, 8 * at) for low, area in zip(_LOWS, Area, strict=True) for at in (0, 4)}
"""Area and first bit of its address, by register: each holds half an address."""


class MmioDevice(VhostBack):
    """A virtio device in a slot of the platform bus. Its interrupt line is high while InterruptStatus is not 0."""

    extra_features = EXTRA_FEATURES

    def __init__(self, slot: PlatformSlot, identity: Identity) -> None:
        super().__init__(identity)
        self._slot = slot
        self.interrupt_status = 0
        """Bits of `Interrupt`; an int, because IntFlag operations cost more than the rest of an interrupt."""
        self._registers = MmioRegisters(self)

    def bind(self) -> None:
        self._slot.insert(self._registers)

    def unbind(self) -> None:
        self._slot.remove()

    def registers(self) -> dict[str, int]:
        """Return the device's registers and the registers of every queue."""
        names = Register.DEVICE_ID, Register.VENDOR_ID, Register.STATUS, Register.INTERRUPT_STATUS
        registers = {name.name.lower(): self._registers.read(name, 4) for name in (*names, Register.CONFIG_GENERATION)}
        return registers | self.device.queue_registers()

    def interrupt(self, cause: int) -> None:
        """Set an interrupt bit; it stays set until the driver acknowledges it (section 4.2.2.1)."""
        self.interrupt_status |= cause
        self._slot.set_irq(True)

    def acknowledge(self, causes: int) -> None:
        self.interrupt_status &= ~causes
        self._slot.set_irq(bool(self.interrupt_status))

    # VhostOps

    def memory(self) -> Memory:
        return self._slot.memory

    def call(self, queue: DeviceQueue) -> None:
        self.interrupt(USED_BUFFER)

    def config_changed(self) -> None:
        self.interrupt(CONFIG_CHANGE)

    def status_changed(self, status: Status) -> None:
        if not status:
            self._registers.clear()
            self.acknowledge(WORD)


class MmioRegisters(SelectedRegisters):
    """Control registers, accessed as aligned 32-bit words, and the configuration, at any natural width.

    Any other access reads 0 or is ignored.
    """

    def __init__(self, mmio: MmioDevice) -> None:
        super().__init__(mmio.device)
        self._mmio = mmio

    def read(self, offset: int, size: int) -> int:
        if offset >= CONFIG:
            natural = size in (1, 2, 4) and not offset % size
            return int.from_bytes(self._device.read_config(offset - CONFIG, size), "little") if natural else 0
        get = self._READ.get(offset)
        return get(self) & WORD if get is not None and size == 4 else 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset >= CONFIG:
            if size in (1, 2, 4) and not offset % size:
                self._device.write_config(offset - CONFIG, value.to_bytes(size, "little"))
            return
        if size == 4 and offset in _ADDRESSES:
            queue, (area, shift) = self.idle_queue(), _ADDRESSES[offset]
            if queue is not None:
                queue.addrs = queue.addrs.with_bits(area, value, shift, 32)
        put = self._WRITE.get(offset)
        if put is not None and size == 4:
            put(self, value)

    def _set_ready(self, value: int) -> None:
        if value == 0:
            self._device.disable_queue(self._queue_select)
        elif value == 1:
            self.enable_queue()

    def _notify(self, value: int) -> None:
        """Kick a queue. With NOTIFICATION_DATA, the upper half is the driver's position, which the device ignores."""
        self._device.kick(value & 0xFFFF if self._device.has(RingFeature.NOTIFICATION_DATA) else value)

    _READ: ClassVar[dict[int, Callable[[MmioRegisters], int]]] = {
        Register.MAGIC_VALUE: lambda _: MAGIC,
        Register.VERSION: lambda _: VERSION,
        Register.DEVICE_ID: lambda self: self._device.device_id,
        Register.VENDOR_ID: lambda self: self._device.vendor_id,
        Register.DEVICE_FEATURES: SelectedRegisters.device_features,
        Register.QUEUE_SIZE_MAX: lambda self: self.queue_field(lambda queue: queue.max_num),
        Register.QUEUE_READY: lambda self: self.queue_field(lambda queue: queue.enabled),
        Register.INTERRUPT_STATUS: lambda self: self._mmio.interrupt_status,
        Register.STATUS: lambda self: self._device.status,
        Register.SHM_LEN_LOW: lambda _: NO_REGION,
        Register.SHM_LEN_HIGH: lambda _: NO_REGION,
        Register.SHM_BASE_LOW: lambda _: NO_REGION,
        Register.SHM_BASE_HIGH: lambda _: NO_REGION,
        Register.QUEUE_RESET: lambda _: 0,
        Register.CONFIG_GENERATION: lambda self: self._device.generation,
    }
    _WRITE: ClassVar[dict[int, Callable[[MmioRegisters, int], None]]] = {
        Register.DEVICE_FEATURES_SEL: SelectedRegisters.select_device_features,
        Register.DRIVER_FEATURES_SEL: SelectedRegisters.select_driver_features,
        Register.DRIVER_FEATURES: SelectedRegisters.set_driver_features,
        Register.QUEUE_SEL: SelectedRegisters.select_queue,
        Register.QUEUE_SIZE: SelectedRegisters.set_size,
        Register.QUEUE_READY: _set_ready,
        Register.QUEUE_NOTIFY: _notify,
        Register.QUEUE_RESET: SelectedRegisters.reset_queue,
        Register.INTERRUPT_ACK: lambda self, value: self._mmio.acknowledge(value),
        Register.STATUS: lambda self, value: self._device.write_status(value),
    }
