"""Faults inside a system: of stores, of tasks and their notifications, and of allocations.

Each replaces a method of one object for a while, or calls one that another part may call at any time. The code of
devices and drivers has no hooks for them, so that they cost nothing while they are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import trio

from drivers.contracts.hw import DmaBuffer
from drivers.contracts.ports import SectorStore
from drivers.devices.blk import BlkPlug
from drivers.devices.scsi import ScsiPlug
from drivers.errors import DriverError
from drivers.flow.pump import Signal
from rings.chain import take
from rings.errors import MemoryFault
from rings.observers.overlay import Overlay
from vnet.spec import DeviceSpec
from vnet.system.device import Device
from vnet.system.world import World

__all__ = ["PENDING", "Fired"]
__all__ += ["fail_allocation", "has_stores", "kick_spuriously", "late_completions", "short_transfers", "wake_early"]

Fired = Callable[[], None]
"""Counts that a fault happened."""
INTERVAL = 0.001
"""Seconds between two repetitions of a fault."""
PENDING = 0.5
"""Seconds that a fault waits for the requests, or the accesses to a store, that it is to hit."""
LATE = 0.02
"""Seconds by which an access to a store completes late."""
BOUND = 0.1
"""Seconds after which a driver that lacked memory is bound again."""


def has_stores(device: DeviceSpec) -> bool:
    """Return whether a device has stores."""
    return device.type in {"blk", "scsi"}


def _stores(world: World, name: str) -> Iterator[SectorStore]:
    plug = world.devices[name].device_end.settings
    if isinstance(plug, BlkPlug):
        yield plug.store
    elif isinstance(plug, ScsiPlug):
        yield from (unit.store for unit in plug.domain.units.values())


class _Count:
    """The accesses that a fault still has to hit."""

    def __init__(self, amount: float, fired: Fired) -> None:
        self._left = int(amount)
        self._fired = fired

    def hit(self) -> bool:
        """Return whether an access is one of them, and count it."""
        if self._left <= 0:
            return False
        self._left -= 1
        self._fired()
        return True


@contextmanager
def _replaced(overlays: Sequence[Overlay]) -> Iterator[None]:
    try:
        yield
    finally:
        for overlay in reversed(overlays):
            overlay.remove()


async def short_transfers(world: World, device: str, amount: float, fired: Fired) -> None:
    """Have stores read and write only half of what they are asked for at once."""
    count = _Count(amount, fired)

    def halved(call: Callable[[Sequence[memoryview], int], int]) -> Callable[[Sequence[memoryview], int], int]:
        def transfer(segs: Sequence[memoryview], offset: int, /) -> int:
            size = sum(map(len, segs))
            return call(take(segs, size // 2) if size > 1 and count.hit() else segs, offset)

        return transfer

    overlays = [
        Overlay(store, {"preadv": halved(store.preadv), "pwritev": halved(store.pwritev)})
        for store in _stores(world, device)
    ]
    with _replaced(overlays):
        await trio.sleep(PENDING)


async def late_completions(world: World, device: str, amount: float, fired: Fired) -> None:
    """Have stores block, and complete an access `LATE` seconds later."""
    count = _Count(amount, fired)
    with _replaced([_late(store, count) for store in _stores(world, device)]):
        await trio.sleep(PENDING)


def _late(store: SectorStore, count: _Count) -> Overlay:
    preadv, pwritev, read_whole, write_whole = store.preadv, store.pwritev, store.read, store.write

    async def read(into: memoryview, offset: int, /) -> None:
        await _sleep_shielded()
        await read_whole(into, offset)

    async def write(parts: Sequence[tuple[int, memoryview]], /) -> None:
        await _sleep_shielded()
        await write_whole(parts)

    at_once = {
        "preadv": lambda segs, offset, /: 0 if count.hit() else preadv(segs, offset),
        "pwritev": lambda segs, offset, /: 0 if count.hit() else pwritev(segs, offset),
    }
    return Overlay(store, {**at_once, "read": read, "write": write})


async def _sleep_shielded() -> None:
    """Sleep for `LATE` seconds, also if the device is reset meanwhile: a thread does not end early either."""
    with trio.CancelScope(shield=True):
        await trio.sleep(LATE)


def _signals(device: Device) -> Iterator[Signal]:
    yield from (queue.signal for queue in device.driver_queues)
    yield from (queue.signal for queue in device.device_queues)


async def wake_early(world: World, device: str, amount: float, fired: Fired) -> None:
    """Wake all tasks that wait for a queue of the device, on both sides, without a cause."""
    for _ in range(int(amount)):
        for signal in _signals(world.devices[device]):
            if signal.awaited:
                signal.wake()
                fired()
        await trio.sleep(INTERVAL)


async def kick_spuriously(world: World, device: str, amount: float, fired: Fired) -> None:
    """Notify each side of all queues, although the other side has published nothing."""
    chosen = world.devices[device]
    for _ in range(int(amount)):
        with suppress(MemoryFault, DriverError):  # the link went down meanwhile
            if chosen.up:
                for queue in chosen.driver_queues:
                    queue.kick()
                for own in chosen.device_queues:
                    chosen.vhost.ops.call(own)
                fired()
        await trio.sleep(INTERVAL)


async def fail_allocation(world: World, device: str, amount: float, fired: Fired) -> None:
    """Bind the driver again while one allocation of memory fails, and once more afterwards."""
    chosen, left = world.devices[device], [int(amount)]
    memory = chosen.driver_host.memory
    allocate = memory.alloc

    def alloc(size: int, align: int = 64) -> DmaBuffer:
        left[0] -= 1
        if left[0]:
            return allocate(size, align)
        fired()
        raise MemoryError(f"no room for {size} bytes at a multiple of {align}")

    await world.unbind(device, "driver")
    with _replaced([Overlay(memory, {"alloc": alloc})]):
        await world.bind(device, "driver", timeout=0)
        await trio.sleep(BOUND)
    await world.unbind(device, "driver")
    await world.bind(device, "driver", timeout=0)
