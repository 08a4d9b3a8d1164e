"""The vhost side: publishes a device in its scratchpads and accesses the driver's memory through the window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from drivers.bus.back import Identity, VhostBack
from drivers.bus.binding import Binding
from drivers.bus.model import MatchId
from drivers.bus.vhost import DeviceQueue
from drivers.bus.virtio import VirtioBus
from drivers.carriers.ntb import NtbBus, NtbDevice
from drivers.contracts.hw import Toll
from drivers.errors import ProbeError
from drivers.flow.pump import QueueEnd
from drivers.transports.ntb.end import NtbEnd
from drivers.transports.ntb.registers import (
    FEATURE_WORDS,
    MAX_QUEUES,
    VIRTIO_FEATURES,
    Answer,
    NtbCommand,
    NtbOutcome,
    NtbRefused,
    NtbSide,
    Offer,
    RingArea,
    Spad,
    config_words,
    emit_command,
    parse_command,
    spad_names,
)
from rings.errors import MemoryFault
from rings.features import PLATFORM
from rings.formats import ring_format
from rings.ids import ANY_ID
from rings.memory import Addr, Memory
from rings.status import Status

__all__ = ["NtbVhost"]

VHOST_ALIGN = 64
"""Least alignment of the used ring in bytes, one cache line; the virtio side may choose a larger one."""
CLEARED = (
    # The scratchpads in this side's bank that the virtio side writes: a new session starts with zeroes.
    Spad.TYPE,
    Spad.VIRTIO_SESSION,
    Spad.VIRTIO_VERSION,
    Spad.COMMAND,
    *VIRTIO_FEATURES,
    *range(Spad.QUEUE_NUM, Spad.QUEUE_NUM + MAX_QUEUES),
)


class NtbVhost(NtbEnd, VhostBack):
    """The device's half over the NTB at ``location``."""

    name = "ntb_vhost"
    id_table = (MatchId(ANY_ID),)
    extra_features = PLATFORM

    def __init__(self, bus: NtbBus, location: str, identity: Identity) -> None:
        NtbEnd.__init__(self)
        VhostBack.__init__(self, identity)
        self._bus = bus
        self._location = location
        self._bound = False
        self._offer: Offer | None = None
        self._answer: Answer | None = None
        self._memory: Memory | None = None
        self._toll: Toll | None = None
        self._last_session = 0
        self._generation = 0
        self._sequence = 0
        """Sequence number of the last command."""
        self._resetting: int | None = None
        """Sequence number of the command that completes when the device has stopped."""
        self._config_words: dict[int, int] = {}
        self._last_refusal = ""

    # VhostBack

    def bind(self) -> None:
        """Offer the device to virtio sides."""
        if not self._bound:
            self._bound = True
            self._bus.register_driver(self)

    def unbind(self) -> None:
        self._bound = False
        self.end()

    def registers(self) -> dict[str, int]:
        """Return this side's scratchpads by name, and of CONFIG as many as the device has configuration."""
        if self._ntb is None:
            return {}
        end = Spad.CONFIG + len(self._config_words)
        names = ((spad, name) for spad, name in spad_names().items() if not end <= spad < Spad.MAGIC)
        return {name.lower(): self._ntb.spads.get(spad, 0) for spad, name in names}

    # NtbClient

    def wants(self, ntb: NtbDevice) -> bool:
        return self._bound and ntb.name == self._location

    async def attach(self, binding: Binding[NtbDevice, Any], carrier: NtbDevice, virtio: VirtioBus) -> None:
        self._ntb = carrier
        try:
            binding.bound()
            await self.run()
        except ProbeError as exc:
            self.device.failures.append(str(exc))
            raise
        finally:
            self.stop()
            self._ntb = None

    # VhostOps

    def memory(self) -> Memory:
        if self._memory is None:
            raise MemoryFault(0, 0, write=False, reason=f"{self._location}: no window is mapped")
        return self._memory

    def call(self, queue: DeviceQueue) -> None:
        if self._memory is not None:
            self.ntb.peer_db_set(1 << queue.index)

    def config_changed(self) -> None:
        if self._memory is not None:
            self.ring_control()

    async def settle(self) -> None:
        if self._toll is not None:
            await self._toll.settle()

    # NtbEnd

    def queue_ends(self) -> Sequence[QueueEnd]:
        return self.device.queues

    def queue_event(self, queue: int) -> None:
        self.device.kick(queue)

    def control_event(self) -> None:
        """Run a command at once, as a doorbell handler would; leave other changes to `run`."""
        if self.peer_joined and self.ntb.spad_read(Spad.VIRTIO_SESSION) == self.session:
            self._run_command()
        super().control_event()

    async def handle_scratchpads(self) -> None:
        ready = self._bound and self.device.ready.is_set()
        if not ready or not self.link_valid():
            self.end()
        if ready and self.ntb.link_is_up:
            try:
                self._step()
            except NtbRefused as exc:
                self._refuse(str(exc))

    def end(self, fault: str = "") -> None:
        if not self.session:
            return
        if fault:
            self.device.failures.append(f"session {self.session}: {fault}")
        self.session, self.peer_joined, self._memory, self._resetting = 0, False, None, None
        self.ntb.spad_write(Spad.READY, 0)
        self.device.reset()
        self.ring_control()
        self._wakeup.set()

    def _step(self) -> None:
        """Do the next step towards a session, or run a command. Raises NtbRefused."""
        if self.session and self.peer_joined and self.ntb.spad_read(Spad.VIRTIO_SESSION) != self.session:
            self.end()
        if not self.session:
            # Wait until the device has stopped: it may still access memory of the last session.
            if not self.device.status:
                self._publish()
            elif not self.device.running:
                self.device.reset()
        elif not self.peer_joined:
            self._take_answer()
        else:
            self._run_command()

    def _publish(self) -> None:
        ntb, device = self.ntb, self.device
        words = config_words(device.config)
        if not 1 <= len(device.queues) <= MAX_QUEUES:
            raise NtbRefused(f"a device of {len(device.queues)} queues; an NTB supports 1 to {MAX_QUEUES}")
        last = self._last_session or ntb.spad_read(Spad.SESSION)
        self._last_session = last + 1 & 0xFFFF_FFFF or 1
        self._offer = Offer(
            session=self._last_session,
            vendor_id=device.vendor_id,
            device_id=device.device_id,
            features=device.device_features,
            mw_size=ntb.mw_get_align(0).size_max,
            nums=tuple(queue.max_num for queue in device.queues),
            config_bytes=len(device.config),
            align=VHOST_ALIGN,
        )
        self._sequence, self._resetting = 0, None
        self._generation = self._generation + 2 & 0xFFFF_FFFE
        # The session number is written last: it validates the other words.
        self._write(Spad.SESSION, 0)
        for spad in CLEARED:
            self._write(spad, 0)
        first = {Spad.STATUS: 0, Spad.COMMAND_STATUS: 0, Spad.READY: 0, Spad.GENERATION: self._generation, **words}
        for spad, value in {**first, **self._offer.emit()}.items():
            self._write(spad, value)
        self._config_words = words
        self.begin(self._last_session)
        self._announce()

    def _announce(self) -> None:
        """Announce the offer to the virtio side."""
        self.ntb.peer_spad_write(Spad.TYPE, NtbSide.VHOST)
        self.ring_control()

    def _take_answer(self) -> None:
        ntb, offer = self.ntb, self._offer
        assert offer is not None
        joined, session = ntb.spad_read(Spad.TYPE) == NtbSide.VIRTIO, ntb.spad_read(Spad.VIRTIO_SESSION)
        if joined and not session:
            self.end()  # the virtio side left this session and never rejoins it: start another
            return
        if not joined or session != offer.session:
            self._announce()  # repeated on every beat, because the virtio side may start later
            return
        answer = Answer.parse(ntb.spad_read, offer)
        try:
            memory = ntb.peer_mw(0, answer.mw_addr, offer.mw_size)
            for at in (answer.mw_addr, answer.mw_addr + offer.mw_size - 1):
                memory.view(Addr(at), 1, True)
        except MemoryFault as fault:
            raise NtbRefused(f"the virtio side's window can't be accessed: {fault}") from None
        self._answer, self._memory, self._last_refusal = answer, memory, ""
        self.meter = self._toll = ntb.peer_mw_toll(0)
        self.mark_joined()
        self.changed()
        self._write(Spad.READY, self.session)
        self.ring_control()

    def _refuse(self, why: str) -> None:
        if why != self._last_refusal:
            self._last_refusal = why
            self.device.failures.append(why)

    # Commands

    def _run_command(self) -> None:
        """Run the command in the scratchpad, once per sequence number."""
        sequence, code = parse_command(self.ntb.spad_read(Spad.COMMAND))
        if not code or sequence == self._sequence:
            return
        self._sequence, self._resetting = sequence, None
        self._write(Spad.COMMAND_STATUS, 0)
        run = self._COMMANDS.get(code)
        success = run(self, self.ntb.spad_read(Spad.ARGUMENT)) if run is not None else False
        if success is not None:
            self._complete(sequence, NtbOutcome.OK if success else NtbOutcome.ERROR)

    def _complete(self, sequence: int, outcome: NtbOutcome) -> None:
        self._write(Spad.COMMAND_STATUS, emit_command(sequence, outcome))
        self.ring_control()

    def _set_status(self, status: int) -> bool | None:
        if status & 0xFF:
            self.device.write_status(status & 0xFF)
            self._write(Spad.STATUS, self.device.status)
            return True
        self._resetting = self._sequence
        self.device.write_status(0)
        return None

    def _finalize_features(self, _: int) -> bool:
        for select in range(FEATURE_WORDS):
            self.device.write_driver_features(select, self.ntb.spad_read(VIRTIO_FEATURES[select]))
        return True

    def _enable_queues(self, _: int) -> bool:
        offer, answer, device = self._offer, self._answer, self.device
        assert offer is not None
        assert answer is not None
        area = RingArea(offer.nums, answer.align)
        for index in range(len(offer.nums)):
            num = self.ntb.spad_read(Spad.QUEUE_NUM + index)
            queue = device.idle_queue(index)
            if not num:
                continue
            if queue is None:
                return False
            queue.resize(num)
            if queue.num != num:
                return False
            queue.addrs = area.addrs(answer.mw_addr, index, num, ring_format(device.features))
            if not device.enable_queue(index):
                return False
        return True

    def _write_config(self, argument: int) -> bool:
        offset, size = argument & 0xFFFF, argument >> 16
        if not 1 <= size <= 4 or offset + size > len(self.device.config):
            return False
        self.device.write_config(offset, self.ntb.spad_read(Spad.DATA).to_bytes(4, "little")[:size])
        return True

    _COMMANDS: ClassVar[Mapping[int, Callable[[NtbVhost, int], bool | None]]] = {
        NtbCommand.SET_STATUS: _set_status,
        NtbCommand.FINALIZE_FEATURES: _finalize_features,
        NtbCommand.RESET: lambda self, _: self._set_status(0),
        NtbCommand.ENABLE_QUEUES: _enable_queues,
        NtbCommand.WRITE_CONFIG: _write_config,
    }
    """Handlers by command: they return whether the command succeeded, or None if it is not complete yet."""

    # Device events

    def status_changed(self, status: Status) -> None:
        if self._memory is not None:
            self._write(Spad.STATUS, status)
            if not status and self._resetting is not None:
                sequence, self._resetting = self._resetting, None
                self._complete(sequence, NtbOutcome.OK)
        if not status and self._ntb is not None:
            self._wakeup.set()

    def changed(self) -> None:
        """Publish configuration and status. A driver that reads mixed words sees the generation change."""
        if self._memory is not None and self.device.ready.is_set():
            self._write(Spad.STATUS, self.device.status)
            words = config_words(self.device.config[: 4 * len(self._config_words)])
            if words != self._config_words:
                self._write(Spad.GENERATION, self._generation | 1)
                for spad, value in words.items():
                    self._write(spad, value)
                self._generation = self._generation + 2 & 0xFFFF_FFFE
                self._write(Spad.GENERATION, self._generation)
                self._config_words = words
        if self._ntb is not None:
            self._wakeup.set()

    def _write(self, spad: int, value: int) -> None:
        self.ntb.spad_write(spad, value)
