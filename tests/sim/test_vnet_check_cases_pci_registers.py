"""The cases of a function's common configuration: each catches a fault of its own."""

from __future__ import annotations

import pytest

from support.rigs.toy_function import Fault, check_catches
from vnet.check.cases.pci.registers import PCI_REGISTERS
from vnet.check.pci import F

FAULTS = {
    "PCI-DEV-12": Fault("words repeat"),
    "PCI-DEV-13": Fault("no driver words"),
    "FEAT-DEV-3.register": Fault("takes any feature"),
    "PCI-DEV-15": Fault("no reset"),
    "PCI-DEV-16": Fault("keeps enable"),
    "PCI-DEV-17": Fault(lies={F.QUEUE_RESET: 1}),
    "PCI-DEV-57": Fault("keeps vectors"),
    "PCI-DEV-22": Fault("phantom queue"),
    "PCI-DEV-23": Fault(lies={F.QUEUE_SIZE: 12}),
    "PCI-DEV-7": Fault("no halves"),
    "PCI-DEV-14": Fault("config changes"),
    "PCI-DEV-18": Fault("queue reset stays"),
    "PCI-DEV-19": Fault("no queue reset"),
    "PCI-DEV-21": Fault("queue stays enabled"),
    "S10": Fault("index stays"),
}
"""A fault by the case that must catch it."""


def test_every_case_has_a_fault() -> None:
    assert set(FAULTS) == {case.id for case in PCI_REGISTERS.cases}


@pytest.mark.parametrize("ident", FAULTS)
async def test_a_case_catches_its_fault(ident: str) -> None:
    await check_catches(ident, FAULTS[ident])
