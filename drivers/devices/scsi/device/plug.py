"""Settings, logical units and counters of one vhost-scsi device."""

from __future__ import annotations

import attrs

from drivers.devices.scsi.device.domain import ScsiDomain
from drivers.devices.scsi.layout import SUPPORTED
from drivers.devices.scsi.sense import Sense
from drivers.flow.figures import RequestFigures, Traffic

__all__ = ["ScsiPlug"]


@attrs.define(eq=False)
class ScsiPlug:
    """Logical units and settings of one vhost-scsi device, and its counters, which outlive resets."""

    domain: ScsiDomain
    features: int = SUPPORTED
    """Feature bits to offer."""
    queue_size: int = 256
    """Descriptors per ring."""
    queues: int = 1
    """Number of request queues."""
    workers: int = 4
    """Maximum number of commands that block at the same time."""
    max_target: int = 255
    figures: list[RequestFigures] = attrs.field(init=False)
    """Counters per request queue. A CHECK CONDITION counts as done unless an error of the store is its cause."""
    control: RequestFigures = attrs.field(init=False, factory=RequestFigures)
    events: Traffic = attrs.field(init=False, factory=Traffic)
    checks: dict[str, int] = attrs.field(init=False, factory=dict)
    """Number of CHECK CONDITIONs per sense key and additional sense code."""

    @figures.default
    def _figures(self) -> list[RequestFigures]:
        return [RequestFigures() for _ in range(self.queues)]

    def count_check(self, sense: Sense) -> None:
        """Count a CHECK CONDITION with this sense."""
        name = str(sense)
        self.checks[name] = self.checks.get(name, 0) + 1
