"""Buses of carriers, such as PCI functions or platform regions, and the drivers that make virtio devices of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import attrs
import trio

from drivers.bus.binding import Binding
from drivers.bus.model import Bus, BusDevice, BusDriver, MatchId
from drivers.bus.virtio import ConfigOps, VirtioBus, VirtioDevice
from drivers.contracts.events import Reporter
from drivers.errors import TransportLost
from rings.queue import Virtqueue

__all__ = [
    "CarrierBus",
    "CarrierClient",
    "CarrierDriver",
    "CarrierOps",
    "notify_with_data",
    "pieces",
    "read_field",
    "wait_reset",
    "write_field",
]

RESET_TIMEOUT = 1.0
"""Timeout of a device's reset in seconds."""
RESET_POLL = 0.001
"""Polling interval of the status during a reset, in seconds."""

C = TypeVar("C", bound=BusDevice)


class CarrierOps(ConfigOps, Protocol):
    """A transport's front half over one carrier."""

    @property
    def device_id(self) -> int:
        """Virtio device id."""

    @property
    def vendor_id(self) -> int: ...

    def own(self, device: VirtioDevice) -> None:
        """Report events of the carrier to ``device`` from now on."""

    def release(self) -> None:
        """Release the carrier."""


@attrs.frozen
class CarrierDriver(Generic[C]):
    """A driver that makes a virtio device of every carrier in its id table."""

    name: str
    id_table: Sequence[MatchId]
    probe: Callable[[C], CarrierOps | None]
    """Returns the transport over a carrier, or None if it has no device, which is no error. Raises ProbeError."""

    async def attach(self, binding: Binding[C, Any], carrier: C, virtio: VirtioBus) -> None:
        ops = self.probe(carrier)
        if ops is None:
            return
        device = VirtioDevice(ops.device_id, ops.vendor_id, ops, carrier.name, virtio.events.driver(carrier.name))
        ops.own(device)
        try:
            virtio.register_device(device)
            binding.bound()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await virtio.discard_device(device)
            ops.release()


class CarrierClient(BusDriver, Protocol[C]):
    """A user of carriers, nearly always a `CarrierDriver`."""

    async def attach(self, binding: Binding[C, Any], carrier: C, virtio: VirtioBus) -> None:
        """Use the carrier until cancelled, for the host's virtio bus. See `drivers.bus.model.Bus.attach`."""


class CarrierBus(Bus[C, CarrierClient[C]]):
    """A bus of carriers whose drivers put virtio devices on the host's virtio bus."""

    def __init__(self, virtio: VirtioBus) -> None:
        super().__init__()
        self._virtio = virtio

    def reporter(self, device: C) -> Reporter:
        return self._virtio.events.carrier(device.name)

    async def attach(self, binding: Binding[C, CarrierClient[C]], device: C, driver: CarrierClient[C]) -> None:
        await driver.attach(binding, device, self._virtio)


async def wait_reset(name: str, status: Callable[[], int], online: Callable[[], bool]) -> None:
    """Wait until ``status`` reads 0 (VIRTIO 1.4 section 2.4.2). Raises TransportLost after a second, or if offline."""
    with trio.move_on_after(RESET_TIMEOUT):
        while online():
            if not status():
                return
            await trio.sleep(RESET_POLL)
    why = f"did not finish its reset within {RESET_TIMEOUT:g} s" if online() else "was lost during reset"
    raise TransportLost(f"{name}: the device {why}")


def notify_with_data(write: Callable[[int], None], value: int, ring: Virtqueue) -> None:
    """Kick with 32 bits: ``value`` of 16 bits for the queue, and the driver's position in ``ring`` (section 2.9).

    The position is where the next entry becomes available: the available index, or a descriptor and the wrap counter.
    """
    write(value | ring.state().avail << 16)


def pieces(offset: int, size: int, largest: int = 4) -> Iterator[tuple[int, int]]:
    """Yield the offset and the size of naturally aligned accesses of up to ``largest`` bytes, a power of two."""
    end = offset + size
    while offset < end:
        step = min(offset & -offset or largest, largest)
        while offset + step > end:
            step //= 2
        yield offset, step
        offset += step


def read_field(read: Callable[[int, int], int], start: int, offset: int, size: int) -> bytes:
    """Read a field of the configuration that begins at register ``start``, with ``read`` for each access."""
    step = _config_step(offset, size)
    parts = range(start + offset, start + offset + size, step)
    return b"".join(read(part, step).to_bytes(step, "little") for part in parts)


def write_field(write: Callable[[int, int, int], None], start: int, offset: int, data: bytes) -> None:
    """Write a field of the configuration that begins at register ``start``, with ``write`` for each access."""
    step = _config_step(offset, len(data))
    for at in range(0, len(data), step):
        write(start + offset + at, step, int.from_bytes(data[at : at + step], "little"))


def _config_step(offset: int, size: int) -> int:
    """Return the access width in bytes of a configuration field: its own, or 32 bits for 64 (section 4.1.3.1)."""
    step = 4 if size == 8 else size
    return step if step in (1, 2, 4) and not offset % step else 1
