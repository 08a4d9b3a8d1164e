"""virtio-scsi: the driver, between its virtqueues and an initiator."""

from __future__ import annotations

from functools import partial

import attrs
import trio

from drivers.bus.virtio import QueueSpec, VirtioBound, VirtioDevice
from drivers.devices.scsi.driver.initiator import Initiator
from drivers.devices.scsi.driver.queues import (
    EVENTS,
    SLOT,
    LunBudget,
    VirtioScsiEventFlow,
    VirtioScsiRequestFlow,
)
from drivers.devices.scsi.layout import (
    CDB_SIZE,
    EVENT,
    NOTIFICATION,
    NOTIFICATION_ANSWER,
    SENSE_SIZE,
    SUPPORTED,
    TMF,
    ScsiConfig,
    ScsiConfigField,
)
from drivers.errors import ProbeError
from drivers.flow.pump import pump
from drivers.memory.buffers import block_memory
from drivers.memory.pool import page_bytes
from drivers.memory.vring import ring_memory
from drivers.questions.ask import QUESTION_SEGMENTS, QuestionFlow, question_memory
from drivers.storage.bounce import LARGE
from rings.features import RingFeature

__all__ = ["MIN_NUM", "BoundVirtioScsi", "ScsiSettings", "host_memory"]

TRANSFER = 4 << 20
"""Maximum bytes of data of one request."""
SEGMENTS = TRANSFER // LARGE
"""Maximum number of data segments of one request."""
EVENT_SIZE_MAX = 4096
"""Largest event size, in bytes, that the driver accepts."""
QUESTION, ANSWER = max(TMF.size, NOTIFICATION.size), NOTIFICATION_ANSWER.size
"""Maximum bytes of a control request and of its answer."""
MIN_NUM = 4
"""Descriptors of the smallest request ring with room for header, response and some data."""


def segments_of(most: int) -> int:
    """Return the number of data segments of the largest request, for a device that takes ``most``."""
    return min(max(1, most), SEGMENTS)


def host_memory(num: int, queues: int, buffers: int) -> int:
    """Return the maximum bytes of host memory that the driver allocates, with ``queues`` request queues."""
    control = ring_memory(num, QUESTION_SEGMENTS) + question_memory(num, question=QUESTION, answer=ANSWER)
    events = ring_memory(num) + block_memory(min(EVENTS, num), EVENT_SIZE_MAX)
    requests = ring_memory(num, 2 + SEGMENTS) + block_memory(num, SLOT)
    return page_bytes(buffers) + control + events + queues * requests


@attrs.define(eq=False)
class ScsiSettings:
    """Initiator and settings of the driver for one virtio-scsi device."""

    initiator: Initiator
    features: int = SUPPORTED
    """Feature bits to accept if offered."""
    queue_size: int | None = None
    """Maximum ring size in descriptors; None for the device's."""


class BoundVirtioScsi(VirtioBound[ScsiSettings]):
    """One live virtio-scsi device. The fields in use do not change: a device that changes them requests a reset."""

    _config: ScsiConfig

    def __init__(self, device: VirtioDevice, settings: ScsiSettings) -> None:
        super().__init__(device, settings)
        self._initiator = settings.initiator
        self._segments = 0
        self._flows: list[VirtioScsiRequestFlow] = []
        self._control: QuestionFlow | None = None
        self._events: VirtioScsiEventFlow | None = None

    async def set_up(self) -> None:
        device, initiator = self.device, self._initiator
        self._config = config = await read_config(device)
        dma = device.ops.dma
        initiator.attach(dma)
        num = self.settings.queue_size
        segments = segments_of(config.seg_max)
        names = [f"requestq{i + 1}" for i in range(min(config.num_queues, len(initiator.figures)))]
        specs = [QueueSpec("controlq", num, segments=QUESTION_SEGMENTS), QueueSpec("eventq", num)]
        specs += [QueueSpec(name, num, segments=2 + segments) for name in names]
        control, events, *queues = await device.find_vqs(specs)
        smallest = min(queue.ring.num for queue in queues)
        if smallest < MIN_NUM or control.ring.num < 2:
            raise ProbeError(f"{device.name}: no request fits a queue of {min(smallest, control.ring.num)} descriptors")
        self._segments = min(segments, smallest - 2)
        budget = LunBudget(min(max(1, config.cmd_per_lun), smallest))
        indirect = device.has(RingFeature.INDIRECT_DESC)
        self._control = QuestionFlow(control, dma, question=QUESTION, answer=ANSWER, figures=initiator.control_figures)
        self._events = VirtioScsiEventFlow(events, dma, max(EVENT.size, config.event_info_size), initiator)
        self._events.post()
        for queue, figures in zip(queues, initiator.figures, strict=False):
            flow = VirtioScsiRequestFlow(queue, initiator, budget, dma, indirect=indirect, figures=figures)
            self._flows.append(flow)

    async def run(self) -> None:
        control, events = self._control, self._events
        assert control is not None and events is not None  # noqa: PT018
        async with trio.open_nursery() as nursery:
            self._initiator.come_up(self._config, list(self._flows), control, self._segments)
            for flow in (control, events, *self._flows):
                nursery.start_soon(partial(pump, in_place=True), flow)

    def close(self) -> None:
        self._initiator.device_down([request for flow in self._flows for request in flow.unanswered()])
        for flow in (*self._flows, self._control, self._events):
            if flow is not None:
                flow.close()
        self._flows.clear()
        self._control = self._events = None


async def read_config(device: VirtioDevice) -> ScsiConfig:
    """Read the configuration and set the driver's sizes. Raises ProbeError for values no SCSI host can have."""
    config = ScsiConfig(**{field.name.lower(): await device.read_field(field) for field in ScsiConfigField})
    if not config.num_queues:
        raise ProbeError(f"{device.name}: the device reports no request queues")
    if config.event_info_size > EVENT_SIZE_MAX:
        raise ProbeError(f"{device.name}: the device reports events of {config.event_info_size} bytes")
    for field, now, wanted in (
        (ScsiConfigField.SENSE_SIZE, config.sense_size, SENSE_SIZE),
        (ScsiConfigField.CDB_SIZE, config.cdb_size, CDB_SIZE),
    ):
        if now == wanted:
            continue
        offset, size = field.value
        await device.ops.write_config(offset, wanted.to_bytes(size, "little"))
        if await device.read_field(field) != wanted:
            raise ProbeError(f"{device.name}: the device insists on a {field.name.lower()} of {now}, not {wanted}")
    return attrs.evolve(config, sense_size=SENSE_SIZE, cdb_size=CDB_SIZE, max_target=min(config.max_target, 255))
