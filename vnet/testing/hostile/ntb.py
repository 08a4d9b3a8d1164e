"""The hostile driver at the scratchpads and doorbells of an NTB. Its rings are where both sides expect them."""

from __future__ import annotations

from typing import Any

import trio

from drivers.carriers.ntb import NtbEpf
from drivers.carriers.ntb_registers import Bar
from drivers.transports.ntb.end import BEAT
from drivers.transports.ntb.registers import (
    DB_CONTROL,
    MAX_QUEUES,
    VHOST_FEATURES,
    VIRTIO_FEATURES,
    Answer,
    NtbCommand,
    NtbSide,
    Offer,
    RingArea,
    Spad,
    emit_command,
)
from drivers.transports.ntb.window import WindowDma
from rings.features import bits, word
from rings.layout import RingAddrs
from rings.status import Status
from rings.testing import RawRing
from vnet.testing.checks import bounded
from vnet.testing.hostile.driver import HostileDriver, P_co

__all__ = ["HostileNtb"]

ALIGN = 4096


class HostileNtb(HostileDriver[P_co]):
    """In place of the virtio side. `calls` takes 0 for the configuration and a queue's number plus 1 for the queue."""

    ntb: NtbEpf
    window: WindowDma
    offer: Offer
    area: RingArea
    sequence = 0

    def look(self, carrier: Any) -> None:
        self.ntb = carrier
        self._seen: tuple[int, int] | None = None
        self._scope = trio.CancelScope()

    async def arrive(self) -> None:
        """Be the vhost side's other end; and beat, until `let_go`."""
        self.memory = self.window = WindowDma(self.pair.rc.memory)  # type: ignore[assignment]
        self.ntb.watch(self)
        self.ntb.link_enable()
        trio.lowlevel.spawn_system_task(self._beat)
        with bounded():
            while self.ntb.spad_read(Spad.TYPE) != NtbSide.VHOST or not self._answer():  # noqa: ASYNC110
                await trio.sleep(0.001)

    def _answer(self) -> bool:
        """Take what is offered; whether the vhost side is content with that."""
        ntb = self.ntb
        session = ntb.peer_spad_read(Spad.SESSION)
        if session and ntb.peer_spad_read(Spad.VIRTIO_SESSION) != session:
            self.offer = Offer.parse(ntb.peer_spad_read)
            self.area = RingArea(self.offer.nums, ALIGN)
            self.window.open(self.offer.mw_size, self.area.buffer_offset, ALIGN)
            ntb.mw_set_trans(0, self.window.base, self.offer.mw_size)
            for spad, value in Answer(session, self.window.base, ALIGN, self.area.buffer_offset).emit().items():
                ntb.peer_spad_write(spad, value)
            ntb.peer_spad_write(Spad.TYPE, NtbSide.VIRTIO)
            ntb.peer_db_set(DB_CONTROL)
        return bool(session) and ntb.peer_spad_read(Spad.READY) == session

    async def _beat(self) -> None:
        with self._scope:
            beats = self.ntb.peer_spad_read(Spad.BEAT)
            while True:
                beats += 1
                self.ntb.peer_spad_write(Spad.BEAT, beats)
                await trio.sleep(BEAT)

    def places(self) -> tuple[int, int]:
        bars = {bar.index: bar.address for bar in self.pair.function.bars}
        return bars[Bar.CONFIG], bars[Bar.DOORBELLS]

    # NtbEvents

    def link_event(self) -> None:
        pass

    def db_event(self) -> None:
        rung = self.ntb.db_read()
        self.ntb.db_clear(rung)
        if self._seen is None:
            return
        seen = self._look_at_device()
        if rung & DB_CONTROL and seen != self._seen:
            self._seen = seen
            self.calls.append(0)
        self.calls.extend(queue + 1 for queue in bits(rung & ~DB_CONTROL))

    def _look_at_device(self) -> tuple[int, int]:
        return self.status & Status.NEEDS_RESET, self.ntb.peer_spad_read(Spad.GENERATION)

    # Registers

    def command(self, command: int, argument: int = 0) -> int:
        """Give one; the word that says how it ended."""
        self.sequence += 1
        self.ntb.peer_spad_write(Spad.ARGUMENT, argument)
        self.ntb.peer_spad_write(Spad.COMMAND, emit_command(self.sequence, command))
        self.ntb.peer_db_set(DB_CONTROL)
        return self.ntb.peer_spad_read(Spad.COMMAND_STATUS)

    @property
    def status(self) -> Status:
        return Status(self.ntb.peer_spad_read(Spad.STATUS))

    @status.setter
    def status(self, value: int) -> None:
        self.command(NtbCommand.SET_STATUS, value)

    @property
    def device_features(self) -> int:
        return sum(self.ntb.peer_spad_read(spad) << 32 * at for at, spad in enumerate(VHOST_FEATURES))

    @property
    def driver_features(self) -> int:
        return self.pair.vhost.driver_features

    @driver_features.setter
    def driver_features(self, value: int) -> None:
        for select, spad in enumerate(VIRTIO_FEATURES):
            self.ntb.peer_spad_write(spad, word(value, select))
        self.command(NtbCommand.FINALIZE_FEATURES)

    def config(self, offset: int, size: int) -> int:
        words = (self.ntb.peer_spad_read(Spad.CONFIG + at) for at in range(offset // 4, -(-(offset + size) // 4)))
        whole = b"".join(value.to_bytes(4, "little") for value in words)
        return int.from_bytes(whole[offset % 4 :][:size], "little")

    def kick(self, queue: int, value: int | None = None) -> None:
        self.ntb.peer_db_set(1 << queue if 0 <= queue < MAX_QUEUES else 1 << 29)

    # Queues

    def queue_size(self, queue: int, num: int | None) -> int:
        return self.ntb.peer_spad_read(Spad.NUM_BUFFERS + queue) if num is None else num

    def set_up(self, queue: int, num: int | None = None, *, enable: bool = True) -> RawRing:
        num = self.queue_size(queue, num)
        self.window.clear(self.window.base + queue * self.area.pitch, self.area.pitch)
        ring = RawRing(self.memory, num, self.area.addrs(self.window.base, queue, num))
        self._raw.append(ring)
        self.place(queue, num, ring.addrs)
        if enable:
            self.enable(queue)
        return ring

    def place(self, queue: int, num: int, addrs: RingAddrs) -> None:
        for other in range(MAX_QUEUES):
            self.ntb.peer_spad_write(Spad.QUEUE_NUM + other, num if other == queue else 0)

    def enable(self, queue: int) -> None:
        self.command(NtbCommand.ENABLE_QUEUES)

    def map_vectors(self, queues: int = 2) -> None:
        self._seen = self._look_at_device()

    def let_go(self) -> None:
        self._scope.cancel()
        self.ntb.watch(None)
        self.ntb.peer_spad_write(Spad.VIRTIO_SESSION, 0)
        self.ntb.mw_clear_trans(0)
        self.ntb.link_disable()

    def close(self) -> None:
        super().close()
        self.window.close()
