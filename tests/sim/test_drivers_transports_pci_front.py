"""Capabilities of a virtio-pci device as its driver reads them."""

from __future__ import annotations

import struct

import attrs
import pytest

from drivers.bus.binding import BindState
from drivers.testing import CONFIG
from drivers.transports.pci.registers import CfgType
from support.rigs.virtio_pci import SMALL, bind, capabilities, overlay
from vnet.testing import (
    open_pair,
    tapped,
    unharmed,
    until,
)

FREE = 0xE0  # room behind the device's own capabilities
CAP_POINTER, STATUS = 0x34, 0x06
VENDOR_CAP = 0x09


@attrs.frozen
class Listed:
    """One vendor capability that a list of bad ones holds."""

    kind: int
    bar: int = 0
    offset: int = 0
    length: int = 0x38
    cap_len: int = 16

    def emit(self, following: int) -> bytes:
        return struct.pack(
            "<BBBBBxxxII", VENDOR_CAP, following, self.cap_len, self.kind, self.bar, self.offset, self.length
        )


UNUSABLE = {
    "cfg_type 0": Listed(0),
    "reserved cfg_type": Listed(0x77),
    "shared memory": Listed(8),
    "vendor data": Listed(9),
    "reserved BAR": Listed(CfgType.COMMON, bar=6),
    "BAR 255": Listed(CfgType.COMMON, bar=255),
    "BAR that is not there": Listed(CfgType.COMMON, bar=4),
    "empty": Listed(CfgType.COMMON, length=0),
    "beyond its BAR": Listed(CfgType.COMMON, offset=0x3FF0),
    "wraps": Listed(CfgType.COMMON, offset=0xFFFF_FFFF, length=0xFFFF_FFFF),
    "too short": Listed(CfgType.COMMON, cap_len=15),
    "no length": Listed(CfgType.COMMON, cap_len=0),
}


@pytest.mark.virtio("PCI-DRV-5", "PCI-DRV-6", "PCI-DRV-8", "PCI-DRV-35")
@pytest.mark.parametrize("bad", UNUSABLE.values(), ids=UNUSABLE)
async def test_unusable_structures_are_skipped_and_the_first_usable_one_is_taken(bad: Listed) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        first = tap.config_read(CAP_POINTER, 1)
        overlay(tap, CAP_POINTER, bytes([FREE]))
        overlay(tap, FREE, bad.emit(first))
        await bind(pair, tap)


@pytest.mark.virtio("PCI-DRV-22")
async def test_data_of_an_unknown_vendor_are_neither_interpreted_nor_written() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        first = tap.config_read(CAP_POINTER, 1)
        overlay(tap, CAP_POINTER, bytes([FREE]))
        overlay(tap, FREE, struct.pack("<BBBBH", VENDOR_CAP, first, 20, 9, 0x1234) + b"\xff" * 14)
        await bind(pair, tap)
        assert not [a for a in tap.log if a.bar == CONFIG and a.write and a.offset >= FREE]
        assert 0xFF not in {a.bar for a in tap.log}


@pytest.mark.virtio("PCI-DRV-6")
async def test_a_second_structure_of_a_kind_is_not_looked_at() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        last = max(at for at, _ in capabilities(tap.config_read).values())
        overlay(tap, last + 1, bytes([FREE]))
        overlay(tap, FREE, Listed(CfgType.COMMON, offset=0x2000).emit(0))
        await bind(pair, tap)


@pytest.mark.virtio("PCI-DRV-7", "PCI-DRV-9", "PCI-DRV-10")
async def test_capabilities_and_structures_may_be_larger_than_they_have_to_be() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        for at, _ in list(capabilities(tap.config_read).values()):
            tap.lies[CONFIG, at + 2] = lambda value: value + 44
        at, _ = capabilities(pair.function.config_read)[CfgType.COMMON]
        overlay(tap, at + 12, (0x1000).to_bytes(4, "little"))
        await bind(pair, tap)
        common = tap.structures[CfgType.COMMON]
        assert all(a.offset + a.size <= common.offset + 0x38 for a in tap.log if 0 <= a.bar and a.offset < 0x1000)


BAD_LISTS: dict[str, list[tuple[int, bytes]]] = {
    "no list": [(STATUS, b"\0")],
    "ends at once": [(CAP_POINTER, b"\0")],
    "starts in the header": [(CAP_POINTER, b"\x3c")],
    "starts at the end": [(CAP_POINTER, b"\xfc")],
    "loops on itself": [(CAP_POINTER, bytes([FREE])), (FREE, bytes([9, FREE]))],
    "loops over two": [
        (CAP_POINTER, bytes([FREE])),
        (FREE, Listed(0x55).emit(FREE + 16)),
        (FREE + 16, Listed(0x55).emit(FREE)),
    ],
    "all ones": [(CAP_POINTER, b"\xff" * 0xCC)],
}


@pytest.mark.virtio("PCI-DRV-35")
@pytest.mark.parametrize("bar", [None, 0, 16])
@pytest.mark.parametrize("bad", [[], *BAD_LISTS.values()], ids=["as it is", *BAD_LISTS])
async def test_a_list_without_the_structures_or_without_an_end_is_refused_in_bounded_time(
    bad: list[tuple[int, bytes]], bar: int | None
) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        tap.log.clear()
        for at, data in bad:
            overlay(tap, at, data)
        if bar is not None:
            tap.bar_sizes[0] = bar
        elif not bad:
            return
        pair.rc.pci.register_device(tap)
        await until(lambda: pair.rc.pci.binding(tap).state is BindState.FAILED)
        assert pair.rc.pci.binding(tap).error.startswith("0000:01:00.0: no usable COMMON, NOTIFY, ISR structure")
        assert pair.rc.virtio.bindings == ()
        assert len(tap.log) < 64 * 24


@pytest.mark.virtio("PCI-DRV-11", "PCI-DRV-23", "PCI-DRV-24")
async def test_a_driver_writes_nothing_in_configuration_space_but_the_command_register() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        pair.function.config_write(4, 2, pair.function.config_read(4, 2) & ~4)  # so that there is something to write
        await bind(pair, tap)
        await pair.reset()
        assert {a.offset for a in tap.log if a.bar == CONFIG and a.write} == {4}
