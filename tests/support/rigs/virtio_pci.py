"""A virtio-pci device with a recorder between the function and its driver."""

from __future__ import annotations

from collections.abc import Callable

from drivers.bus.binding import BindState
from drivers.testing import CONFIG, TappedFunction
from drivers.transports.pci.registers import Common
from vnet.testing import (
    NetPair,
    Options,
    until,
)

SMALL = Options(queue_size=16)
CAP_POINTER, STATUS = 0x34, 0x06
VENDOR_CAP = 0x09


async def bind(pair: NetPair, tap: TappedFunction) -> None:
    pair.rc.pci.register_device(tap)
    await pair.world.wait_up()


def capabilities(read: Callable[[int, int], int]) -> dict[int, tuple[int, bytes]]:
    """Offset and bytes of each vendor capability, by cfg_type."""
    actual: dict[int, tuple[int, bytes]] = {}
    at = read(CAP_POINTER, 1)
    while at:
        if read(at, 1) == VENDOR_CAP:
            body = bytes(read(at + i, 1) for i in range(read(at + 2, 1)))
            actual.setdefault(body[3], (at, body))
        at = read(at + 1, 1)
    return actual


def count_capabilities(read: Callable[[int, int], int]) -> int:
    """Return the number of vendor capabilities."""
    at, count = read(CAP_POINTER, 1), 0
    while at:
        count += read(at, 1) == VENDOR_CAP
        at = read(at + 1, 1)
    return count


def overlay(tap: TappedFunction, at: int, data: bytes) -> None:
    """Let ``data`` stand in the configuration space, byte by byte."""
    for i, byte in enumerate(data):
        tap.lies[CONFIG, at + i] = constant(byte)


def constant(value: int) -> Callable[[int], int]:
    return lambda _: value


async def refused(pair: NetPair, tap: TappedFunction) -> str:
    """Bind it, and why the driver gave the device up, at once."""
    pair.rc.pci.register_device(tap)
    await until(lambda: pair.device.virtio and pair.rc.virtio.binding(pair.virtio).state is BindState.FAILED)
    assert not pair.device.up
    return pair.rc.virtio.binding(pair.virtio).error


def written(tap: TappedFunction, field: Common) -> list[int]:
    return [value for which, value, write in tap.common() if write and which is field]
