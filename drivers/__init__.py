"""Buses, device types and transports: both sides of a virtio device, over hardware passed in by the caller.

The names below are the package's public interface; each is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rings.lazy import lazy_names

if TYPE_CHECKING:
    from drivers.built_in_transports import BUILT_IN_TRANSPORTS
    from drivers.bus.back import Identity, VhostBack
    from drivers.bus.vhost import VhostBound, VhostBus, VhostDevice
    from drivers.bus.virtio import VirtioBound, VirtioBus, VirtioDevice
    from drivers.carriers.options import TransportOptions
    from drivers.carriers.transport import (
        LinkTransport,
        NtbTransport,
        PlatformTransport,
        SocketTransport,
        Transport,
    )
    from drivers.device_type import DeviceType, Side
    from drivers.devices.blk import Disk
    from drivers.devices.rpmsg import Endpoint, RpmsgBus
    from drivers.devices.scsi import Initiator
    from drivers.errors import (
        DriverError,
        FeatureMismatch,
        NeedsReset,
        PortGone,
        ProbeDeferred,
        ProbeError,
        TransportLost,
    )
    from drivers.questions.answer import AnswerFlow
    from drivers.questions.ask import QuestionFlow

__all__ = [
    "BUILT_IN_TRANSPORTS",
    "AnswerFlow",
    "DeviceType",
    "Disk",
    "DriverError",
    "Endpoint",
    "FeatureMismatch",
    "Identity",
    "Initiator",
    "LinkTransport",
    "NeedsReset",
    "NtbTransport",
    "PlatformTransport",
    "PortGone",
    "ProbeDeferred",
    "ProbeError",
    "QuestionFlow",
    "RpmsgBus",
    "Side",
    "SocketTransport",
    "Transport",
    "TransportLost",
    "TransportOptions",
    "VhostBack",
    "VhostBound",
    "VhostBus",
    "VhostDevice",
    "VirtioBound",
    "VirtioBus",
    "VirtioDevice",
]

_HOMES: Mapping[str, str] = {
    "BUILT_IN_TRANSPORTS": "drivers.built_in_transports",
    "AnswerFlow": "drivers.questions.answer",
    "DeviceType": "drivers.device_type",
    "Disk": "drivers.devices.blk",
    "DriverError": "drivers.errors",
    "Endpoint": "drivers.devices.rpmsg",
    "FeatureMismatch": "drivers.errors",
    "Identity": "drivers.bus.back",
    "Initiator": "drivers.devices.scsi",
    "LinkTransport": "drivers.carriers.transport",
    "NeedsReset": "drivers.errors",
    "NtbTransport": "drivers.carriers.transport",
    "PlatformTransport": "drivers.carriers.transport",
    "PortGone": "drivers.errors",
    "ProbeDeferred": "drivers.errors",
    "ProbeError": "drivers.errors",
    "QuestionFlow": "drivers.questions.ask",
    "RpmsgBus": "drivers.devices.rpmsg",
    "Side": "drivers.device_type",
    "SocketTransport": "drivers.carriers.transport",
    "Transport": "drivers.carriers.transport",
    "TransportLost": "drivers.errors",
    "TransportOptions": "drivers.carriers.options",
    "VhostBack": "drivers.bus.back",
    "VhostBound": "drivers.bus.vhost",
    "VhostBus": "drivers.bus.vhost",
    "VhostDevice": "drivers.bus.vhost",
    "VirtioBound": "drivers.bus.virtio",
    "VirtioBus": "drivers.bus.virtio",
    "VirtioDevice": "drivers.bus.virtio",
}

__getattr__ = lazy_names(__name__, _HOMES)
