"""The configuration of a trial: all that its result depends on, besides the seed and the version."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import attrs

from vnet.ends import DEVICE_TYPES
from vnet.sim.script import Fault
from vnet.topology import Topology

__all__ = ["RANDOM", "Configuration", "load_names"]

RANDOM = "--random"
"""Source of a system that follows from the seed."""


def load_names() -> tuple[str, ...]:
    """Return the names of the loads of all device types."""
    return tuple(name for kind in DEVICE_TYPES.values() if kind.loads is not None for name in kind.loads.names)


@attrs.frozen
class Configuration:
    """The configuration of a trial."""

    topology: Topology | None = None
    """The system; None: a random one of each seed."""
    source: str = RANDOM
    """The file of the topology as it is given to a command, or `RANDOM`."""
    wire: bool = False
    """Whether all links of a random system are wires; without it, none is."""
    seconds: float = 10.0
    """Simulated seconds of traffic."""
    loads: tuple[str, ...] | None = None
    """Names of the loads; None: all that the devices have."""
    check: bool = False
    """Whether rings, memory, states and counters are checked, besides the data."""
    data_path: bool = True
    """Whether frames, chains, registers and requests on links are logged. Without them, rings run as they do in
    production, in C."""

    def has_load(self, name: str) -> bool:
        """Return whether the trial has a load."""
        return self.loads is None or name in self.loads

    def command(self, seed: int, script: Sequence[Fault | str] | None = None) -> str:
        """Return the shell command that runs the trial of ``seed`` again; ``script``: with these faults instead."""
        words = ["vnet", "sim", self.source, "--seed", str(seed), *self.options()]
        if script is not None:
            words += [word for fault in script for word in ("--fault", str(fault))] or ["--no-faults"]
        return shlex.join(words)

    def options(self) -> list[str]:
        """Return the options of a command for this configuration, without the system and the seed."""
        words = ["--wire"] * self.wire + ["--time", f"{self.seconds:g}s"]
        if self.loads is not None:
            words += ["--load", ",".join(self.loads)]
        return words + ["--check"] * self.check + ["--state-only"] * (not self.data_path)

    def plain(self) -> dict[str, Any]:
        """Return the configuration as plain data, without the topology."""
        return attrs.asdict(self, filter=lambda field, _: field.name != "topology")
