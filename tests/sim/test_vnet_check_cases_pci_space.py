"""The cases of a function's configuration space: each catches a fault of its own."""

from __future__ import annotations

import pytest

from support.rigs.toy_function import CAPS, Fault, check_catches, patch
from vnet.check.cases.pci.space import PCI_SPACE

FAULTS = {
    "PCI-DEV-2": Fault(space={0: b"\x86\x80"}),
    "PCI-DEV-3": Fault(space={2: b"\x99\x10"}),
    "PCI-DEV-4": Fault(space={2: b"\x99\x10"}),
    "PCI-DEV-5": Fault(space={8: b"\0"}),
    "PCI-DEV-6": Fault(space={0x2E: b"\0"}),
    "PCI-DEV-1.chain": patch("vendor", 1, bytes((CAPS["common"],))),
    "PCI-DEV-1.readonly": Fault("writable ids"),
    "PCI-DEV-1.bars": Fault("wrong size"),
    "PCI-DEV-1.command": Fault("stuck command"),
    "PCI-DEV-1.status": Fault("writable status"),
    "PCI-DEV-1.msix": patch("msix", 8, b"\x02\0"),
    "PCI-DEV-1.masked": Fault("unmasked"),
    "PCI-DEV-1.control": Fault("stuck control"),
    "PCI-DEV-51": patch("msix", 2, b"\0"),
    "PCI-DEV-52": patch("msix", 2, b"\0"),
    "S14.master": Fault("no bus mastering"),
    "S14.flr": Fault("no FLR"),
    "S14.reset": Fault("no function reset"),
}
"""A fault by the case that must catch it."""


def test_every_case_has_a_fault() -> None:
    assert set(FAULTS) == {case.id for case in PCI_SPACE.cases}


@pytest.mark.parametrize("ident", FAULTS)
async def test_a_case_catches_its_fault(ident: str) -> None:
    await check_catches(ident, FAULTS[ident])
