"""Interrupts of a vfio-user client: its eventfds for the line and for MSI-X, and those that can not be."""

from __future__ import annotations

import errno

import pytest

from drivers.transports.pci.back import BAR
from support.rigs.vfio_user import open_bench, plug
from vnet.vfio_user.constants import IrqSet, IrqType

TRIGGER = IrqSet.EVENTFD | IrqSet.TRIGGER


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
