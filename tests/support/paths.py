"""Where the project's files are, and the command that is under test."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TOPOLOGIES = EXAMPLES / "topologies"
MY_DEVICE = EXAMPLES / "my_device.py"
BIN = Path(sys.executable).parent
VNET = str(BIN / "vnet")
