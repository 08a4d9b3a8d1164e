"""The PCI bus of a host, and what every front half over one of its functions does alike."""

from __future__ import annotations

import attrs

from drivers.bus.model import Binding
from drivers.bus.virtio import DriverQueue, VirtioDevice
from drivers.carriers.base import CarrierBus, CarrierClient, CarrierDriver
from drivers.contracts.hw import DmaMemory, PciFunction
from drivers.errors import TransportLost
from drivers.flow.pump import Signal
from drivers.memory.vring import VringMemory

__all__ = ["NO_VECTOR", "FunctionTransport", "PciBus", "VirtioPciDriver"]

NO_VECTOR = 0xFFFF
COMMAND, COMMAND_MASTER = 0x04, 0x04


@attrs.frozen
class VirtioPciDriver(CarrierDriver[PciFunction]):
    """Makes a virtio device of every function in its id table."""


class PciBus(CarrierBus[PciFunction]):
    """The functions that a root complex found. Each is bound only while its link is up: else its registers are gone."""

    prefix = "pci"

    async def attach(
        self,
        binding: Binding[PciFunction, CarrierClient[PciFunction]],
        device: PciFunction,
        driver: CarrierClient[PciFunction],
    ) -> None:
        await _wait_online(device)
        await super().attach(binding, device, driver)


async def _wait_online(function: PciFunction) -> None:
    class Watcher:
        def link_up(self) -> None:
            up.set()

        def link_down(self) -> None:
            pass

    up = Signal()
    function.watch(Watcher())
    try:
        while not function.online:
            await up.wait()
    finally:
        function.watch(None)


class FunctionTransport:
    """A front half over one PCI function: its link, its interrupts, and its queues' memory."""

    def __init__(self, function: PciFunction) -> None:
        self._function = function
        self._device: VirtioDevice | None = None
        self._queues: list[DriverQueue] = []
        self._back = Signal()
        self._own_vectors = False
        self.dma: DmaMemory = function.dma
        self._rings = VringMemory(self.dma)
        self.online = True

    def own(self, device: VirtioDevice) -> None:
        """Tell ``device`` from now on what happens to the function."""
        self._device = device
        if self._function.lossy:
            device.enable_recheck()
        self._function.watch(self)

    def release(self) -> None:
        self._function.watch(None)
        self._function.free_irqs()
        self._device = None

    # LinkEvents

    def link_up(self) -> None:
        self.online = True
        self._back.set()

    def link_down(self) -> None:
        self.online = False
        for queue in self._queues:
            queue.live = False  # nothing more is moved into an epoch that is over
        if self._device is not None:
            self._device.trouble = "the link went down"  # it may be up again before anybody looks
            self._device.changed.set()

    async def wait_online(self) -> None:
        while not self.online:
            await self._back.wait()

    # Registers

    def _read_twice(self, bar: int, offset: int, size: int) -> int:
        """A register that has no side effects: all-ones may be what is left of a completion that got lost."""
        value = self._function.bar_read(bar, offset, size)
        return self._function.bar_read(bar, offset, size) if value == (1 << 8 * size) - 1 else value

    def _read_surely(self, bar: int, offset: int, size: int) -> int:
        """The same where all-ones is no value to go on with unless the device is there. Raises TransportLost."""
        value = self._read_twice(bar, offset, size)
        if value == (1 << 8 * size) - 1 and not self._answers():
            raise TransportLost(f"{self._function.name}: the device does not answer")
        return value

    def _answers(self) -> bool:
        """Whether there is anybody to read from: asked when that is in doubt."""
        raise NotImplementedError

    # Reset

    async def reset(self) -> None:
        """A device that does not finish loses its access to memory, and gets it back once a later reset succeeds."""
        try:
            await self._reset()
        except TransportLost:
            self._master(False)  # it may still write to memory that is about to be freed
            raise
        self._master(True)

    async def _reset(self) -> None:
        """Tell the device, and return once its status is 0. Raises TransportLost where it never is."""
        raise NotImplementedError

    def _master(self, on: bool) -> None:
        command = self._function.config_read(COMMAND, 2)
        if bool(command & COMMAND_MASTER) != on:
            self._function.config_write(COMMAND, 2, command ^ COMMAND_MASTER)

    # Queues and interrupts

    def _share_vectors(self, device: VirtioDevice, queues: int) -> tuple[int, list[int]]:
        """Turn MSI-X on: the vector of the configuration, and that of each queue; NO_VECTOR where there is none.

        One vector each where there are enough; else the queues share one, or everything does.
        """
        vectors = self._function.enable_msix()
        self._own_vectors = vectors > queues
        if not vectors:
            return NO_VECTOR, [NO_VECTOR] * queues
        self._function.request_irq(0, device.interrupt if vectors > 1 else self._any_interrupt)
        if 1 < vectors <= queues:
            self._function.request_irq(1, self._queue_interrupt)
        return 0, [i + 1 if self._own_vectors else min(1, vectors - 1) for i in range(queues)]

    def _add_queue(self, queue: DriverQueue, vector: int) -> None:
        self._queues.append(queue)
        if self._own_vectors:
            self._function.request_irq(vector, queue.on_call)

    def del_vqs(self) -> None:
        self._function.free_irqs()
        for queue in self._queues:
            queue.close()
        self._queues = []
        self._rings.free()

    def _queue_interrupt(self) -> None:
        for queue in self._queues:
            queue.on_call()

    def _any_interrupt(self) -> None:
        self._queue_interrupt()
        if self._device is not None:
            self._device.interrupt()
