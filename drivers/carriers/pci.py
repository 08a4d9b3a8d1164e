"""The PCI bus of a host, and the base class of front halves over its functions."""

from __future__ import annotations

from abc import ABC, abstractmethod

from drivers.bus.binding import Binding
from drivers.bus.virtio import DriverQueue, VirtioDevice
from drivers.carriers.base import CarrierBus, CarrierClient, CarrierDriver
from drivers.contracts.hw import NO_VECTOR, DmaMemory, PciFunction
from drivers.errors import TransportLost
from drivers.flow.pump import Signal
from drivers.memory.vring import VringMemory

__all__ = ["FunctionTransport", "PciBus", "VirtioPciDriver"]

COMMAND, COMMAND_MASTER = 0x04, 0x04


VirtioPciDriver = CarrierDriver[PciFunction]
"""A driver that makes a virtio device of every function in its id table."""


class PciBus(CarrierBus[PciFunction]):
    """The bus of the functions enumerated by a root complex. A function is bound once its link is up."""

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


class FunctionTransport(ABC):
    """Base class of a front half over a PCI function: its link, its interrupts, and its queues' memory."""

    def __init__(self, function: PciFunction) -> None:
        self._function = function
        self._device: VirtioDevice | None = None
        self._queues: list[DriverQueue] = []
        self._online_again = Signal()
        self._own_vectors = False
        self.dma: DmaMemory = function.dma
        self._rings = VringMemory(self.dma)
        self.online = True

    def own(self, device: VirtioDevice) -> None:
        """Report events of the function to ``device`` from now on."""
        self._device = device
        device.set_recheck(self._function.lossy)
        self._function.watch(self)

    def release(self) -> None:
        self._function.watch(None)
        self._function.free_irqs()
        self._device = None

    # LinkEvents

    def link_up(self) -> None:
        self.online = True
        self._online_again.set()

    def link_down(self) -> None:
        self.online = False
        for queue in self._queues:
            queue.live = False  # no more accesses to the old epoch
        if self._device is not None:
            self._device.stop("the link went down")  # with a reason, because it may be up again before the bus reacts

    async def wait_online(self) -> None:
        while not self.online:
            await self._online_again.wait()

    # Registers

    def _read_twice(self, bar: int, offset: int, size: int) -> int:
        """Read a register without side effects, again if it is all-ones, which a lost completion returns too."""
        value = self._function.bar_read(bar, offset, size)
        return self._function.bar_read(bar, offset, size) if value == (1 << 8 * size) - 1 else value

    def _read_checked(self, bar: int, offset: int, size: int) -> int:
        """Read a register without side effects. Raises TransportLost if it is all-ones and the device is gone."""
        value = self._read_twice(bar, offset, size)
        if value == (1 << 8 * size) - 1 and not self._answers():
            raise TransportLost(f"{self._function.name}: the device does not answer")
        return value

    @abstractmethod
    def _answers(self) -> bool:
        """Return whether the device answers, after a read of all-ones."""

    # Reset

    async def reset(self) -> None:
        """Reset the device. If it does not finish, revokes bus mastering until a later reset succeeds."""
        try:
            await self._reset()
        except TransportLost:
            self._master(False)  # the device could still write to memory that is about to be freed
            raise
        self._master(True)

    @abstractmethod
    async def _reset(self) -> None:
        """Reset the device and wait until its status is 0. Raises TransportLost after the timeout."""

    def _master(self, on: bool) -> None:
        """Allow or revoke bus mastering."""
        command = self._function.config_read(COMMAND, 2)
        if bool(command & COMMAND_MASTER) != on:
            self._function.config_write(COMMAND, 2, command ^ COMMAND_MASTER)

    # Queues and interrupts

    def _share_vectors(self, device: VirtioDevice, queues: int) -> tuple[int, list[int]]:
        """Turn MSI-X on. Returns the vector of the configuration and those of the queues; NO_VECTOR without MSI-X.

        Each has its own vector if there are enough; else the queues share one, or all share one.
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
