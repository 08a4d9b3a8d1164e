"""The devices of `vnet check driver` by the name that ``--type`` takes."""

from __future__ import annotations

from collections.abc import Mapping

from vnet.check.driver.devices import WatchedBlk, WatchedDevice, WatchedNet, WatchedRng
from vnet.check.driver.scsi import WatchedScsi

__all__ = ["DEVICES"]

DEVICES: Mapping[str, type[WatchedDevice]] = {
    "blk": WatchedBlk,
    "net": WatchedNet,
    "scsi": WatchedScsi,
    "rng": WatchedRng,
}
