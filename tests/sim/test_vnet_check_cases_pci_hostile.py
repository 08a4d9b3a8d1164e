"""The cases of a driver that uses registers in a wrong way: each catches a fault of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.rigs.toy_function import NOTIFY_AT, Access, Fault, ToyFunction, check_catches
from vnet.check.cases.pci.hostile import PCI_HOSTILE
from vnet.check.pci import F


def wedged_by(field: F, *values: int, when: Callable[[ToyFunction], object] = lambda toy: True) -> Fault:
    """A function that stops after one of these values is written to a field, or any without them."""

    def wedges(access: Access, toy: ToyFunction) -> bool:
        here = access.region == 0 and access.offset == field.value[0] and access.value is not None
        return here and (not values or access.value in values) and bool(when(toy))

    return Fault(wedges=wedges)


def running(toy: ToyFunction) -> bool:
    return bool(toy.queue[F.QUEUE_ENABLE])


def strange(access: Access, toy: ToyFunction) -> bool:
    return access.region == 0 and access.offset == NOTIFY_AT + 1


def odd(access: Access, toy: ToyFunction) -> bool:
    return access.region == 0 and access.size == 3


def bad_queue(toy: ToyFunction) -> bool:
    start, size, _ = toy.maps[0]
    places = [toy.queue[field] for field in (F.QUEUE_DESC, F.QUEUE_DRIVER, F.QUEUE_DEVICE)]
    return any(place % 2 or not start <= place < start + size - 16 for place in places)


FAULTS = {
    "S03": wedged_by(F.DEVICE_STATUS, 0xFF),
    "S04": wedged_by(F.DRIVER_FEATURE, 0xFFFF_FFFF),
    "S09": Fault("late"),
    "S13": wedged_by(F.QUEUE_MSIX_VECTOR, 0x1234),
    "S05.size": wedged_by(F.QUEUE_SIZE, when=running),
    "S05.desc": wedged_by(F.QUEUE_DESC, when=running),
    "S05.driver": wedged_by(F.QUEUE_DRIVER, when=running),
    "S05.device": wedged_by(F.QUEUE_DEVICE, when=running),
    "S05.enable": wedged_by(F.QUEUE_ENABLE, 2),
    "S06": wedged_by(F.QUEUE_SIZE, when=lambda toy: toy.fields[F.QUEUE_SELECT] == 0xFFFF),
    "S07": Fault(wedges=strange),
    "S07.stopped": Fault("serves any queue"),
    "S08.device": Fault(wedges=odd),
    "R23.register0": wedged_by(F.QUEUE_SIZE, 0),
    "R23.register3": wedged_by(F.QUEUE_SIZE, 3),
    "R23.register65535": wedged_by(F.QUEUE_SIZE, 0xFFFF),
    **{
        f"R22.register-{name}": wedged_by(F.QUEUE_ENABLE, when=bad_queue)
        for name in ("unaligned", "outside", "end", "zero", "far")
    },
}
"""A fault by the case that must catch it."""


def test_every_case_has_a_fault() -> None:
    assert set(FAULTS) == {case.id for case in PCI_HOSTILE.cases}


@pytest.mark.parametrize("ident", FAULTS)
async def test_a_case_catches_its_fault(ident: str) -> None:
    await check_catches(ident, FAULTS[ident])
