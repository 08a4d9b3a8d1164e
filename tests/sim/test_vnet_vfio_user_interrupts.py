"""Interrupts of a vfio-user client: its eventfds for the line and for MSI-X, and those that can not be."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import attrs
import pytest

from drivers.contracts.hw import PciHeader
from drivers.contracts.ipc import Handle
from drivers.transports.pci.back import BAR
from support.rigs.vfio_user import open_bench, plug
from vnet.link.ideal import IdealLink
from vnet.linux.ipc import FileHandle, LocalIpc
from vnet.linux.memory import HostMemory
from vnet.linux.poller import Poller
from vnet.pcie.epc import EndpointController
from vnet.pcie.rc import RootComplex
from vnet.vfio_user.constants import IrqSet, IrqType
from vnet.vfio_user.interrupts import ClientInterrupts
from vnet.vfio_user.payloads import SetIrqs

TRIGGER = IrqSet.EVENTFD | IrqSet.TRIGGER
VECTORS = 32


@attrs.frozen
class Function:
    """A function with vectors of MSI and MSI-X, and the eventfds that a client has for them."""

    controller: EndpointController
    interrupts: ClientInterrupts
    events: list[int]

    def take(self, kind: IrqType, start: int, count: int) -> None:
        """Give the function the eventfds of some vectors."""
        handles: list[Handle] = [FileHandle.copy(fd) for fd in self.events[start : start + count]]
        self.interrupts.set(SetIrqs(20, TRIGGER, kind, start, count), handles)
        assert not handles

    def interrupt(self, kind: IrqType) -> list[int]:
        """Interrupt by each vector once; return how often each eventfd was written."""
        for vector in range(VECTORS):
            (self.controller.raise_msi if kind is IrqType.MSI else self.controller.raise_irq)(0, vector)
        return [self._count(fd) for fd in self.events]

    @staticmethod
    def _count(fd: int) -> int:
        try:
            return os.eventfd_read(fd)
        except BlockingIOError:
            return 0


@pytest.fixture
def function() -> Iterator[Function]:
    link, poller, memory = IdealLink(), Poller(), HostMemory(1 << 20)
    root, controller = RootComplex(memory), EndpointController(link)
    root.attach(link)
    controller.set_header(0, PciHeader(0x1234, 0x11E8, 1, 0xFF0000, 0x1234, 1))
    controller.set_msi(0, VECTORS)
    controller.set_msix(0, VECTORS, 2, 0)
    controller.start()
    [handle] = root.functions
    interrupts = ClientInterrupts(LocalIpc(poller), handle, lambda: None)
    events = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(VECTORS)]
    yield Function(controller, interrupts, events)
    interrupts.close()
    for fd in events:
        os.close(fd)
    poller.close()
    memory.close()


@pytest.mark.parametrize("kind", [IrqType.MSI, IrqType.MSIX], ids=["msi", "msix"])
@pytest.mark.parametrize("at_once", [1, 5, 16, VECTORS])
def test_vectors_may_come_by_several_messages(function: Function, kind: IrqType, at_once: int) -> None:
    """A message has room for so many eventfds: QEMU's for 16."""
    for start in range(0, VECTORS, at_once):
        function.take(kind, start, min(at_once, VECTORS - start))
    assert function.interrupt(kind) == [1] * VECTORS
    function.interrupts.program()  # as after a reset of the function
    assert function.interrupt(kind) == [1] * VECTORS
    function.interrupts.set(SetIrqs(20, IrqSet.NONE | IrqSet.TRIGGER, kind, 0, 0), [])
    assert function.interrupt(kind) == [0] * VECTORS
    function.take(kind, 0, 1)
    of_first = VECTORS if kind is IrqType.MSI else 1  # a function with one vector of MSI has no other message
    assert function.interrupt(kind) == [of_first] + [0] * (VECTORS - 1)


@pytest.mark.parametrize("msix", [True, False])
async def test_a_disk_works_and_interrupts_by_eventfd(msix: bool) -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        await client.bring_up(msix=msix)
        await client.works()
        if msix:
            assert client.called() >= 2
            return
        assert client.called() == 1  # it masks itself until the client unmasks it
        await client.works()
        assert client.called() == 0
        unmask = IrqSet.NONE | IrqSet.UNMASK
        assert not (await client.set_irqs(unmask, IrqType.INTX, 0, 1)).error
        assert client.called() == 1
        await client.read(BAR, 0x1000, 1)  # the ISR: the line falls
        assert not (await client.set_irqs(unmask, IrqType.INTX, 0, 1)).error
        assert client.called() == 0


async def test_interrupts_are_triggered_taken_away_and_turned_off_by_the_client() -> None:
    trigger = IrqSet.TRIGGER
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        await client.bring_up()
        assert not (await client.set_irqs(IrqSet.NONE | trigger, IrqType.MSIX, 1, 1)).error
        assert client.called() == 1
        for flags, start, count in ((IrqSet.EVENTFD | trigger, 1, 1), (IrqSet.NONE | trigger, 0, 0)):
            assert not (await client.set_irqs(flags, IrqType.MSIX, start, count)).error
            await client.works()
            assert client.called() == 0
            if count:
                assert not (await client.set_irqs(flags, IrqType.MSIX, 1, 1, [client.call_fd])).error
                await client.works()
                assert client.called()


@pytest.mark.hostile("W11")
async def test_interrupts_that_do_not_exist_are_refused_and_the_others_work() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        await client.bring_up()
        fd = client.call_fd
        for index, start, count, given in (
            *((IrqType.MSIX, 2, 1, [fd]), (IrqType.MSIX, 0, 3, [fd] * 3), (IrqType.MSIX, 0xFFFFFFFF, 1, [fd])),
            *((IrqType.MSIX, 1, 0xFFFFFFFF, [fd]), (IrqType.MSIX, 0, 2, [fd]), (IrqType.MSIX, 0, 1, [fd, fd])),
            *((IrqType.MSI, 0, 1, [fd]), (IrqType.ERROR, 0, 1, [fd]), (99, 0, 1, [fd]), (IrqType.INTX, 0, 2, [fd])),
            *((IrqType.MSIX, 0, 1, [client.memory.fd]), (IrqType.MSIX, 0, 0, [fd]), (IrqType.MSIX, 0, 0, [])),
        ):
            answer = await client.set_irqs(TRIGGER, index, start, count, given)
            assert answer.error == errno.EINVAL, (index, start, count)
        for action in (IrqSet.MASK, IrqSet.UNMASK):
            assert (await client.set_irqs(IrqSet.NONE | action, IrqType.MSIX, 1, 1)).error == errno.EINVAL
            assert (await client.set_irqs(IrqSet.EVENTFD | action, IrqType.INTX, 0, 1, [fd])).error == errno.EINVAL
        client.called()
        await client.works()
        assert client.called()
