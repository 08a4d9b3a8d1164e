"""The cases of a function's virtio structures: each catches a fault of its own."""

from __future__ import annotations

import pytest

from support.rigs.toy_function import CAPS, CONFIG, Access, Fault, ToyFunction, check_catches, patch
from vnet.check.cases.pci.structures import PCI_STRUCTURES
from vnet.check.pci import F


def aimed_outside(access: Access, toy: ToyFunction) -> bool:
    return access.region == CONFIG and access.offset == CAPS["access"] + 16 and toy.space[CAPS["access"] + 4] == 7


FAULTS = {
    "PCI-DEV-11": patch("common", 3, b"\x77"),
    "PCI-DEV-26": patch("notify", 3, b"\x77"),
    "PCI-DEV-35": patch("isr", 3, b"\x77"),
    "PCI-DEV-40": patch("device", 3, b"\x77"),
    "PCI-DEV-47": patch("access", 3, b"\x77"),
    "PCI-DEV-8": patch("notify", 2, b"\x10"),
    "PCI-DEV-8.inside": patch("isr", 8, b"\xff\xff"),
    "PCI-DEV-10": patch("common", 8, b"\x02"),
    "PCI-DEV-27": patch("notify", 8, b"\x01"),
    "PCI-DEV-41": patch("device", 8, b"\x02"),
    "PCI-DEV-28": patch("notify", 16, b"\x03"),
    "PCI-DEV-29": patch("notify", 12, b"\x01\0"),
    "PCI-DEV-30": Fault(lies={F.QUEUE_NOTIFY_OFF: 0x40}),
    "PCI-DEV-31": patch("notify", 16, b"\x02"),
    "PCI-DEV-32": patch("notify", 8, b"\x02"),
    "PCI-DEV-33": patch("notify", 12, b"\x02\0"),
    "PCI-DEV-34": Fault(lies={F.QUEUE_NOTIFY_OFF: 0x40}),
    "PCI-DEV-42": patch("shared", 16, b"\x01"),
    "PCI-DEV-43": patch("shared", 5, b"\x02"),
    "PCI-DEV-45": patch("vendor", 2, b"\x06"),
    "PCI-DEV-44": patch("vendor", 4, b"\xf4\x1a"),
    "PCI-DEV-49": Fault("no access by reads"),
    "PCI-DEV-48": Fault("no access by writes"),
    "S08.cfg": Fault(wedges=aimed_outside),
    "S08.space": Fault("no bytes"),
}
"""A fault by the case that must catch it."""


def test_every_case_has_a_fault() -> None:
    assert set(FAULTS) == {case.id for case in PCI_STRUCTURES.cases}


@pytest.mark.parametrize("ident", FAULTS)
async def test_a_case_catches_its_fault(ident: str) -> None:
    await check_catches(ident, FAULTS[ident])
