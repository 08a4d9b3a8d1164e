"""Interrupts of a function, and its ISR status (VIRTIO 1.4 sections 4.1.4.5 and 4.1.5)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio

from vnet.check.case import Table
from vnet.check.front import NEEDS_RESET, QUIET, take_events
from vnet.check.pci import NO_VECTOR, VFIO_USER, F, PciFront, PciTrial, with_msix
from vnet.check.split import NEXT, Desc
from vnet.check.verdicts import Broken, Level, Skipped
from vnet.vfio_user.constants import IrqType

__all__ = ["PCI_INTERRUPTS"]

PCI_INTERRUPTS = Table("registers", carrier=VFIO_USER)
add = PCI_INTERRUPTS.add
MUST, SHOULD = Level.MUST, Level.SHOULD
MAPPING = "4.1.5.1.2.1"
INTERRUPT = 8
"""Bit of the PCI status register: INTx is asserted."""
ISR_QUEUE, ISR_CONFIG = 1, 2


async def each_vector(trial: PciTrial, field: F, vectors: list[int], want: Callable[[int], int]) -> str:
    """Write vectors of an event of a device that is not running yet, and judge what is read back."""
    front = await trial.negotiated()
    front.need_msix()
    await front.accept()
    await front.set(F.QUEUE_SELECT, trial.kind.main)
    for vector in vectors or [*range(min(front.vectors, 64)), front.vectors - 1]:
        await front.set(field, vector)
        value = await front.get(field)
        if value != want(vector):
            raise Broken(f"{field.name.lower()} reads {value:#x} after {vector:#x}, and {want(vector):#x} is right")
    return f"{front.vectors} vectors"


_EVENTS = (("config", F.CONFIG_MSIX_VECTOR), ("queue", F.QUEUE_MSIX_VECTOR))
for _name, _field in _EVENTS:
    add(f"PCI-DEV-54.{_name}", f"The {_name} event takes every vector", MAPPING, MUST)(
        partial(each_vector, field=_field, vectors=[], want=lambda vector: vector)
    )
    add(f"PCI-DEV-56.{_name}", f"The vector of the {_name} event reads back, and 0xffff if it has none", MAPPING, MUST)(
        partial(each_vector, field=_field, vectors=[0, NO_VECTOR, 0], want=lambda vector: vector)
    )
    add(f"PCI-DEV-59.{_name}", f"The {_name} event has no vector after one that does not exist", MAPPING, MUST)(
        partial(each_vector, field=_field, vectors=[0x7FF, 0x800, 0xFFFE], want=lambda _: NO_VECTOR)
    )


@add("PCI-DEV-60", "No interrupt for a queue without a vector", "4.1.5.3.1", MUST)
async def queue_without_vector(trial: PciTrial) -> str:
    front = await trial.negotiated()
    front.need_msix()
    await front.accept()
    for index in trial.kind.rings:
        vring = front.new_ring(index, trial.kind.size)
        await front.set_up(vring)
        await front.set(F.QUEUE_MSIX_VECTOR, NO_VECTOR)
        await front.set(F.QUEUE_ENABLE, 1)
    await front.driver_ok()
    trial.kind.prepare(front)
    await trial.honest(front)
    await trio.sleep(0.05)
    if any(vring.calls() for vring in front.rings.values()) or front.config_calls():
        raise Broken("an interrupt came")
    return "none came"


async def break_queue(trial: PciTrial, front: PciFront) -> None:
    """Have the device set NEEDS_RESET. Raises Skipped if it does not."""
    vring, request = trial.main(front), trial.kind.request(front)
    first = request.buffers[0]
    vring.split.write(0, Desc(first.addr, first.size, NEXT, 0))
    vring.split.offer(0)
    front.note("descriptor 0 follows itself; kick")
    vring.kick()
    if not await front.wait_for(F.DEVICE_STATUS, NEEDS_RESET, NEEDS_RESET, QUIET):
        raise Skipped("the device does not set NEEDS_RESET after a ring with a loop")
    await trio.sleep(0.05)


@add("PCI-DEV-36", "The ISR status tells of a configuration change, and an interrupt comes", "4.1.4.5.1", MUST)
async def config_change(trial: PciTrial) -> str:
    front = await with_msix(trial)
    await break_queue(trial, front)
    if not front.config_calls():
        raise Broken("NEEDS_RESET is set, and no interrupt came", MUST)
    if not await front.isr() & ISR_CONFIG:
        raise Broken("an interrupt came, and the ISR status has no bit of it")
    return "it does"


@add("PCI-DEV-61", "No interrupt for a configuration change without a vector", "4.1.5.4.1", MUST)
async def config_without_vector(trial: PciTrial) -> str:
    front = await with_msix(trial)
    await front.set(F.CONFIG_MSIX_VECTOR, NO_VECTOR)
    await break_queue(trial, front)
    if front.config_calls():
        raise Broken("an interrupt came")
    return "none came"


async def with_intx(trial: PciTrial) -> tuple[PciFront, int]:
    """Return a running device without MSI-X, and an eventfd of its INTx, after one request. Raises Skipped."""
    front = await trial.negotiated()
    if not front.irqs.get(IrqType.INTX):
        raise Skipped("the function has no INTx")
    await front.accept(msix=False)
    await trial.start(front)
    vring = trial.main(front)
    await front.set_irqs(IrqType.INTX, 0, [vring.call_fd])
    await front.isr()
    take_events(vring.call_fd)
    await trial.honest(front)
    await trio.sleep(0.05)
    return front, vring.call_fd


@add("PCI-DEV-37", "Without MSI-X the ISR status has the bit of queues when INTx comes", "4.1.4.5.1", MUST)
async def isr_of_queue(trial: PciTrial) -> str:
    front, fd = await with_intx(trial)
    if not take_events(fd):
        raise Broken("used a buffer and asserted no INTx within 0.05 s")
    if not await front.isr() & ISR_QUEUE:
        raise Broken("INTx came, and the bit is 0")
    return "it has"


@add("PCI-DEV-38", "Without MSI-X the PCI status shows an interrupt while the ISR status is not 0", "4.1.4.5.1", MUST)
async def interrupt_status(trial: PciTrial) -> str:
    front, _ = await with_intx(trial)
    if not await front.config_read(6, 2) & INTERRUPT:
        raise Broken("it shows none while a queue has used a buffer")
    await front.isr()
    if await front.config_read(6, 2) & INTERRUPT:
        raise Broken("it shows one after the ISR status was read")
    return "it does"


@add("PCI-DEV-39", "The ISR status is 0 after it was read", "4.1.4.5.1", MUST)
async def isr_cleared(trial: PciTrial) -> str:
    front, _ = await with_intx(trial)
    first = await front.isr()
    if not first & ISR_QUEUE:
        raise Broken(f"it is {first} after a buffer was used", SHOULD)
    again = await front.isr()
    if again:
        raise Broken(f"it is {first}, then {again}")
    return "it is"
