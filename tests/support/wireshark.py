"""tshark with our dissector. It loads no Lua as root: then it runs as another user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vnet.capture.dissector import dissector

__all__ = ["Packet", "dissect", "tshark"]

UNPRIVILEGED = 65534
"""Id of a user and a group without rights."""
PATIENCE = 120.0
Packet = dict[str, list[Any]]
"""Values of the fields of a packet by name."""


def tshark(capture: Path, *args: str) -> str:
    """The output of tshark for a capture, without its warnings."""
    with tempfile.TemporaryDirectory(prefix="tshark-") as home:
        program, copy = Path(home) / "vnet.lua", Path(home) / "capture.pcapng"
        program.write_text(dissector(), encoding="utf-8")
        shutil.copyfile(capture, copy)
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            for path in (Path(home), program, copy):
                os.chown(path, UNPRIVILEGED, UNPRIVILEGED)
            user = {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": []}
        done = subprocess.run(
            ["tshark", "-X", f"lua_script:{program}", "-r", copy, *args],
            env={**os.environ, "HOME": home}, cwd=home, capture_output=True, text=True, check=False, timeout=PATIENCE,
            **user,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Lua" not in done.stderr, done.stderr
    return str(done.stdout)


def dissect(capture: Path, fields: Sequence[str], *args: str) -> list[Packet]:
    """The values of these fields in each packet."""
    chosen = [word for field in fields for word in ("-e", field)]
    packets = json.loads(tshark(capture, "-T", "json", *chosen, *args))
    return [packet["_source"].get("layers", {}) for packet in packets]
