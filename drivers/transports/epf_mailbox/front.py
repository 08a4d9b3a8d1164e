"""The driver's half: writes registers in plain memory, then rings a doorbell if the endpoint has doorbells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import attrs
import trio

from drivers.bus.model import MatchId
from drivers.bus.virtio import DriverQueue, QueueSpec, VirtioDevice
from drivers.carriers.base import pieces, read_field
from drivers.carriers.pci import FunctionTransport, VirtioPciDriver
from drivers.contracts.hw import NO_VECTOR, PciFunction
from drivers.errors import FeatureMismatch, ProbeError, TransportLost
from drivers.flow.pump import RECHECK
from drivers.memory.vring import Vring
from drivers.transports.epf_mailbox.registers import (
    BAR,
    CONFIG,
    CONFIG_SIZE,
    DEVICE_DOORBELL,
    DOORBELL_BAR,
    DOORBELL_SIZE,
    EXT_MAGIC,
    EXT_SIZE,
    EXT_VERSION,
    MAX_QUEUES,
    MSIX,
    NO_DOORBELL,
    PCI_IDS,
    QUEUE_ENABLED,
    VRING_ALIGN,
    DeviceCommand,
    Ext,
    ExtQueue,
    MailboxOutcome,
    QueueCommand,
    QueueReg,
    Reg,
)
from rings.features import PLATFORM
from rings.formats import RING_FEATURES

__all__ = ["EPF_MAILBOX", "VirtioMailbox"]

TIMEOUT = 1.0
"""Seconds until an unanswered command fails."""
POLL = 0.0005
"""Seconds between two reads of a command's outcome."""
SUBSYSTEM_VENDOR, SUBSYSTEM = 0x2C, 0x2E
ALL_ONES = 0xFF
LOW = (1 << 64) - 1


@attrs.define(eq=False)
class Mailbox:
    """A command word with its outcome, and the driver's state for both."""

    command: tuple[int, int]
    outcome: tuple[int, int]
    sequence_field: tuple[int, int]
    """Extension field for the command's sequence number."""
    completed_field: tuple[int, int]
    """Extension field for the sequence number that the outcome belongs to."""
    doorbell: int
    sequence: int = 0
    last_ring: float = 0.0
    """Time of the last doorbell."""
    pending: bool = False
    """Whether the last command may still get an outcome."""


class VirtioMailbox(FunctionTransport):
    """`drivers.bus.virtio.ConfigOps` over one PCI function. Also handles the function's link events."""

    features = RING_FEATURES | PLATFORM

    def __init__(self, function: PciFunction) -> None:
        """Raises ProbeError for a function without the register block."""
        super().__init__(function)
        if function.bar_size(BAR) < MSIX:
            raise ProbeError(f"{function.name}: no register block in BAR {BAR}")
        self.vendor_id = function.config_read(SUBSYSTEM_VENDOR, 2)
        self.device_id = function.config_read(SUBSYSTEM, 2)
        self.extended = self._has_extension()
        self._doorbells = self._default_doorbells()
        self._mutex = trio.Lock()
        self._mailbox = Mailbox(
            Reg.CMD.value, Reg.CMD_STATUS.value, Ext.SEQUENCE.value, Ext.COMPLETED.value, DEVICE_DOORBELL
        )
        self._queue_mailboxes = [
            Mailbox(QueueReg.CMD.at(i), QueueReg.CMD_STATUS.at(i), ExtQueue.SEQUENCE.at(i), ExtQueue.COMPLETED.at(i), i)
            for i in range(MAX_QUEUES)
        ]

    def _has_extension(self) -> bool:
        magic, version, length = (self._get(field.value) for field in (Ext.MAGIC, Ext.VERSION, Ext.LENGTH))
        return magic == EXT_MAGIC and version >= EXT_VERSION and length >= EXT_SIZE

    def _default_doorbells(self) -> tuple[int, int] | None:
        """Return the default BAR and offset of the doorbells, or None if the endpoint has none.

        They hold until the first reset, because a former driver may have overwritten the registers for them.
        """
        return (DOORBELL_BAR, 0) if self._has_doorbells(DOORBELL_BAR, 0) else None

    def _find_doorbells(self) -> tuple[int, int] | None:
        """Return BAR and offset of the first doorbell, or None if the endpoint polls. Raises ProbeError."""
        bar, offset = self._get(Ext.DOORBELL_BAR.value), self._get(Ext.DOORBELL_OFFSET.value)
        if bar == NO_DOORBELL:
            return None
        if not self._has_doorbells(bar, offset):
            raise ProbeError(f"{self._function.name}: no doorbells at {offset:#x} in BAR {bar}")
        return bar, offset

    def _has_doorbells(self, bar: int, offset: int) -> bool:
        return not offset % DOORBELL_SIZE and offset + DOORBELL_SIZE * (MAX_QUEUES + 1) <= self._function.bar_size(bar)

    def link_down(self) -> None:
        for mailbox in (self._mailbox, *self._queue_mailboxes):
            mailbox.pending = False  # the endpoint dropped the command as well
        super().link_down()

    # Registers

    def _answers(self) -> bool:
        return self._get(Reg.DEVICE_STATUS.value) != ALL_ONES

    def _get(self, place: tuple[int, int]) -> int:
        offset, size = place
        parts = (self._read_twice(BAR, at, step).to_bytes(step, "little") for at, step in pieces(offset, size))
        return int.from_bytes(b"".join(parts), "little")

    def _put(self, place: tuple[int, int], value: int) -> None:
        offset, size = place
        for at, step in pieces(offset, size):
            self._function.bar_write(BAR, at, step, value >> 8 * (at - offset) & (1 << 8 * step) - 1)

    # Commands

    async def _command(self, mailbox: Mailbox, command: int) -> bool:
        """Run a command; return False if the device refused it. Raises TransportLost if there is no outcome in time.

        The outcome must not be that of an earlier command. The extension numbers commands; without it, wait for
        the pending outcome first.
        """
        async with self._mutex:
            with trio.move_on_after(TIMEOUT):
                if mailbox.pending and not self.extended:
                    await self._wait_outcome(mailbox)
                elif mailbox.pending:
                    self._put(mailbox.command, DeviceCommand.NONE)  # withdraw it, if the device has not accepted it
                await self._wait_free(mailbox)
                mailbox.sequence = mailbox.sequence + 1 & 0xFFFF_FFFF
                mailbox.pending = True
                self._put(mailbox.outcome, MailboxOutcome.NONE)
                if self.extended:
                    self._put(mailbox.sequence_field, mailbox.sequence)
                self._put(mailbox.command, command)
                self._ring(mailbox)
                return await self._wait_outcome(mailbox) == MailboxOutcome.OKAY
        raise TransportLost(f"{self._function.name}: no answer to command {command} within {TIMEOUT:g} s")

    async def _wait_free(self, mailbox: Mailbox) -> None:
        """Wait until the command word is free: it may hold a posted NOTIFY whose doorbell was lost."""
        while self._get(mailbox.command) != DeviceCommand.NONE:
            await self._pause(mailbox)

    async def _wait_outcome(self, mailbox: Mailbox) -> int:
        while True:
            outcome = self._get(mailbox.outcome)
            if outcome in (MailboxOutcome.OKAY, MailboxOutcome.ERROR) and self._is_current(mailbox):
                mailbox.pending = False
                self._put(mailbox.outcome, MailboxOutcome.NONE)
                return outcome
            await self._pause(mailbox)

    async def _pause(self, mailbox: Mailbox) -> None:
        """Sleep for one poll interval; first repeat the doorbell of an unaccepted command."""
        self._check()
        if self._get(mailbox.command) != DeviceCommand.NONE and trio.current_time() >= mailbox.last_ring + RECHECK:
            self._ring(mailbox)
        await trio.sleep(POLL)

    def _is_current(self, mailbox: Mailbox) -> bool:
        return not self.extended or self._get(mailbox.completed_field) == mailbox.sequence

    def _check(self) -> None:
        if not self.online or not self._answers():
            raise TransportLost(f"{self._function.name}: the device does not respond")

    def _ring(self, mailbox: Mailbox) -> None:
        mailbox.last_ring = trio.current_time()
        if self._doorbells is not None:
            bar, offset = self._doorbells
            self._function.bar_write(bar, offset + DOORBELL_SIZE * mailbox.doorbell, DOORBELL_SIZE, 1)

    def _kick(self, index: int) -> Callable[[], None]:
        """Return a function that posts NOTIFY.

        It overwrites no other command, because commands run only while the driver makes no buffer available.
        """
        write = self._function.bar_write
        command = partial(write, BAR, *QueueReg.CMD.at(index), QueueCommand.NOTIFY)
        if self._doorbells is None:
            return command
        bar, offset = self._doorbells
        doorbell = partial(write, bar, offset + DOORBELL_SIZE * index, DOORBELL_SIZE, 1)

        def kick() -> None:
            command()
            doorbell()

        return kick

    # ConfigOps

    async def get_status(self) -> int:
        return self._get(Reg.DEVICE_STATUS.value)

    async def set_status(self, status: int) -> None:
        """Set the device status; a bit that the device rejects reads back as 0."""
        self._put(Reg.DEVICE_STATUS.value, status)
        await self._command(self._mailbox, DeviceCommand.SET_STATUS)

    async def _reset(self) -> None:
        self._put(Reg.DEVICE_STATUS.value, 0)
        if not await self._command(self._mailbox, DeviceCommand.RESET) or self._get(Reg.DEVICE_STATUS.value):
            raise TransportLost(f"{self._function.name}: the device did not reset")
        self.extended = self._has_extension()  # the device has rewritten its registers
        self._doorbells = self._find_doorbells() if self.extended else None

    async def get_features(self) -> int:
        value = self._get((Ext.DEVICE_FEATURES if self.extended else Reg.HOST_FEATURES).value)
        if not self.online:
            raise TransportLost(f"{self._function.name}: the link went down")
        return value

    async def finalize_features(self, features: int) -> None:
        self._put(Reg.GUEST_FEATURES.value, features & LOW)
        if self.extended:
            self._put(Ext.DRIVER_FEATURES.value, features)
            self._put(Ext.DRIVER_VERSION.value, EXT_VERSION)
        if not await self._command(self._mailbox, DeviceCommand.FINALIZE_FEATURES):
            raise FeatureMismatch(f"{self._function.name}: the device refused the features {features:#x}")

    async def generation(self) -> int:
        place = (Ext.GENERATION if self.extended else Reg.CONFIG_GENERATION).value
        with trio.move_on_after(TIMEOUT):
            while (value := self._get(place)) & 1:  # the device is changing the configuration
                self._check()
                await trio.sleep(POLL)
            return value
        raise ProbeError(f"{self._function.name}: the configuration was not stable within {TIMEOUT:g} s")

    async def read_config(self, offset: int, size: int) -> bytes:
        self._check_config(offset, size)
        return read_field(partial(self._read_checked, BAR), CONFIG, offset, size)

    async def write_config(self, offset: int, data: bytes) -> None:
        self._check_config(offset, len(data))
        if not self.extended:
            raise ProbeError(f"{self._function.name}: the configuration is read-only without the extension")
        self._put((CONFIG + offset, len(data)), int.from_bytes(data, "little"))
        self._put(Ext.CONFIG_OFFSET.value, offset)
        self._put(Ext.CONFIG_LENGTH.value, len(data))
        await self._command(self._mailbox, DeviceCommand.WRITE_CONFIG)

    def _check_config(self, offset: int, size: int) -> None:
        if offset + size > CONFIG_SIZE:
            raise ProbeError(f"{self._function.name}: no device configuration of {offset + size} bytes")

    async def find_vqs(self, device: VirtioDevice, specs: Sequence[QueueSpec]) -> list[DriverQueue]:
        self._queues = []
        if len(specs) > MAX_QUEUES:
            raise ProbeError(f"{self._function.name}: {MAX_QUEUES} queues, {len(specs)} needed")
        config, vectors = self._share_vectors(device, len(specs))
        if config == NO_VECTOR:
            raise ProbeError(f"{self._function.name}: no MSI-X")
        self._put(Reg.MSIX_CONFIG.value, config)
        for index, (spec, vector) in enumerate(zip(specs, vectors, strict=True)):
            self._set_up(device, index, spec, vector)
        for index, spec in enumerate(specs):
            if not await self._command(self._queue_mailboxes[index], QueueCommand.ACTIVATE):
                raise ProbeError(f"{self._function.name}: {spec.name} can't be activated")
        return self._queues

    def _set_up(self, device: VirtioDevice, index: int, spec: QueueSpec, vector: int) -> None:
        name = f"{self._function.name}, {spec.name}"
        num_max = self._get(QueueReg.NUM_BUFFERS.at(index))
        if not num_max:
            raise ProbeError(f"{name}: does not exist")
        if self._get(QueueReg.STATUS.at(index)) & QUEUE_ENABLED:
            raise ProbeError(f"{name}: already in use")
        # Without the extension the endpoint assumes its largest size, and one contiguous ring.
        num, align = (spec.num, None) if self.extended else (None, VRING_ALIGN)
        vring = self._rings.make(device.features, num_max, num, spec.segments, name, align)
        self._add_queue(DriverQueue(index, spec, vring.ring, self._kick(index)), vector)
        self._put(QueueReg.MSIX_VECTOR.at(index), vector)
        self._put(QueueReg.ADDR.at(index), vring.addrs.desc)
        if self.extended:
            self._put_ring(index, vring)

    def _put_ring(self, index: int, vring: Vring) -> None:
        self._put(ExtQueue.NUM.at(index), vring.num)
        self._put(ExtQueue.DESC.at(index), vring.addrs.desc)
        self._put(ExtQueue.DRIVER.at(index), vring.addrs.driver)
        self._put(ExtQueue.DEVICE.at(index), vring.addrs.device)


ID_TABLE = tuple(MatchId(device, vendor) for vendor, device in PCI_IDS.values())
EPF_MAILBOX = VirtioPciDriver("virtio-epf-mailbox", ID_TABLE, VirtioMailbox)
