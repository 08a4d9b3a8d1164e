"""The device types that the checker knows, by the name that ``--type`` takes."""

from __future__ import annotations

from collections.abc import Mapping

from vnet.check.kinds.base import Kind, Request
from vnet.check.kinds.blk import Blk
from vnet.check.kinds.net import Net
from vnet.check.kinds.rng import Rng
from vnet.check.kinds.scsi import Scsi

__all__ = ["KINDS", "Kind", "Request"]

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (Blk(), Net(), Scsi(), Rng())}
