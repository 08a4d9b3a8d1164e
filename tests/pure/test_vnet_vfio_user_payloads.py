"""The bodies of vfio-user messages: what no device can do is refused before anything happens."""

from __future__ import annotations

import struct

import pytest

from support.rigs.vfio_user_messages import refused
from vnet.vfio_user.constants import PAGE, Command
from vnet.vfio_user.payloads import IoDoorbell, RegionIoFds, SetIrqs

C = Command


@pytest.mark.hostile("W05")
@pytest.mark.parametrize(
    "text", [b"{}", b"nothing\0", b"[]\0", b'{"capabilities":1}\0', b"\xff\0", b"[" * 4000 + b"\0", b'{"a":\0}\0']
)
def test_data_of_a_version_that_are_no_capabilities_are_refused(text: bytes) -> None:
    assert refused(C.VERSION, bytes(4) + text).startswith("VERSION: its data")


@pytest.mark.hostile("W06")
@pytest.mark.parametrize(
    ("flags", "start", "where", "size"),
    [
        (0, 0, 0, PAGE),
        (4, 0, 0, PAGE),
        (3, 0, 0, 0),
        (3, 0, 1, PAGE),
        (3, 0, 0, PAGE - 1),
        (3, 0, -PAGE % (1 << 64), 2 * PAGE),
        (3, -PAGE % (1 << 64), 0, 2 * PAGE),
    ],
)
def test_a_mapping_that_can_not_be_is_refused(flags: int, start: int, where: int, size: int) -> None:
    refused(C.DMA_MAP, struct.pack("<IIQQQ", 32, flags, start, where, size))


@pytest.mark.hostile("W08")
@pytest.mark.parametrize(("flags", "where", "size"), [(1, 0, PAGE), (2, 0, PAGE), (2, PAGE, 0), (0, 0, 0), (0, 1, 1)])
def test_the_end_of_a_mapping_that_can_not_be_is_refused(flags: int, where: int, size: int) -> None:
    refused(C.DMA_UNMAP, struct.pack("<IIQQ", 24, flags, where, size))


@pytest.mark.hostile("W11")
@pytest.mark.parametrize("flags", [0, 1, 8, 1 | 2 | 32, 1 | 8 | 16, 4, 32, 64 | 1 | 32, (1 << 31) | 1 | 32])
def test_interrupt_flags_that_can_not_be_are_refused(flags: int) -> None:
    assert "flags" in refused(C.DEVICE_SET_IRQS, struct.pack("<IIIII", 20, flags, 0, 0, 1))


@pytest.mark.hostile("W11")
def test_bytes_that_choose_interrupts_are_as_many_as_the_interrupts() -> None:
    head = struct.pack("<IIIII", 23, 2 | 32, 2, 4, 3)
    assert refused(C.DEVICE_SET_IRQS, head + bytes(2)) == "DEVICE_SET_IRQS: 2 bytes for 3 interrupts"
    assert SetIrqs.parse(head + b"\1\0\2").numbers() == [4, 6]


def test_doorbells_are_left_out_if_the_client_has_no_room() -> None:
    bells = (IoDoorbell(0x3000, 2, 0), IoDoorbell(0x3004, 2, 1))
    whole = RegionIoFds(96, 0, 0).answer(bells).emit()
    assert whole[:16] == struct.pack("<IIII", 96, 0, 0, 2)
    assert whole[56:96] == struct.pack("<QQIIIIQ", 0x3004, 2, 1, 0, 0, 0, 0)
    assert RegionIoFds(95, 0, 0).answer(bells).emit() == struct.pack("<IIII", 96, 0, 0, 0)
