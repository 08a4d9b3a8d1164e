"""``vnet campaign``: simulate the systems of many seeds, on this machine or on a Ray cluster."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import click

from vnet.campaign.local import run_local
from vnet.campaign.plan import Plan, code_version, parse_seeds
from vnet.campaign.results import Results, open_results
from vnet.campaign.tally import Tally
from vnet.campaign.trial import Record
from vnet.cli.common import errors_in_one_line, loaded_extensions
from vnet.cli.extras import extra
from vnet.cli.output import json_option, open_json
from vnet.cli.progress import Bar, erase, progress_bar
from vnet.cli.signals import run_until_signal
from vnet.cli.sim_options import configured, parse_time, trial_options
from vnet.cli.table import render
from vnet.errors import settings_of
from vnet.sim.trial import topology_of
from vnet.topology import load

__all__ = ["command"]

FIGURES = ("trials", "rounds", "bytes", "lost", "retries")
SHOWN = 50
"""Most failures at the end; the figures have all of them."""
BACKENDS = ("local", "ray")
Run = Callable[[Sequence[int], Callable[[Record], object]], Awaitable[None]]
"""Runs the trials of seeds; its second argument takes each result."""


def _seeds(_context: click.Context, _option: click.Parameter, text: str) -> range:
    try:
        return parse_seeds(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("campaign")
@click.argument("topology", required=False, type=click.Path(dir_okay=False, path_type=Path))
@trial_options(
    click.option(
        "--seeds", required=True, callback=_seeds, metavar="FIRST:END", help="Seeds, such as 0:1000 for 0 to 999."
    ),
)
@click.option(
    "--backend", type=click.Choice(BACKENDS), default="local", show_default=True, help="Where the trials run."
)
@click.option(
    "--processes", type=click.IntRange(1), help="Number of local processes.  [default: one for each processor]"
)
@click.option("--address", metavar="ADDRESS", help="Ray cluster, such as auto.  [default: RAY_ADDRESS, else a new one]")
@click.option(
    "--limit",
    callback=parse_time,
    metavar="TIME",
    default="10m",
    show_default=True,
    help="Real time after which a trial has failed.",
)
@click.option(
    "--results",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    default="campaign.jsonl",
    show_default=True,
    help="File for the results, a line for each seed.",
)
@click.option("--resume", is_flag=True, help="Go on with the results file of a campaign that was interrupted.")
@json_option
@errors_in_one_line
@click.pass_context
def command(
    context: click.Context,
    topology: Path | None,
    use_random: bool,
    wire: bool,
    seeds: range,
    seconds: float,
    loads: tuple[str, ...] | None,
    check: bool,
    state_only: bool,
    backend: str,
    processes: int | None,
    address: str | None,
    limit: float,
    file: Path,
    resume: bool,
    json_file: Path | None,
) -> None:
    """Simulate the systems of many seeds.

    Each seed has a trial of `vnet sim`, which runs in a process of its own: a crash or a hang costs that trial alone.
    Results are appended to a file, line by line. After an interruption, the same command with --resume runs what is
    missing.

    Exit status 1 if a trial failed; the commands that repeat those trials are printed.
    """
    configuration = configured(topology, use_random, wire, seconds, loads, check, state_only)
    if backend == "ray" and processes is not None:
        raise click.UsageError("--processes is for the backend local: the Ray cluster has its own number")
    if backend == "local" and address is not None:
        raise click.UsageError("--address is for the backend ray")
    text = None
    if topology is not None:
        with settings_of(str(topology)):
            topology_of(attrs.evolve(configuration, topology=load(topology)), seeds.start)
        text = topology.read_text(encoding="utf-8")
    plan = Plan(configuration, text, loaded_extensions(context))
    tally, words = Tally(plan, seeds), plan.campaign(seeds)
    files = shlex.join(["--results", str(file)] + (["--json", str(json_file)] if json_file else []))
    go_on = f"{words}{f' --backend {backend}' * (backend != BACKENDS[0])} {files} --resume"
    with (
        _backend(backend, plan, address, processes or len(os.sched_getaffinity(0)), limit) as run,
        open_json(json_file) as write_json,
        open_results(file, plan.identity(), words, _now(), tally.add, resume=resume) as results,
    ):
        if resume:
            repaired = f"; half a line of {results.removed} bytes was removed" if results.removed else ""
            click.echo(f"{len(tally.hashes)} of {len(seeds)} seeds are done{repaired}")
        before = len(tally.hashes)
        with progress_bar("campaign", len(seeds) - before) as bar:
            status = _run_to_end(partial(run, tally.missing, partial(_take, tally, results, bar)))
        click.echo(_report(tally))
        write_json({**_origin(words, results.began, backend, len(tally.hashes) - before), **tally.plain()})
    if status:
        click.echo(f"vnet: interrupted; to go on: {go_on}", err=True)
    context.exit(status or (1 if tally.failures else 0))


@contextmanager
def _backend(name: str, plan: Plan, address: str | None, processes: int, limit: float) -> Iterator[Run]:
    """Return the function that runs seeds. Raises PrivilegeError without Ray, ControlError without its cluster."""
    if name == "local":
        yield lambda seeds, take: run_local(plan, seeds, processes, limit, take)
        return
    with extra("ray"):
        from vnet.campaign.cluster import connect, run_on_ray
    with connect(address):
        yield lambda seeds, take: run_on_ray(plan, seeds, limit, take)


def _run_to_end(main: Callable[[], Awaitable[None]]) -> int:
    """Run ``main``, and return 0, or the exit status of the signal that ended it."""
    try:
        run_until_signal(main)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    return 0


def _take(tally: Tally, results: Results, bar: Bar, record: Record) -> None:
    """Keep the result of a trial, and show a failure at once."""
    results.add(record)
    tally.add(record)
    if (failure := record["failure"]) is not None:
        erase()
        click.echo(f"vnet: seed {record['seed']}: {failure['kind']}: {failure['text']}", err=True)
    bar.advance(f"{len(tally.failures)} failed")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _origin(command: str, began: str, backend: str, run: int) -> dict[str, Any]:
    """Return what is needed to repeat a campaign: its command, versions, machine and time."""
    return {
        "command": command,
        **code_version(),
        "python": platform.python_version(),
        "backend": backend,
        "began": began,
        "ended": _now(),
        "in_this_run": run,
        "machine": {"processors": os.cpu_count(), "architecture": platform.machine(), "kernel": platform.release()},
    }


def _report(tally: Tally) -> str:
    """Return what the trials did, which faults happened, and how to repeat those that failed."""
    failures = sorted(tally.failures, key=lambda failure: int(failure["seed"]))
    parts = [f"{len(tally.hashes)} of {len(tally.seeds)} seeds done, {len(failures)} failed"]
    if tally.loads:
        rows = [(name, *(figures[key] for key in FIGURES)) for name, figures in sorted(tally.loads.items())]
        parts.append(render(("load", *FIGURES), rows))
    parts.append(render(("fault", "drawn", "happened"), [(name, *counts) for name, counts in tally.faults.items()]))
    if tally.wired:
        wire = {**tally.wire, **tally.wire_faults, **tally.wire_errors}
        parts.append(render(("wire", "count"), sorted(wire.items())))
    parts += [f"never happened: {', '.join(tally.never)}"] * bool(tally.hashes and tally.never)
    parts.append(f"{tally.simulated:.0f} s simulated in {tally.took:.0f} s, SHA-256 of the results\n{tally.digest()}")
    if failures:
        lines = [
            f"seed {each['seed']}: {each['kind']}: {each['text']}\n  {each['repeat']}" for each in failures[:SHOWN]
        ]
        lines += [f"{len(failures) - SHOWN} more: --json has all of them"] * (len(failures) > SHOWN)
        parts.append("\n".join(["failed", *lines]))
    return "\n\n".join(parts)
