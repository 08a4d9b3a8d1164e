"""The client's eventfds of a function's interrupts: INTx with its mask, and MSI-X vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from drivers.contracts.ipc import Handle, Ipc, Notifier, Unusable
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.vfio_user.constants import IrqFlag, IrqSet, IrqType
from vnet.vfio_user.payloads import Refused, SetIrqs

__all__ = ["ClientInterrupts"]

FLAGS: Mapping[int, IrqFlag] = {
    IrqType.INTX: IrqFlag.EVENTFD | IrqFlag.MASKABLE | IrqFlag.AUTOMASKED,
    IrqType.MSIX: IrqFlag.EVENTFD,
}


class ClientInterrupts:
    """Interrupts of one function. The client has the MSI-X table, so that ours is set up by its eventfds.

    As in Linux's VFIO, the client's first use of MSI-X interrupts turns MSI-X on, and no interrupts turn it off.
    """

    def __init__(self, ipc: Ipc, function: PciFunctionHandle) -> None:
        self._ipc = ipc
        self._function = function
        self._counts: Mapping[int, int] = {IrqType.INTX: 1, IrqType.MSIX: function.vectors}
        self._vectors: dict[int, Notifier] = {}
        self._msix = False
        self._line: Notifier | None = None
        self._masked = False

    def info(self, index: int) -> tuple[IrqFlag, int]:
        """Return the flags and the number of interrupts of a type; (0, 0) if the function has none."""
        count = self._counts.get(index, 0)
        return (FLAGS[index], count) if count else (IrqFlag(0), 0)

    def set(self, request: SetIrqs, handles: list[Handle]) -> None:
        """Apply a command; takes the ``handles`` that it uses out of the list. Raises Refused."""
        count = self._counts.get(request.index, 0)
        if request.start + request.count > count:
            raise Refused(
                f"DEVICE_SET_IRQS: interrupts {request.start} to {request.start + request.count} of type"
                f" {request.index}: there are {count}"
            )
        eventfds = IrqSet.EVENTFD in request.flags
        if len(handles) not in ((0, request.count) if eventfds else (0,)):
            raise Refused(f"DEVICE_SET_IRQS: {len(handles)} eventfds for {request.count} interrupts")
        if not request.count:
            if IrqSet.NONE not in request.flags or IrqSet.TRIGGER not in request.flags:
                raise Refused("DEVICE_SET_IRQS: no interrupts, with data or to mask")
            self._disable(request.index)
        elif request.index == IrqType.INTX:
            self._set_line(request, handles)
        elif request.action is not IrqSet.TRIGGER:
            raise Refused("DEVICE_SET_IRQS: MSI-X interrupts are masked by the client")
        elif eventfds:
            self._set_vectors(request.numbers(), self._take(handles))
        else:
            for vector in request.numbers():
                if vector in self._vectors:
                    self._vectors[vector].notify()

    def program(self) -> None:
        """Set up the function again as the client last asked, after its reset."""
        if self._msix:
            self._function.enable_msix()
        for vector, notifier in self._vectors.items():
            self._function.request_irq(vector, notifier.notify)
        if self._line is not None:
            self._masked = False
            self._function.request_intx(self._assert)

    def close(self) -> None:
        """Release all interrupts and close the eventfds."""
        self._function.free_irqs()
        self._close_vectors()
        self._close_line()
        self._msix = False

    def _disable(self, index: int) -> None:
        if index == IrqType.MSIX:
            self._function.disable_msix()
            self._msix = False
            self._close_vectors()
        else:
            self._function.free_intx()
            self._close_line()

    def _take(self, handles: list[Handle]) -> list[Notifier]:
        """Return the handles as eventfds. Raises Refused, with all closed."""
        notifiers: list[Notifier] = []
        try:
            while handles:
                notifiers.append(self._ipc.notifier(handles.pop(0)))
        except Unusable as exc:
            for notifier in notifiers:
                notifier.close()
            raise Refused(f"DEVICE_SET_IRQS: {exc}") from None
        return notifiers

    def _set_vectors(self, vectors: Sequence[int], notifiers: Sequence[Notifier]) -> None:
        if not self._msix:
            self._msix = True
            self._function.enable_msix()
        for at, vector in enumerate(vectors):
            old = self._vectors.pop(vector, None)
            if notifiers:
                self._vectors[vector] = notifiers[at]
                self._function.request_irq(vector, notifiers[at].notify)
            else:
                self._function.free_irq(vector)
            if old is not None:
                old.close()

    def _set_line(self, request: SetIrqs, handles: list[Handle]) -> None:
        if IrqSet.EVENTFD in request.flags:
            if request.action is not IrqSet.TRIGGER:
                raise Refused("DEVICE_SET_IRQS: no eventfds of the line's mask")
            notifiers = self._take(handles)
            self._close_line()
            if notifiers:
                [self._line] = notifiers
                self._function.request_intx(self._assert)
            else:
                self._function.free_intx()
        elif request.numbers():
            self._LINE[request.action](self)

    def _assert(self) -> None:
        """Notify the client of the asserted line, and mask it until the client unmasks it."""
        if self._line is not None and not self._masked:
            self._masked = True
            self._line.notify()

    def _mask(self) -> None:
        self._masked = True

    def _unmask(self) -> None:
        self._masked = False
        if self._function.intx_asserted:
            self._assert()

    def _trigger(self) -> None:
        if self._line is not None:
            self._line.notify()

    _LINE: ClassVar[Mapping[IrqSet, Callable[[ClientInterrupts], None]]] = {
        IrqSet.MASK: _mask,
        IrqSet.UNMASK: _unmask,
        IrqSet.TRIGGER: _trigger,
    }

    def _close_vectors(self) -> None:
        while self._vectors:
            self._vectors.popitem()[1].close()

    def _close_line(self) -> None:
        line, self._line = self._line, None
        self._masked = False
        if line is not None:
            line.close()
