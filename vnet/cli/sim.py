"""``vnet sim``: run a whole system under a simulated clock, with loads and faults from one seed."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import attrs
import click

from vnet.cli.common import errors_in_one_line
from vnet.cli.output import json_option, open_json
from vnet.cli.sim_options import configured, trial_options
from vnet.cli.table import render
from vnet.cli.topology_file import FILE, open_topology
from vnet.errors import settings_of
from vnet.sim.configuration import RANDOM, Configuration
from vnet.sim.script import KINDS, Fault
from vnet.sim.shrink import shrink
from vnet.sim.trial import run_trial, topology_of
from vnet.topology import Topology

__all__ = ["command"]

SEED_BITS = 32
"""Size of a seed that is not given."""


@click.command("sim")
@click.argument("topology", required=False, type=FILE)
@trial_options(
    click.option("--seed", type=click.IntRange(0), help="Seed of all that happens.  [default: a random one]")
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="AT:PLACE:KIND:AMOUNT",
    help=f"A fault instead of those of the seed, such as 0.25:pcie0:flap:0.1. KIND is {', '.join(KINDS)}. Repeatable.",
)
@click.option("--no-faults", is_flag=True, help="Leave the faults of the seed out.")
@click.option("--log", "log_file", type=click.Path(dir_okay=False, path_type=Path), help="File for the event log.")
@json_option
@errors_in_one_line
@click.pass_context
def command(
    context: click.Context,
    topology: Path | None,
    use_random: bool,
    wire: bool,
    seed: int | None,
    seconds: float,
    loads: tuple[str, ...] | None,
    check: bool,
    faults: Sequence[str],
    no_faults: bool,
    state_only: bool,
    log_file: Path | None,
    json_file: Path | None,
) -> None:
    """Simulate a system, with traffic and faults from one seed.

    The system is that of a TOPOLOGY file, or a random one. Time is simulated. All ports and stores are in memory, and
    the traffic checks each byte. Link faults, flaps, the order of tasks and the traffic follow from one seed, which is
    printed first: the same seed, version and topology give the same event log, byte for byte.

    Exit status 1 if data differ, if traffic stands still, if a check fails, or if the system ends with an error; the
    command that repeats it is printed, and a shorter script of faults if there is one.
    """
    configuration = configured(topology, use_random, wire, seconds, loads, check, state_only)
    if faults and no_faults:
        raise click.UsageError("--fault and --no-faults exclude each other")
    seed = secrets.randbits(SEED_BITS) if seed is None else seed
    click.echo(f"seed {seed}")
    file, parsed = open_topology(topology) if topology else (RANDOM, None)
    configuration = attrs.evolve(configuration, topology=parsed)
    with settings_of(file), open_json(json_file) as write_json:
        system = topology_of(configuration, seed)
        script = _script(faults, no_faults, system)
        with nullcontext() if log_file is None else log_file.open("w", encoding="utf-8") as log:
            result = run_trial(configuration, seed, script, None if log is None else log.write)
        click.echo(_report(result))
        if result["failure"] is not None:
            _report_failure(configuration, result, system, given=script is not None)
        write_json(result)
    context.exit(0 if result["failure"] is None else 1)


def _script(faults: Sequence[str], no_faults: bool, topology: Topology) -> Sequence[Fault] | None:
    """Return the faults of the command line; None: those of the seed. Raises BadParameter."""
    try:
        return _parse_all(faults, topology) if faults or no_faults else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--fault") from None


def _parse_all(faults: Sequence[str], topology: Topology) -> Sequence[Fault]:
    return [Fault.parse(text, topology) for text in faults]


def _report(result: dict[str, Any]) -> str:
    """Return the devices, the faults, what each load has done, and the hash of the event log."""
    devices = [(name, *device.values()) for name, device in result["devices"].items()]
    parts = [render(("device", "type", "transport", "ring", "mode"), devices)]
    if result["loads"]:
        rows = [tuple(load.values()) for load in result["loads"]]
        parts.append(render(("load", "device", "rounds", "bytes", "lost", "retries"), rows))
    if result["script"]:
        fired = zip(result["script"], result["fired"], strict=True)
        parts.append(
            "faults\n" + "\n".join(f"  {fault}{'' if count else '  (never happened)'}" for fault, count in fired)
        )
    parts.append(
        f"{result['seconds']:.6f} s simulated, {result['events']} events, SHA-256 of the log\n{result['hash']}"
    )
    return "\n\n".join(parts)


def _report_failure(configuration: Configuration, result: dict[str, Any], system: Topology, *, given: bool) -> None:
    """Print what went wrong and how to repeat it, then search for a shorter script, and add that to the result."""
    seed, failure, script = result["seed"], result["failure"], result["script"]
    for line in failure.get("traceback", ()):
        click.echo(line, err=True)
    click.echo(f"vnet: {failure['kind']}: {failure['text']}", err=True)
    result["repeat"] = configuration.command(seed, script if given else None)
    click.echo(f"vnet: to repeat it: {result['repeat']}", err=True)
    shorter = shrink(configuration, seed, _parse_all(script, system), failure["kind"])
    if len(shorter) < len(script):
        result["shorter"] = configuration.command(seed, shorter)
        click.echo(f"vnet: with {len(shorter)} of {len(script)} faults: {result['shorter']}", err=True)
