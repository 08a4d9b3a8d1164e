"""The client's eventfds of a function's interrupts: INTx with its mask, MSI and MSI-X vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from drivers.contracts.ipc import Handle, Ipc, Notifier, Unusable
from vnet.linux.ipc import notifiers
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.vfio_user.constants import IrqFlag, IrqSet, IrqType
from vnet.vfio_user.payloads import Refused, SetIrqs

__all__ = ["ClientInterrupts"]

FLAGS: Mapping[int, IrqFlag] = {
    IrqType.INTX: IrqFlag.EVENTFD | IrqFlag.MASKABLE | IrqFlag.AUTOMASKED,
    IrqType.MSI: IrqFlag.EVENTFD | IrqFlag.NORESIZE,
    IrqType.MSIX: IrqFlag.EVENTFD,
}


class _Ordered:
    """An eventfd that the client is notified by after all that was written to its memory."""

    def __init__(self, notifier: Notifier, flush: Callable[[], None]) -> None:
        self._notifier = notifier
        self._flush = flush
        self.close = notifier.close

    def notify(self) -> None:
        self._flush()
        self._notifier.notify()


class _Messages:
    """The eventfds of MSI or MSI-X vectors. The first ones turn it on, with that many vectors or more."""

    def __init__(
        self,
        enable: Callable[[int], int],
        disable: Callable[[], None],
        request: Callable[[int, Callable[[], None]], None],
        free: Callable[[int], None],
    ) -> None:
        self._enable, self._disable, self._request, self._free = enable, disable, request, free
        self._count = 0
        """Number of vectors that are on; 0 while it is off."""
        self._notifiers: dict[int, Notifier] = {}

    @property
    def on(self) -> bool:
        return self._count > 0

    def set(self, vectors: Sequence[int], notifiers: Sequence[Notifier]) -> None:
        """Set the eventfds of some vectors; without any, these vectors have none."""
        if vectors[-1] >= self._count:  # the first ones, or more of MSI than fit into a message
            self._count = vectors[-1] + 1
            self.program()
        for at, vector in enumerate(vectors):
            old = self._notifiers.pop(vector, None)
            if notifiers:
                self._notifiers[vector] = notifiers[at]
                self._request(vector, notifiers[at].notify)
            else:
                self._free(vector)
            if old is not None:
                old.close()

    def trigger(self, vectors: Sequence[int]) -> None:
        for vector in vectors:
            if vector in self._notifiers:
                self._notifiers[vector].notify()

    def program(self) -> None:
        """Set up the function again after its reset."""
        if self._count:
            self._count = max(self._count, self._enable(self._count))
        for vector, notifier in self._notifiers.items():
            self._request(vector, notifier.notify)

    def disable(self) -> None:
        self._disable()
        self.close()

    def close(self) -> None:
        self._count = 0
        while self._notifiers:
            self._notifiers.popitem()[1].close()


class ClientInterrupts:
    """Interrupts of one function. The client has the MSI-X table, so that ours is set up by its eventfds.

    As in Linux's VFIO, the client's first use of MSI or MSI-X interrupts turns it on, and no interrupts turn it off.
    """

    def __init__(self, ipc: Ipc, function: PciFunctionHandle, flush: Callable[[], None]) -> None:
        """``flush`` is called before each interrupt."""
        self._ipc = ipc
        self._flush = flush
        self._function = function
        self._counts: Mapping[int, int] = {
            IrqType.INTX: 1,
            IrqType.MSI: function.msi_vectors,
            IrqType.MSIX: function.vectors,
        }
        self._messages: Mapping[int, _Messages] = {
            IrqType.MSI: _Messages(
                lambda count: function.enable_msi(1 << (count - 1).bit_length()),  # their number is a power of two
                function.disable_msi,
                function.request_msi,
                function.free_msi,
            ),
            IrqType.MSIX: _Messages(
                lambda _: function.enable_msix(), function.disable_msix, function.request_irq, function.free_irq
            ),
        }
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
            raise Refused("DEVICE_SET_IRQS: MSI and MSI-X interrupts are masked by the client")
        elif eventfds:
            if any(messages.on for index, messages in self._messages.items() if index != request.index):
                raise Refused("DEVICE_SET_IRQS: one of MSI and MSI-X at a time")
            self._messages[request.index].set(request.numbers(), self._take(handles))
        else:
            self._messages[request.index].trigger(request.numbers())

    def program(self) -> None:
        """Set up the function again as the client last asked, after its reset."""
        for messages in self._messages.values():
            messages.program()
        if self._line is not None:
            self._masked = False
            self._function.request_intx(self._assert)

    def close(self) -> None:
        """Release all interrupts and close the eventfds."""
        self._function.free_irqs()
        for messages in self._messages.values():
            messages.close()
        self._close_line()

    def _disable(self, index: int) -> None:
        if index in self._messages:
            self._messages[index].disable()
        else:
            self._function.free_intx()
            self._close_line()

    def _take(self, handles: list[Handle]) -> list[Notifier]:
        """Return the handles as eventfds. Raises Refused."""
        try:
            return [_Ordered(notifier, self._flush) for notifier in notifiers(self._ipc, handles)]
        except Unusable as exc:
            raise Refused(f"DEVICE_SET_IRQS: {exc}") from None

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

    def _close_line(self) -> None:
        line, self._line = self._line, None
        self._masked = False
        if line is not None:
            line.close()
