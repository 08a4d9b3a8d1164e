"""The plan of a campaign, which all of its trials share: plain data for other processes and for files."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import trio

from vnet.sim.configuration import Configuration
from vnet.topology import parse
from vnet.topology.extensions import load_extension
from vnet.version import __version__

__all__ = ["Plan", "code_version", "parse_seeds"]

SEEDS = re.compile(r"(\d+):(\d+)")
MOST = 10_000_000
"""Most seeds of a campaign, which are kept in memory."""
HERE = Path(__file__).parent


def parse_seeds(text: str) -> range:
    """Return the seeds of a text such as 0:1000, without the last number. Raises ValueError."""
    match = SEEDS.fullmatch(text)
    seeds = range(int(match[1]), int(match[2])) if match else range(0)
    if not seeds:
        raise ValueError(f"{text!r}: must be FIRST:END, such as 0:1000 for the seeds 0 to 999")
    if seeds.stop - seeds.start > MOST:
        raise ValueError(f"{text!r}: must be at most {MOST} seeds")
    return seeds


@attrs.frozen
class Plan:
    """The trials of a campaign."""

    configuration: Configuration
    """Configuration of each trial, without the records of its topology."""
    topology: str | None = None
    """Text of the topology file; None: a random system of each seed."""
    extensions: tuple[str, ...] = ()
    """Files that add device types and transports."""

    def open(self) -> Configuration:
        """Return the configuration with its topology, in any process. Raises ConfigError."""
        return _opened(self)

    def command(self, seed: int) -> str:
        """Return the shell command that repeats the trial of a seed."""
        return self._loaded(self.configuration.command(seed))

    def campaign(self, seeds: range) -> str:
        """Return the shell command that runs the trials of ``seeds``, without the options of back ends and files."""
        words = [self.configuration.source, "--seeds", f"{seeds.start}:{seeds.stop}", *self.configuration.options()]
        return self._loaded(f"vnet campaign {shlex.join(words)}")

    def _loaded(self, command: str) -> str:
        loads = [word for file in self.extensions for word in ("--load", file)]
        return f"vnet {shlex.join(loads)} {command.removeprefix('vnet ')}" if loads else command

    def identity(self) -> dict[str, Any]:
        """Return all that results depend on besides the seed, ready for JSON."""
        plain = self.configuration.plain()
        plain["loads"] = plain["loads"] and list(plain["loads"])
        extensions = {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in self.extensions}
        return {**plain, "topology": self.topology, "extensions": extensions, **code_version()}


@cache
def _opened(plan: Plan) -> Configuration:
    for file in plan.extensions:
        _load(file)
    topology = None if plan.topology is None else parse(plan.topology, plan.configuration.source)
    return attrs.evolve(plan.configuration, topology=topology)


@cache
def _load(file: str) -> None:
    load_extension(Path(file))


@cache
def code_version() -> dict[str, str]:
    """Return the versions of this project and of Trio, which results depend on, and the commit of a clone or ""."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        # Only in a clone: an installed package may lie below the work tree of another project.
        is_clone = (HERE.parents[1] / ".git").exists()
        done = subprocess.run(git, capture_output=True, text=True, check=False) if is_clone else None
    except OSError:  # without Git
        done = None
    return {"version": __version__, "commit": done.stdout.strip() if done else "", "trio": trio.__version__}
