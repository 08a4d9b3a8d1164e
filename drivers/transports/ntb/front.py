"""The virtio side: allocates the window, and implements the virtio bus's operations on the vhost side's scratchpads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs
import trio

from drivers.bus.binding import Binding
from drivers.bus.model import MatchId
from drivers.bus.virtio import CONFIG_TRIES, NO_ANSWER, DriverQueue, QueueSpec, VirtioBus, VirtioDevice
from drivers.carriers.ntb import NtbDevice
from drivers.carriers.ntb_registers import NtbTopology
from drivers.errors import ProbeError, TransportLost
from drivers.flow.pump import QueueEnd, Signal
from drivers.memory.vring import VringMemory
from drivers.transports.ntb.end import NtbEnd
from drivers.transports.ntb.registers import (
    MAX_QUEUES,
    VHOST_FEATURES,
    VIRTIO_FEATURES,
    Answer,
    NtbCommand,
    NtbOutcome,
    NtbRefused,
    NtbSide,
    Offer,
    RingArea,
    Spad,
    emit_command,
    parse_command,
)
from drivers.transports.ntb.window import WindowDma
from rings.features import PLATFORM, word
from rings.formats import RING_FEATURES, RingFormat, ring_format
from rings.ids import ANY_ID
from rings.layout import RingAddrs
from rings.status import Status

__all__ = ["NTB_VIRTIO", "NtbVirtio", "NtbVirtioDriver"]

COMMAND_TIMEOUT = 1.0
"""Seconds until an unanswered command fails."""
CONFIG_PAUSE = 0.001
"""Seconds between two reads of an odd configuration generation."""
SEQUENCES = 0xFF_FFFF


@attrs.frozen
class NtbVirtioDriver:
    """Driver of an NTB's secondary end: makes a virtio device of the vhost side's offer."""

    name: str = "ntb_virtio"
    id_table: Sequence[MatchId] = (MatchId(ANY_ID),)
    align: int = 4096
    """Alignment of the used rings in bytes, unless the vhost side asks for a larger one."""

    def wants(self, ntb: NtbDevice) -> bool:
        return ntb.topology is NtbTopology.SECONDARY

    async def attach(self, binding: Binding[NtbDevice, Any], carrier: NtbDevice, virtio: VirtioBus) -> None:
        front = NtbVirtio(carrier, virtio, self.align, binding.note)
        binding.bound()
        try:
            await front.run()
        finally:
            with trio.CancelScope(shield=True):
                await front.leave()


class NtbVirtio(NtbEnd):
    """`drivers.bus.virtio.ConfigOps` over an NTB. The device appears with the first session."""

    features = RING_FEATURES | PLATFORM

    def __init__(self, ntb: NtbDevice, virtio: VirtioBus, align: int, refuse: Callable[[str], None]) -> None:
        super().__init__(ntb)
        self._virtio = virtio
        self._align = align
        self._refuse = refuse
        self.dma = WindowDma(ntb.dma)
        self.online = False
        self._device: VirtioDevice | None = None
        self._offer: Offer | None = None
        self._area = RingArea((), align)
        self._last_session = 0
        """The last session; it must not begin again."""
        self._rings = VringMemory(self.dma)
        self._queues: list[DriverQueue] = []
        self._commanding = trio.Lock()
        self._completed = Signal()
        self._sequence = 0
        self._online = Signal()
        self._device_state = (0, 0)

    async def leave(self) -> None:
        """Remove the device from its bus while the vhost side can still handle the reset, then end the session."""
        if self._device is not None:
            await self._virtio.discard_device(self._device)
        self.stop()
        self.dma.close()

    # NtbEnd

    def queue_ends(self) -> Sequence[QueueEnd]:
        return self._queues

    def queue_event(self, queue: int) -> None:
        if queue < len(self._queues):
            self._queues[queue].on_call()

    def control_event(self) -> None:
        self._completed.set()
        super().control_event()

    async def handle_scratchpads(self) -> None:
        if not self.link_valid():
            self.end()
        if not self.ntb.link_is_up:
            return
        ready = self.session and self.ntb.peer_spad_read(Spad.READY) == self.session
        if self.session and (self.ntb.peer_spad_read(Spad.SESSION) != self.session or (self.online and not ready)):
            self.end()  # the vhost side left the session or restarted
        if not self.session:
            try:
                self._take_offer()
            except NtbRefused as exc:
                self._refuse(str(exc))
            except TransportLost:
                pass  # the link went down: its event follows
        elif self.online:
            self._completed.set()  # wakes `_command`, whose doorbell may have been lost
            self._report_changes()
        elif ready:
            await self._go_online()

    def end(self, fault: str = "") -> None:
        if not self.session:
            return
        if fault and self._device is not None:
            self._device.failures.append(f"session {self.session}: {fault}")
        self._last_session, self.session, self.online, self.peer_joined = self.session, 0, False, False
        self.ntb.peer_spad_write(Spad.VIRTIO_SESSION, 0)
        self.ntb.mw_clear_trans(0)
        for queue in self._queues:
            queue.live = False  # no more transfers after the session
        if self._device is not None:
            self._device.changed.set()
        self._completed.set()
        self._wakeup.set()
        self.ring_control()

    def _take_offer(self) -> None:
        """Answer the vhost side's offer. Raises NtbRefused, and TransportLost if the link fails."""
        ntb = self.ntb
        if ntb.spad_read(Spad.TYPE) != NtbSide.VHOST:
            return
        offer = Offer.parse(ntb.peer_spad_read)
        if offer.session in (0, self._last_session):
            return
        limits = ntb.mw_get_align(0)
        align = max(self._align, offer.align)
        area = RingArea(offer.nums, align)
        if offer.mw_size > limits.size_max or offer.mw_size % limits.size_align:
            raise NtbRefused(f"the vhost side wants a window of {offer.mw_size} bytes; this side has {limits.size_max}")
        if offer.mw_size <= area.buffer_offset:
            raise NtbRefused(
                f"a window of {offer.mw_size} bytes has no room behind {area.buffer_offset} bytes of rings"
            )
        try:
            if not self.dma.open(offer.mw_size, area.buffer_offset, max(limits.addr_align, align)):
                return  # buffers of the last session are still allocated
            ntb.mw_set_trans(0, self.dma.base, offer.mw_size)
        except (MemoryError, ValueError) as exc:
            raise NtbRefused(f"no window of {offer.mw_size} bytes: {exc}") from None
        self._offer, self._area, self._sequence = offer, area, 0
        self.begin(offer.session)
        self.mark_joined()
        for spad, value in Answer(offer.session, self.dma.base, align, area.buffer_offset).emit().items():
            ntb.peer_spad_write(spad, value)
        ntb.peer_spad_write(Spad.TYPE, NtbSide.VIRTIO)
        self.ring_control()

    async def _go_online(self) -> None:
        """Bring the device up: the vhost side has mapped the window."""
        offer = self._offer
        assert offer is not None
        ids = offer.device_id, offer.vendor_id
        if self._device is not None and ids != (self._device.device_id, self._device.vendor_id):
            device, self._device = self._device, None
            with trio.CancelScope(shield=True):  # it uses the window, which `leave` releases
                await self._virtio.discard_device(device)
        if not self.session:
            return  # the session ended meanwhile
        self._refuse("")
        self.online = True
        self._device_state = self._read_device_state()
        self._online.set()
        if self._device is None:
            self._device = VirtioDevice(*ids, self, self.ntb.name, self._virtio.events.driver(self.ntb.name))
        self._virtio.renew_device(self._device)  # another device, or a restarted vhost side

    def _report_changes(self) -> None:
        """Interrupt the driver, after DRIVER_OK, if the vhost side changed status or configuration."""
        if self._device is not None and self._device.status & Status.DRIVER_OK:
            state = self._read_device_state()
            if state != self._device_state:
                self._device_state = state
                self._device.interrupt()

    def _read_device_state(self) -> tuple[int, int]:
        status = self.ntb.peer_spad_read(Spad.STATUS)
        return status & (Status.NEEDS_RESET | Status.DRIVER_OK), self.ntb.peer_spad_read(Spad.GENERATION)

    # ConfigOps

    async def wait_online(self) -> None:
        while not self.online:
            await self._online.wait()

    async def get_status(self) -> int:
        return self.ntb.peer_spad_read(Spad.STATUS) & 0xFF if self.online else NO_ANSWER

    async def set_status(self, status: int) -> None:
        await self._command(NtbCommand.SET_STATUS, status)

    async def reset(self) -> None:
        """Reset the device. If it does not stop, end the session, which revokes its access to memory."""
        try:
            await self._command(NtbCommand.SET_STATUS, 0)
            if self.ntb.peer_spad_read(Spad.STATUS):
                raise TransportLost(f"{self.ntb.name}: the device's status is not 0 after a reset")
        except TransportLost:
            self.end()
            raise

    async def get_features(self) -> int:
        self._check_online()
        return sum(self.ntb.peer_spad_read(spad) << 32 * at for at, spad in enumerate(VHOST_FEATURES))

    async def finalize_features(self, features: int) -> None:
        for select, spad in enumerate(VIRTIO_FEATURES):
            self.ntb.peer_spad_write(spad, word(features, select))
        await self._command(NtbCommand.FINALIZE_FEATURES)

    async def generation(self) -> int:
        """Return the configuration generation; wait while it is odd, which means that the device is writing words."""
        for _ in range(CONFIG_TRIES):
            self._check_online()
            generation = self.ntb.peer_spad_read(Spad.GENERATION)
            if not generation & 1:
                return generation
            await trio.sleep(CONFIG_PAUSE)
        raise TransportLost(f"{self.ntb.name}: the configuration generation stays odd")

    async def read_config(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes, from the words of the vhost side's bank that cover them."""
        self._check_config(offset, size)
        first, last = offset // 4, -(-(offset + size) // 4)
        words = (self.ntb.peer_spad_read(Spad.CONFIG + at).to_bytes(4, "little") for at in range(first, last))
        return b"".join(words)[offset - 4 * first :][:size]

    async def write_config(self, offset: int, data: bytes) -> None:
        self._check_config(offset, len(data))
        for at in range(0, len(data), 4):
            part = data[at : at + 4]
            await self._command(NtbCommand.WRITE_CONFIG, offset + at | len(part) << 16, int.from_bytes(part, "little"))

    def _check_config(self, offset: int, size: int) -> None:
        self._check_online()
        if self._offer is None or offset < 0 or offset + size > self._offer.config_bytes:
            raise ProbeError(f"{self.ntb.name}: no device configuration of {offset + size} bytes")

    def _check_online(self) -> None:
        if not self.online:
            raise TransportLost(f"{self.ntb.name}: offline")

    async def _command(self, command: NtbCommand, argument: int = 0, data: int = 0) -> None:
        """Run one command at a time. Only an outcome with the command's sequence number counts, because an earlier one
        may arrive late.

        Raises ProbeError if the command fails, TransportLost if there is no outcome in time.
        """
        async with self._commanding:
            self._check_online()
            ntb, session = self.ntb, self.session
            self._sequence = self._sequence % SEQUENCES + 1
            ntb.peer_spad_write(Spad.ARGUMENT, argument)
            ntb.peer_spad_write(Spad.DATA, data)
            ntb.peer_spad_write(Spad.COMMAND, emit_command(self._sequence, command))
            self.ring_control()
            with trio.move_on_after(COMMAND_TIMEOUT):
                while True:
                    sequence, outcome = parse_command(ntb.peer_spad_read(Spad.COMMAND_STATUS))
                    if session != self.session or not self.online:
                        raise TransportLost(f"{ntb.name}: the session ended during {command.name}")
                    if sequence == self._sequence and outcome:
                        break
                    await self._completed.wait()
                if outcome != NtbOutcome.OK:
                    raise ProbeError(f"{ntb.name}: the vhost side refused {command.name} {argument:#x}")
                return
            raise TransportLost(f"{ntb.name}: no answer to {command.name} within {COMMAND_TIMEOUT:g} s")

    # Queues

    async def find_vqs(self, device: VirtioDevice, specs: Sequence[QueueSpec]) -> list[DriverQueue]:
        assert self._offer is not None
        nums = self._offer.nums
        if len(nums) < len(specs):
            raise ProbeError(f"{self.ntb.name}: {len(nums)} queues, {len(specs)} needed")
        self._queues = []
        for index, spec in enumerate(specs):
            name, place = f"{self.ntb.name}, {spec.name}", partial(self._place, index, ring_format(device.features))
            vring = self._rings.make(device.features, nums[index], spec.num, spec.segments, name, place=place)
            self._queues.append(DriverQueue(index, spec, vring.ring, partial(self.ntb.peer_db_set, 1 << index)))
        used = [queue.ring.num for queue in self._queues]
        for index, num in enumerate((*used, *(0 for _ in range(MAX_QUEUES - len(used))))):
            self.ntb.peer_spad_write(Spad.QUEUE_NUM + index, num)
        await self._command(NtbCommand.ENABLE_QUEUES)
        return self._queues

    def _place(self, index: int, form: RingFormat, num: int) -> RingAddrs:
        """Return the addresses of the queue's ring in the window, after clearing them."""
        self.dma.clear(self.dma.base + index * self._area.pitch, self._area.pitch)
        return self._area.addrs(self.dma.base, index, num, form)

    def del_vqs(self) -> None:
        for queue in self._queues:
            queue.close()
        self._queues = []
        self._rings.free()


NTB_VIRTIO = NtbVirtioDriver()
