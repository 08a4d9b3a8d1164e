"""Documentation that is executed: the fenced blocks of a page, run in order as a reader would.

| block | what happens |
|---|---|
| `sh` | run by bash, in the page's folder; every line must succeed |
| `sh title="keeps running"` | started, up once it says Ctrl-C, ended after the page |
| `sh title="fails"` | run; it must fail |
| `text title="prints"` | compared with the printed text; numbers may differ, `...` stands for any lines |
| `toml title="FILE"`, `python title="FILE"` | written to that file |
| `python` | run |
| others, such as `text` | only shown |
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

__all__ = ["Block", "blocks", "play", "same_shape"]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PATIENCE = 300.0
"""Seconds that one block may take, such as one that boots a guest on a machine that is busy."""
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]*)\")?\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


@attrs.frozen
class Block:
    """A fenced block of a page."""

    language: str
    title: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page's text, in order."""
    return [Block(m[1], m[2] or "", m[3], page.count("\n", 0, m.start()) + 1) for m in FENCE.finditer(page)]


def play(page: Path, folder: Path) -> None:
    """Run the blocks of a page in ``folder``. Raises AssertionError, which names the line of the block."""
    (folder / "examples").symlink_to(ROOT / "examples")
    printed = ""
    with ExitStack() as running:
        for block in blocks(page.read_text(encoding="utf-8")):
            where = f"{page.name}:{block.line}"
            match block:
                case Block("sh", "keeps running"):
                    running.enter_context(_kept(block.text, folder, where))
                case Block("sh", title):
                    printed = _run(["bash", "-e", "-o", "pipefail", "-c", block.text], folder, where, title == "fails")
                case Block("text", "prints"):
                    assert same_shape(block.text, printed), f"{where}: shown is another output than this:\n{printed}"
                case Block("python", ""):
                    printed = _run([sys.executable, "-c", block.text], folder, where, fails=False)
                case Block("toml" | "python", file) if file:
                    (folder / file).write_text(block.text, encoding="utf-8")


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "120"}


def _run(command: list[str], folder: Path, where: str, fails: bool) -> str:
    done = subprocess.run(
        command, cwd=folder, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert bool(done.returncode) == fails, f"{where}: status {done.returncode}\n{done.stdout}"
    return done.stdout


@contextmanager
def _kept(text: str, folder: Path, where: str) -> Iterator[None]:
    """A command that runs until it is ended; entered once it has said how to end it."""
    log = folder / f"kept-{where.rpartition(':')[2]}.log"
    with (
        log.open("w", encoding="utf-8") as out,
        subprocess.Popen(
            ["bash", "-e", "-c", f"exec {text}"], cwd=folder, env=_environment(), stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, process_group=0,
        ) as process,
    ):  # fmt: skip
        try:
            end = time.monotonic() + PATIENCE
            while "Ctrl-C" not in log.read_text(encoding="utf-8"):
                output = log.read_text(encoding="utf-8")
                assert process.poll() is None, f"{where}: it ended\n{output}"
                assert time.monotonic() < end, f"{where}: it did not come up\n{output}"
                time.sleep(0.05)
            yield
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)


def same_shape(shown: str, printed: str) -> bool:
    """Whether ``printed`` reads like ``shown``, apart from numbers; a line ``...`` stands for any number of lines."""
    parts = [".*" if line == "..." else re.escape(line) for line in map(_shape, shown.strip().splitlines())]
    pattern = re.sub(r"\\n\.\*\\n", r"\\n(?:.*\\n)?", r"\n".join(parts))
    return (
        re.search(rf"^{pattern}$", "\n".join(map(_shape, printed.splitlines())), re.DOTALL | re.MULTILINE) is not None
    )


def _shape(line: str) -> str:
    """A line without its numbers and the widths of its columns.

    On a machine that is busy, ping has a request under way before the last is answered, and counts these in its pipe.
    """
    line = re.sub(r", pipe \d+$", "", line)
    return re.sub(r"\s+", " ", re.sub(r"-{2,}", "--", re.sub(r"0x[0-9a-f]+|\d+(\.\d+)*", "0", line))).strip()
