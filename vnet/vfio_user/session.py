"""The session of a client: handlers of all commands, from the connection's start to its end."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import attrs

from drivers.contracts.ipc import Handle, Unusable
from vnet.linux.ipc import LocalIpc
from vnet.vfio_user.accesses import RegionRead, RegionWrite, RegionWrites
from vnet.vfio_user.constants import (
    CAPABILITIES,
    DATA_MAX,
    IRQ_TYPES,
    LINK_EVENTS,
    REGIONS,
    VERSION,
    Command,
    DeviceFlag,
    RegionFlag,
)
from vnet.vfio_user.function import ClientFunction
from vnet.vfio_user.interrupts import ClientInterrupts
from vnet.vfio_user.memory import ClientMemory
from vnet.vfio_user.messages import Message, SessionState, error, parse, reply
from vnet.vfio_user.payloads import (
    DeviceInfo,
    DmaMap,
    DmaUnmap,
    Empty,
    IoDoorbell,
    IrqInfo,
    Refused,
    RegionInfo,
    RegionIoFds,
    SetIrqs,
    Version,
)

__all__ = ["Doorbell", "Session"]

Reply = tuple[bytes, Sequence[Handle]]
DONE: Reply = (b"", ())
POSTED_BYTES = 2
"""Bytes of the doorbells that `Session.ring` handles."""


@attrs.frozen
class Doorbell:
    """A register whose writes notify the device, whatever their value."""

    bar: int
    offset: int
    size: int = 2
    """Bytes of a write."""


class Session:
    """One connection of a client to a function. Owns the handles that the client passed."""

    def __init__(
        self,
        ipc: LocalIpc,
        memory: ClientMemory,
        function: ClientFunction,
        interrupts: ClientInterrupts,
        doorbells: Sequence[Doorbell],
    ) -> None:
        self.state = SessionState.NEW
        self._ipc = ipc
        self._memory = memory
        self._function = function
        self._interrupts = interrupts
        self._doorbells = doorbells
        self._posted = frozenset((bell.bar, bell.offset) for bell in doorbells if bell.size == POSTED_BYTES)
        self._events: dict[Doorbell, Handle] = {}
        self._fds_max = 1
        """Most file descriptors that the client takes with one message."""
        self.link_events = False
        """Whether the client takes the end of the connection for the end of the link."""

    def serve(self, message: Message) -> tuple[bytes, Sequence[Handle], Refused | None]:
        """Handle a command. Returns the reply, file descriptors to pass with it, and why it was refused, if it was.

        The message keeps unused file descriptors, the session owns those to pass.
        """
        if message.command not in (Command.DMA_MAP, Command.DMA_UNMAP):
            self._memory.settle()
        self._memory.flush()
        try:
            payload = parse(message, self.state)
            body, handles = self._HANDLERS[message.command](self, payload, message)
        except Refused as exc:
            return error(message, exc.number), (), exc
        return reply(message, body), handles, None

    def ring(self, bar: int, offset: int, value: int) -> bool:
        """Handle a posted write of two bytes if it is one of a doorbell; return whether it is."""
        if self.state is SessionState.NEW or (bar, offset) not in self._posted:
            return False
        self._memory.synchronize()
        self._function.handle.bar_write(bar, offset, POSTED_BYTES, value)
        return True

    def close(self) -> None:
        """Reset the function, and release all that the client shared."""
        while self._events:
            self._events.popitem()[1].close()
        self._interrupts.close()
        self._function.close()
        self._memory.clear()
        self._memory.settle()

    def _version(self, payload: Version, _: Message) -> Reply:
        major, minor = VERSION
        if payload.major != major:
            raise Refused(f"VERSION: {payload.major}.{payload.minor}: must be {major}.x", errno.EPROTONOSUPPORT)
        fds = payload.capabilities.get("max_msg_fds", 1)
        self._fds_max = fds if isinstance(fds, int) and fds > 0 else 1
        bytes_max = payload.capabilities.get("max_data_xfer_size", DATA_MAX)
        if self._memory.dma is not None and isinstance(bytes_max, int) and bytes_max > 0:
            self._memory.dma.limit(bytes_max)
        self.link_events = payload.capabilities.get(LINK_EVENTS) is True
        multiple = {"write_multiple": True} if payload.capabilities.get("write_multiple") is True else {}
        self.state = SessionState.READY
        return Version(major, min(minor, payload.minor), {**CAPABILITIES, **multiple}).emit(), ()

    def _dma_map(self, payload: DmaMap, message: Message) -> Reply:
        self._memory.map(payload, message.handles[0] if message.handles else None)
        return DONE

    def _dma_unmap(self, payload: DmaUnmap, _: Message) -> Reply:
        self._memory.unmap(payload)
        return payload.emit(), ()

    def _get_info(self, _: DeviceInfo, __: Message) -> Reply:
        info = DeviceInfo(DeviceInfo.FORM.size, DeviceFlag.RESET | DeviceFlag.PCI, REGIONS, IRQ_TYPES)
        return info.emit(), ()

    def _get_region_info(self, payload: RegionInfo, _: Message) -> Reply:
        size = self._function.size(_known(payload.index, REGIONS))
        flags = RegionFlag.READ | RegionFlag.WRITE if size else 0
        return RegionInfo(RegionInfo.FORM.size, flags, payload.index, 0, size, 0).emit(), ()

    def _get_region_io_fds(self, payload: RegionIoFds, _: Message) -> Reply:
        region = _known(payload.index, REGIONS)
        bells = [bell for bell in self._doorbells if bell.bar == region][: self._fds_max]
        rows = tuple(IoDoorbell(bell.offset, bell.size, fd) for fd, bell in enumerate(bells))
        answer = payload.answer(rows)
        return answer.emit(), [self._event(bell) for bell in bells[: len(answer.doorbells)]]

    def _event(self, bell: Doorbell) -> Handle:
        """Return the eventfd of a doorbell, watched from now on."""
        if bell not in self._events:
            ring = partial(self._function.handle.bar_write, bell.bar, bell.offset, bell.size, 0)
            try:
                self._events[bell] = self._ipc.watch(self._ipc.make_event(), ring)
            except Unusable as exc:
                raise Refused(f"DEVICE_GET_REGION_IO_FDS: {exc}", errno.EMFILE) from None
        return self._events[bell]

    def _get_irq_info(self, payload: IrqInfo, _: Message) -> Reply:
        flags, count = self._interrupts.info(_known(payload.index, IRQ_TYPES))
        return IrqInfo(IrqInfo.FORM.size, flags, payload.index, count).emit(), ()

    def _set_irqs(self, payload: SetIrqs, message: Message) -> Reply:
        self._interrupts.set(payload, message.handles)
        return DONE

    def _region_read(self, payload: RegionRead, _: Message) -> Reply:
        data = self._function.read(payload.region, payload.offset, payload.count)
        return RegionWrite(payload.offset, payload.region, data).emit(), ()

    def _region_write(self, payload: RegionWrite, message: Message) -> Reply:
        self._function.write(payload.region, payload.offset, payload.data)
        if not message.need_reply:
            return DONE
        return RegionRead(payload.offset, payload.region, len(payload.data)).emit(), ()

    def _region_writes(self, payload: RegionWrites, _: Message) -> Reply:
        for write in payload.writes:
            self._function.write(write.region, write.offset, write.data)
        return len(payload.writes).to_bytes(8, "little"), ()

    def _reset(self, _: Empty, __: Message) -> Reply:
        self._function.reset()
        return DONE

    _HANDLERS: ClassVar[Mapping[int, Callable[[Session, Any, Message], Reply]]] = {
        Command.VERSION: _version,
        Command.DMA_MAP: _dma_map,
        Command.DMA_UNMAP: _dma_unmap,
        Command.DEVICE_GET_INFO: _get_info,
        Command.DEVICE_GET_REGION_INFO: _get_region_info,
        Command.DEVICE_GET_REGION_IO_FDS: _get_region_io_fds,
        Command.DEVICE_GET_IRQ_INFO: _get_irq_info,
        Command.DEVICE_SET_IRQS: _set_irqs,
        Command.REGION_READ: _region_read,
        Command.REGION_WRITE: _region_write,
        Command.DEVICE_RESET: _reset,
        Command.REGION_WRITE_MULTI: _region_writes,
    }


def _known(index: int, count: int) -> int:
    """Return the index of a region or an interrupt type. Raises Refused."""
    if index >= count:
        raise Refused(f"index {index}: must be 0 to {count - 1}")
    return index
