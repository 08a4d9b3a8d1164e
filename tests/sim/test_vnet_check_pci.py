"""The checker's driver of PCI functions: a function that is right passes every case."""

from __future__ import annotations

from support.rigs.checked import unlike
from support.rigs.toy_function import Fault, check_function_with
from vnet.check.cases import CASES
from vnet.check.pci import VFIO_USER
from vnet.check.verdicts import Verdict


async def test_a_function_that_is_right_passes_every_case() -> None:
    results = await check_function_with(Fault(), "pci", "registers")
    assert unlike(results, Verdict.PASS) == {}
    assert set(results) == {case.id for case in CASES if case.carrier == VFIO_USER}
