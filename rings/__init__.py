"""Virtqueues in shared memory and the rules of both sides: sans-I/O, no clock, no tasks.

See ``rings/README.md`` for the map. Section numbers in docstrings are those of VIRTIO 1.4. The names below are the
package's public interface; each is imported when it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rings.lazy import lazy_names

if sys.byteorder != "little":  # ring fields are little-endian and read through native typed views
    raise ImportError("rings needs a little-endian machine: its typed views read ring fields in native order")

if TYPE_CHECKING:
    from rings.errors import BadChain, BadRing, LocalRingError, MemoryFault, QueueFull, RemoteRingError, RingError
    from rings.features import FeatureTable, RingFeature
    from rings.formats import FORMATS, RING_FEATURES, RingFormat, ring_format
    from rings.ids import DeviceId
    from rings.layout import RingAddrs
    from rings.memory import Addr, MappedMemory, Memory
    from rings.queue import QueueState, QueueStatistics, Virtqueue, Vringh
    from rings.status import Status
    from rings.view import RingView, view_packed, view_split

__all__ = [
    "Addr",
    "BadChain",
    "BadRing",
    "DeviceId",
    "FORMATS",
    "FeatureTable",
    "LocalRingError",
    "MappedMemory",
    "Memory",
    "MemoryFault",
    "QueueFull",
    "QueueState",
    "QueueStatistics",
    "RING_FEATURES",
    "RemoteRingError",
    "RingAddrs",
    "RingError",
    "RingFeature",
    "RingFormat",
    "RingView",
    "Status",
    "Virtqueue",
    "Vringh",
    "ring_format",
    "view_packed",
    "view_split",
]

_NAMES: Mapping[str, Sequence[str]] = {
    "rings.errors": (
        "BadChain",
        "BadRing",
        "LocalRingError",
        "MemoryFault",
        "QueueFull",
        "RemoteRingError",
        "RingError",
    ),
    "rings.features": ("FeatureTable", "RingFeature"),
    "rings.formats": ("FORMATS", "RING_FEATURES", "RingFormat", "ring_format"),
    "rings.ids": ("DeviceId",),
    "rings.layout": ("RingAddrs",),
    "rings.memory": ("Addr", "MappedMemory", "Memory"),
    "rings.queue": ("QueueState", "QueueStatistics", "Virtqueue", "Vringh"),
    "rings.status": ("Status",),
    "rings.view": ("RingView", "view_packed", "view_split"),
}

__getattr__ = lazy_names(__name__, _NAMES)
