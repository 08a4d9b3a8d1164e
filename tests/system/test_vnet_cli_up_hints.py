"""Every line that `vnet up` prints to be typed elsewhere works as it stands, with any path names."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from support.machine import RequireTool
from support.paths import BIN
from support.topologies import TWO_HOSTS

NOT_SERVED = 7
"""Exit status of curl if no server listens: it did reach the other host."""
TOPOLOGY = (
    TWO_HOSTS
    + """\
[devices.net0]
link = "pcie0"
driver = {{ addresses = ["198.18.0.1/24", "2001:2::1/64"] }}
device = {{ addresses = ["198.18.0.2/24", "2001:2::2/64"] }}
[devices.disk0]
type = "blk"
link = "pcie0"
function = 1
driver = {{ nbd = "{folder}/disk.sock" }}
device = {{ size = 1 }}
[devices.rpmsg0]
type = "rpmsg"
link = "pcie0"
function = 2
driver = {{ channels = [{{ name = "a", surface = "pty", path = "{folder}/tty" }}] }}
device = {{ channels = [{{ name = "a", surface = "echo" }}] }}
"""
)
ENDS: Mapping[str, Callable[[str], str]] = {
    "ping": lambda line: f"{line} -c 1 -w 30",
    "cat": lambda line: line.replace("cat", "head -c 1", 1),
    "screen": lambda line: f"command -v screen || true # {line}",  # which needs a terminal, and may not be installed
}
"""The end of each program that runs until its user ends it, by program."""


def ended(line: str) -> str:
    """Return the command of a line, changed so that its program ends."""
    command = line.split("    #", maxsplit=1)[0]
    program = next((word for word in command.split() if word in ENDS), None)
    return command if program is None else ENDS[program](command)


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("privileged", "no_leaks")
def test_every_line_that_up_prints_works(tmp_path: Path, require_tool: RequireTool) -> None:
    require_tool("ping", "ip", "curl", "nbdinfo", "nbdcopy")
    folder, file = tmp_path / "it's 100% \N{GREEK SMALL LETTER ALPHA} & b", tmp_path / "topology.toml"
    folder.mkdir()
    file.write_text(TOPOLOGY.format(folder=folder))
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    up = [str(BIN / "vnet"), "up", str(file), "--name", f"t{os.getpid()}h"]
    with subprocess.Popen(up, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "is up. In another shell:" in process.stdout.readline()
            lines = list[str]()
            for line in process.stdout:
                if not line.startswith("  "):
                    break
                lines.append(line.strip())
            assert "ends it." in line
            # What echo sends comes back before it is read, and before the link goes.
            for line in sorted(lines, key=lambda each: ("link " in each, "cat " in each)):
                shell = ["sh", "-c", ended(line)]
                done = subprocess.run(
                    shell, capture_output=True, text=True, timeout=60, env=env, cwd=tmp_path, check=False
                )
                wanted = NOT_SERVED if "curl" in line else 0
                assert done.returncode == wanted, (line, done.stdout, done.stderr)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    programs = {word for line in lines for word in line.split()}
    assert programs >= {"ping", "curl", "nbdinfo", "nbdcopy", "cat", "echo", "show", "link"}
    assert (tmp_path / "copy.img").stat().st_size == 1 << 20
