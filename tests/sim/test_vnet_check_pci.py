"""The cases of PCI functions: each passes with a function that is right, and each catches a fault of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.rigs.checked import unlike
from support.rigs.toy_function import CAPS, CONFIG, NOTIFY_AT, Access, Fault, ToyFunction, check_function_with
from vnet.check.cases import CASES
from vnet.check.pci import VFIO_USER, F
from vnet.check.verdicts import FAILURES, Level, Verdict

AREAS = "pci", "registers"
CASE_IDS = [case.id for case in CASES if case.carrier == VFIO_USER]


def patch(name: str, offset: int, data: bytes) -> Fault:
    """A function whose capability has other bytes."""
    return Fault(space={CAPS[name] + offset: data})


def wedged_by(field: F, *values: int, when: Callable[[ToyFunction], object] = lambda toy: True) -> Fault:
    """A function that stops after one of these values is written to a field, or any without them."""

    def wedges(access: Access, toy: ToyFunction) -> bool:
        here = access.region == 0 and access.offset == field.value[0] and access.value is not None
        return here and (not values or access.value in values) and bool(when(toy))

    return Fault(wedges=wedges)


def running(toy: ToyFunction) -> bool:
    return bool(toy.queue[F.QUEUE_ENABLE])


def other_vector(toy: ToyFunction) -> bool:
    return running(toy) and toy.fields[F.DEVICE_STATUS] == 15


def strange(access: Access, toy: ToyFunction) -> bool:
    return access.region == 0 and access.offset == NOTIFY_AT + 1


def odd(access: Access, toy: ToyFunction) -> bool:
    return access.region == 0 and access.size == 3


def aimed_outside(access: Access, toy: ToyFunction) -> bool:
    return access.region == CONFIG and access.offset == CAPS["access"] + 16 and toy.space[CAPS["access"] + 4] == 7


def bad_queue(toy: ToyFunction) -> bool:
    start, size, _ = toy.maps[0]
    places = [toy.queue[field] for field in (F.QUEUE_DESC, F.QUEUE_DRIVER, F.QUEUE_DEVICE)]
    return any(place % 2 or not start <= place < start + size - 16 for place in places)


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


async def test_a_function_that_is_right_passes_every_case() -> None:
    results = await check_function_with(Fault(), *AREAS)
    assert unlike(results, Verdict.PASS) == {}
    assert set(results) == set(CASE_IDS)


def test_every_case_has_a_fault() -> None:
    assert set(FAULTS) == set(CASE_IDS)


@pytest.mark.parametrize("ident", CASE_IDS)
async def test_a_case_catches_its_fault(ident: str) -> None:
    result = (await check_function_with(FAULTS[ident], ident))[ident]
    if result.level is Level.SHOULD:
        assert result.verdict is Verdict.WARN, result
    else:
        assert result.verdict in FAILURES, result
    assert result.sent or result.setup
