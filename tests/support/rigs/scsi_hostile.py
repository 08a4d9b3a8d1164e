"""SCSI requests that a hostile driver writes by hand."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import trio
import trio.testing

from drivers.devices.scsi import Lun, Response, ScsiStatus
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.layout import (
    HEADER,
    RESPONSE,
)
from rings.layout import WRITE
from rings.memory import Addr
from rings.testing import Desc
from vnet.testing.checks import bounded
from vnet.testing.hostile import HostileDevice, HostileDriver
from vnet.testing.scsi import DISK, ScsiOptions, ScsiPair

TWO = ScsiOptions(queues=2, queue_size=16, luns=(Lun(0, 0), Lun(0, 1)))
CONTROL, EVENTS, FIRST, SECOND = range(4)
PENDING = 0xAA
SENSE_SIZE = 96
RESPONSE_SIZE = RESPONSE.size + SENSE_SIZE
GOOD = (Response.OK, ScsiStatus.GOOD)
CHECK = (Response.OK, ScsiStatus.CHECK_CONDITION)


def head(cdb: bytes, lun: bytes = DISK.emit(), tag: int = 1) -> bytes:
    return HEADER.pack(lun, tag, 0, 0, 0) + cdb.ljust(32, b"\0")


@attrs.frozen
class Sent:
    """A request, and where its answer comes to."""

    driver: HostileDriver[ScsiPair]
    at: Addr
    data_at: Addr
    size: int

    @property
    def pending(self) -> bool:
        return self.driver.get(self.at, 1)[0] == PENDING

    @property
    def answer(self) -> tuple[int, int]:
        """Response and status."""
        _, _, _, status, response = RESPONSE.unpack(self.driver.get(self.at, RESPONSE.size))
        return response, status

    @property
    def residual(self) -> int:
        return int(RESPONSE.unpack(self.driver.get(self.at, RESPONSE.size))[1])

    @property
    def asc(self) -> int:
        return int.from_bytes(self.driver.get(Addr(self.at + RESPONSE.size + 12), 2), "big")

    @property
    def data(self) -> bytes:
        return self.driver.get(self.data_at, self.size)


def send(
    driver: HostileDriver[ScsiPair],
    read: Sequence[bytes],
    write: int = 0,
    *,
    slot: int = 0,
    queue: int = FIRST,
    response: int = RESPONSE_SIZE,
    kick: bool = True,
) -> Sent:
    """A chain of these readable parts, ``response`` bytes for the answer, and ``write`` bytes of data."""
    descs = [Desc(driver.put(part), len(part)) for part in read]
    at, data = driver.put(bytes([PENDING]) * max(1, response)), driver.put(bytes([PENDING]) * max(1, write))
    if response:
        descs.append(Desc(at, response, WRITE))
    if write:
        descs.append(Desc(data, write, WRITE))
    driver.rings[queue].chain(slot, *descs)
    driver.rings[queue].offer(slot)
    if kick:
        driver.kick(queue)
    return Sent(driver, at, data, write)


async def answered(sent: Sent) -> tuple[int, int]:
    with bounded():
        while sent.pending:  # noqa: ASYNC110  the ring is not ours to wait for
            await trio.sleep(0.001)
    return sent.answer


def tmf(function: int, lun: bytes = DISK.emit(), tag: int = 1) -> bytes:
    return b"".join((bytes(4), function.to_bytes(4, "little"), lun, tag.to_bytes(8, "little")))


async def works(driver: HostileDriver[ScsiPair], queue: int = FIRST) -> None:
    sent = send(driver, [head(commands.read(7, 1))], 512, slot=8, queue=queue)
    assert await answered(sent) == GOOD
    assert sent.data == bytes(driver.pair.store.data[7 * 512 : 8 * 512])


async def begin(driver: HostileDriver[ScsiPair], features: int | None = None) -> None:
    """Up, with the unit attentions of that taken."""
    await driver.start(features, queues=4)
    for lun in TWO.luns:
        sent = send(driver, [head(commands.unit_ready(), lun.emit())], slot=12)
        assert await answered(sent) == CHECK


def answer(pair: ScsiPair, queue: int, response: bytes, size: int) -> None:
    """The next chain that waits gets this in its writable part and this length, without anything being done."""
    device = HostileDevice(pair)
    ring = device.rings[queue]
    slot = ring.entry(ring.used_idx)
    desc = ring.read(slot)
    raw = bytes(device.memory.view(Addr(desc.addr), desc.size))
    rows = [Desc.parse(raw[at : at + 16]) for at in range(0, len(raw), 16)] if desc.flags & 4 else [desc]
    first = next(row for row in rows if row.flags & WRITE)
    device.memory.view(Addr(first.addr), len(response), True)[:] = response
    ring.give(slot, size)
    device.call(queue)
    device.close()
