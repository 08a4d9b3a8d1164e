"""Functions that are no PCI function: each defect in a server's description keeps the link down, with a reason."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from trio.testing import MockClock

from support.rigs.two_processes import clock
from support.rigs.vfio_user_server import BELL, open_scene
from vnet.vfio_user.constants import Command, Region
from vnet.vfio_user.messages import HEADER_SIZE
from vnet.vfio_user.payloads import IoDoorbell

__all__ = ["clock"]  # a fixture

C = Command
BODY = HEADER_SIZE
Lie = Callable[[bytes], bytes]


def region(index: int, size: int) -> Lie:
    """Return a lie about the size of one region."""

    def lie(right: bytes) -> bytes:
        fields = [*struct.unpack_from("<IIIIQQ", right, BODY)]
        if fields[2] == index:
            fields[4] = size
        return right[:BODY] + struct.pack("<IIIIQQ", *fields)

    return lie


def config(at: int, form: str, value: int) -> Lie:
    """Return a lie about a register of the configuration space, in the read of all of it."""
    at += BODY + 16
    size = struct.calcsize(form)
    return lambda right: right if len(right) < at + size else right[:at] + struct.pack(form, value) + right[at + size :]


def field(at: int, value: int) -> Lie:
    return lambda right: right[: BODY + at] + struct.pack("<I", value) + right[BODY + at + 4 :]


MSIX = 0x7C
"""Offset of the MSI-X capability."""


def late(right: bytes) -> bytes:
    """Move the MSI-X capability to the last bytes."""
    space = bytearray(right)
    if len(space) >= BODY + 16 + 256:
        space[BODY + 16 + 0x34] = 0xFC
        space[BODY + 16 + 0xFC : BODY + 16 + 0x100] = b"\x11\0\x03\0"
    return bytes(space)


def half(right: bytes) -> bytes:
    data = right[BODY + 16 :][:128]
    body = right[BODY : BODY + 12] + struct.pack("<I", len(data)) + data
    return right[:4] + struct.pack("<I", BODY + len(body)) + right[8:BODY] + body


LIES: dict[str, tuple[C, Lie, str]] = {
    "version": (C.VERSION, lambda right: right[:BODY] + b"\1" + right[BODY + 1 :], "VERSION: the server has 1.0"),
    "no PCI": (C.DEVICE_GET_INFO, field(4, 1), "it is no PCI function"),
    "few regions": (C.DEVICE_GET_INFO, field(8, 7), "7 regions"),
    "no configuration space": (C.DEVICE_GET_REGION_INFO, region(Region.CONFIG, 255), "of 255 bytes"),
    "too much of it": (C.DEVICE_GET_REGION_INFO, region(Region.CONFIG, 4097), "of 4097 bytes"),
    "an odd BAR": (C.DEVICE_GET_REGION_INFO, region(0, 4095), "region 0 of 0xfff bytes"),
    "a BAR without end": (C.DEVICE_GET_REGION_INFO, region(1, 1 << 63), "region 1"),
    "another region": (C.DEVICE_GET_REGION_INFO, field(8, 5), "region 5"),
    "another interrupt type": (C.DEVICE_GET_IRQ_INFO, field(8, 5), "type 5"),
    "few interrupts": (C.DEVICE_GET_IRQ_INFO, field(12, 3), "4 vectors and 3 interrupts"),
    "a table in no BAR": (C.REGION_READ, config(MSIX + 4, "<I", 6), "MSI-X"),
    "a table in an absent BAR": (C.REGION_READ, config(MSIX + 4, "<I", 4), "MSI-X"),
    "a table beyond its BAR": (C.REGION_READ, config(MSIX + 4, "<I", 0xFFFF_FFF8 | 2), "MSI-X"),
    "many vectors": (C.REGION_READ, config(MSIX + 2, "<H", 0x7FF), "MSI-X: 2048 vectors"),
    "pending bits elsewhere": (C.REGION_READ, config(MSIX + 8, "<I", 0), "pending bits are in BAR 0: must be one BAR"),
    "a capability at the end": (C.REGION_READ, late, "cut off"),
    "half a configuration space": (C.REGION_READ, half, "bytes instead of 256"),
}


@pytest.mark.hostile("W20")
@pytest.mark.parametrize(("command", "lie", "why"), LIES.values(), ids=LIES)
async def test_a_defect_of_a_function_keeps_the_link_down(
    command: C, lie: Lie, why: str, tmp_path: Path, clock: MockClock
) -> None:
    async with open_scene(tmp_path, {command: lie}) as scene:
        assert why in await scene.trouble()
        assert not scene.link.up
        scene.server.lies = {}
        await scene.up()
        scene.works()


@pytest.mark.hostile("W20")
async def test_a_capability_list_without_an_end_ends(tmp_path: Path, clock: MockClock) -> None:
    async with open_scene(tmp_path, {C.REGION_READ: config(MSIX + 1, "<B", 0x40)}) as scene:
        await scene.up()
        scene.server.lies = {}
        scene.works()


BELLS: dict[str, tuple[Lie, str]] = {
    "an eventfd that is not there": (lambda right: bells(right, IoDoorbell(BELL, 2, 1)), "eventfd 1 of 1"),
    "outside of its BAR": (lambda right: bells(right, IoDoorbell(4095, 2, 0)), "2 bytes at 0xfff"),
    "beyond all addresses": (lambda right: bells(right, IoDoorbell((1 << 64) - 1, 2, 0)), "2 bytes"),
    "of 3 bytes": (lambda right: bells(right, IoDoorbell(BELL, 3, 0)), "3 bytes"),
    "another count": (lambda right: right[: BODY + 12] + b"\2" + right[BODY + 13 :], "40 bytes for 2 registers"),
}


def bells(right: bytes, *rows: IoDoorbell) -> bytes:
    """Return the reply with these doorbells, if it has one."""
    if right[BODY + 12 : BODY + 16] == bytes(4):
        return right
    body = right[BODY : BODY + 12] + struct.pack("<I", len(rows)) + b"".join(row.emit() for row in rows)
    return right[:4] + struct.pack("<I", BODY + len(body)) + right[8:BODY] + body


@pytest.mark.hostile("W17")
@pytest.mark.parametrize(("lie", "why"), BELLS.values(), ids=BELLS)
async def test_doorbells_that_can_not_be_keep_the_link_down(
    lie: Lie, why: str, tmp_path: Path, clock: MockClock
) -> None:
    async with open_scene(tmp_path, {C.DEVICE_GET_REGION_IO_FDS: lie}) as scene:
        assert why in await scene.trouble()
        scene.server.lies = {}
        await scene.up()


@pytest.mark.hostile("W17")
async def test_a_doorbell_that_is_no_eventfd_keeps_the_link_down(tmp_path: Path, clock: MockClock) -> None:
    def lie(right: bytes) -> bytes:
        if right[BODY + 12 : BODY + 16] != bytes(4):
            scene.server.extra = [null.fileno()]
        return right

    with Path("/dev/null").open("rb") as null:  # noqa: ASYNC230  it never blocks
        async with open_scene(tmp_path) as scene:
            await scene.up()
            scene.server.lies = {C.DEVICE_GET_REGION_IO_FDS: lie}
            scene.server.hang_up()
            assert "no eventfd" in await scene.trouble(2)
            scene.server.lies = {}
            await scene.up()


async def test_only_one_value_of_a_doorbell_may_count(tmp_path: Path, clock: MockClock) -> None:
    only: dict[int, Lie] = {
        C.DEVICE_GET_REGION_IO_FDS: lambda right: bells(right, IoDoorbell(BELL, 2, 0, flags=1, value=7))
    }
    async with open_scene(tmp_path, only) as scene:
        await scene.up()
        scene.function.bar_read(0, 0, 4)
        before = len(scene.server.log)
        scene.function.bar_write(0, BELL, 2, 7)
        assert len(scene.server.log) == before
        scene.function.bar_write(0, BELL, 2, 8)
        scene.function.bar_read(0, 0, 4)
        assert scene.server.log[before:] == [C.REGION_WRITE, C.REGION_READ]
