"""The cases of a function's interrupts: each catches a fault of its own."""

from __future__ import annotations

import pytest

from support.rigs.toy_function import Fault, check_catches
from vnet.check.cases.pci.interrupts import PCI_INTERRUPTS

FAULTS = {
    "PCI-DEV-54.config": Fault("one vector"),
    "PCI-DEV-54.queue": Fault("one vector"),
    "PCI-DEV-56.config": Fault("no 0xffff"),
    "PCI-DEV-56.queue": Fault("no 0xffff"),
    "PCI-DEV-59.config": Fault("any vector"),
    "PCI-DEV-59.queue": Fault("any vector"),
    "PCI-DEV-60": Fault("always interrupts"),
    "PCI-DEV-36": Fault("no ISR"),
    "PCI-DEV-61": Fault("always interrupts"),
    "PCI-DEV-37": Fault("no ISR"),
    "PCI-DEV-38": Fault("no interrupt status"),
    "PCI-DEV-39": Fault("ISR stays"),
}
"""A fault by the case that must catch it."""


def test_every_case_has_a_fault() -> None:
    assert set(FAULTS) == {case.id for case in PCI_INTERRUPTS.cases}


@pytest.mark.parametrize("ident", FAULTS)
async def test_a_case_catches_its_fault(ident: str) -> None:
    await check_catches(ident, FAULTS[ident])
