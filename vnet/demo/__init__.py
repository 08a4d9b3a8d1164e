"""Demonstrations of ``vnet demo``: a module and a line in `DEMOS` per device type."""

from __future__ import annotations

from collections.abc import Mapping

from vnet.demo.base import Demo, DemoReport, DemoSettings, run_demo
from vnet.demo.blk import BLK
from vnet.demo.net import NET, default_topology
from vnet.demo.rpmsg import RPMSG
from vnet.demo.scsi import SCSI

__all__ = ["DEMOS", "Demo", "DemoReport", "DemoSettings", "default_topology", "run_demo"]

DEMOS: Mapping[str, Demo] = {"net": NET, "rpmsg": RPMSG, "blk": BLK, "scsi": SCSI}
"""Demonstrations by device type."""
