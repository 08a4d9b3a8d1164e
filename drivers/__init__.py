"""Buses, device types and transports: both sides of a virtio device, over hardware passed in by the caller.

The names below are the package's public interface; each is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    from drivers.virtio_type import Side, VirtioType

__all__ = [
    "BUILT_IN_TRANSPORTS",
    "AnswerFlow",
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
    "VirtioType",
]

_NAMES: Mapping[str, Sequence[str]] = {
    "drivers.built_in_transports": ("BUILT_IN_TRANSPORTS",),
    "drivers.bus.back": ("Identity", "VhostBack"),
    "drivers.bus.vhost": ("VhostBound", "VhostBus", "VhostDevice"),
    "drivers.bus.virtio": ("VirtioBound", "VirtioBus", "VirtioDevice"),
    "drivers.carriers.options": ("TransportOptions",),
    "drivers.carriers.transport": (
        "LinkTransport",
        "NtbTransport",
        "PlatformTransport",
        "SocketTransport",
        "Transport",
    ),
    "drivers.devices.blk": ("Disk",),
    "drivers.devices.rpmsg": ("Endpoint", "RpmsgBus"),
    "drivers.devices.scsi": ("Initiator",),
    "drivers.errors": (
        "DriverError",
        "FeatureMismatch",
        "NeedsReset",
        "PortGone",
        "ProbeDeferred",
        "ProbeError",
        "TransportLost",
    ),
    "drivers.questions.answer": ("AnswerFlow",),
    "drivers.questions.ask": ("QuestionFlow",),
    "drivers.virtio_type": ("Side", "VirtioType"),
}

__getattr__ = lazy_names(__name__, _NAMES)
