"""The PCI bus of a host: functions that its root complex found, and what makes virtio devices of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
import trio

from drivers.hw import PciFunction
from drivers.model import Binding, BindState, Bus, MatchId
from drivers.virtio import ConfigOps, VirtioBus, VirtioDevice

__all__ = ["FunctionOps", "PciBus", "VirtioPciDriver"]


class FunctionOps(ConfigOps, Protocol):
    """A transport's front half over one PCI function."""

    def own(self, device: VirtioDevice) -> None:
        """Tell ``device`` from now on what happens to the function."""

    def release(self) -> None:
        """Let go of the function."""


@attrs.frozen
class VirtioPciDriver:
    """Makes a virtio device of every function in its id table."""

    name: str
    id_table: Sequence[MatchId]
    probe: Callable[[PciFunction], tuple[FunctionOps, int]]
    """The transport over a function, and its virtio device id. Raises ProbeError."""


class PciBus(Bus[PciFunction, VirtioPciDriver]):
    """Passes on what it finds to the host's virtio bus."""

    prefix = "pci"

    def __init__(self, virtio: VirtioBus) -> None:
        super().__init__()
        self._virtio = virtio

    async def attach(
        self, binding: Binding[PciFunction, VirtioPciDriver], device: PciFunction, driver: VirtioPciDriver
    ) -> None:
        ops, device_id = driver.probe(device)
        virtio = VirtioDevice(device_id, device.vendor_id, ops, device.name)
        ops.own(virtio)
        try:
            self._virtio.register_device(virtio)
            binding.state = BindState.BOUND
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await self._virtio.unregister_device(virtio)
            ops.release()
