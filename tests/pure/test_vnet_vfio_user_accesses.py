"""Reads and writes of vfio-user: counts and sizes that no access can have are refused, and the others survive."""

from __future__ import annotations

import struct

import pytest

from support.rigs.vfio_user_messages import refused
from vnet.vfio_user.accesses import DmaAccess, DmaData
from vnet.vfio_user.constants import DATA_MAX, Command
from vnet.vfio_user.payloads import Refused

C = Command


@pytest.mark.hostile("W10")
@pytest.mark.parametrize(("start", "count"), [(0, 0), (0, DATA_MAX + 1), ((1 << 64) - 1, 2), (0, 0xFFFFFFFF)])
def test_an_access_without_end_is_refused(start: int, count: int) -> None:
    refused(C.REGION_READ, struct.pack("<QII", start, 0, count))
    refused(C.REGION_WRITE, struct.pack("<QII", start, 0, count) + bytes(4))
    refused(C.REGION_WRITE, struct.pack("<QII", 0, 0, 5) + bytes(4))


@pytest.mark.hostile("W12")
@pytest.mark.parametrize(("count", "size"), [((1 << 64) - 1, 1), (2, 1), (1, 0), (1, 9)])
def test_several_writes_that_can_not_be_are_refused(count: int, size: int) -> None:
    refused(C.REGION_WRITE_MULTI, struct.pack("<QQIIQ", count, 0, 0, size, 0))


@pytest.mark.hostile("W21")
@pytest.mark.parametrize(("at", "count"), [(0, 0), (0, DATA_MAX + 1), ((1 << 64) - 1, 2)])
def test_an_access_of_a_server_without_end_is_refused(at: int, count: int) -> None:
    head = struct.pack("<QQ", at, count)
    with pytest.raises(Refused, match="DMA_READ"):
        DmaAccess.parse(head)
    with pytest.raises(Refused, match="DMA_WRITE"):
        DmaData.parse(head + bytes(4))


def test_accesses_of_a_server_survive() -> None:
    for access in (DmaAccess(0x4000_0000, 512), DmaData(0x4000_0000, b"data")):
        assert type(access).parse(access.emit()) == access
