"""``vnet bench``: this stack beside a bare forwarder and a veth pair."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

from vnet.bench.disk import TOOLS, run_disk_benchmark
from vnet.bench.measure import WORKLOADS, run_benchmark
from vnet.bench.setups import CONTESTANTS
from vnet.cli.bench_tables import disk_table, tables
from vnet.cli.common import errors_in_one_line
from vnet.cli.signals import run_until_signal
from vnet.ports.interface import check_tun
from vnet.traffic import need_tools

__all__ = ["command"]

KINDS = tuple(dict.fromkeys(workload.kind for workload in WORKLOADS))
OVERHEAD = 0.7
"""Seconds a run takes besides what it was asked for: programs start and end, pings."""


def _listed(known: Sequence[str]) -> Callable[[click.Context, click.Parameter, str], tuple[str, ...]]:
    """The callback of an option that takes several of ``known``, with commas between them."""

    def parse(_context: click.Context, _option: click.Parameter, text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(filter(None, text.split(","))))
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise click.BadParameter(f"{', '.join(unknown) or 'nothing'}; choose from {', '.join(known)}")
        return names

    return parse


@click.command("bench")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, help="How often all is measured.")
@click.option(
    "--seconds", type=click.IntRange(1, 3600), default=2, show_default=True, help="Length of each throughput run."
)
@click.option(
    "--only",
    default=",".join(KINDS),
    show_default=True,
    callback=_listed(KINDS),
    help="What to measure, with commas between.",
)
@click.option(
    "--contestants",
    default=",".join(CONTESTANTS),
    show_default=True,
    callback=_listed(tuple(CONTESTANTS)),
    help="What to measure it on: this stack over TUN and TAP, the bare forwarder, a veth pair.",
)
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures to this file, too."
)
@click.option("--disk", is_flag=True, help="Measure a disk over NBD beside `nbdkit file` instead.")
@click.option(
    "--size", type=click.IntRange(8, 65536), default=512, show_default=True, help="MiB of that disk, written and read."
)
@errors_in_one_line
def command(
    rounds: int,
    seconds: int,
    only: tuple[str, ...],
    contestants: tuple[str, ...],
    json_file: Path | None,
    disk: bool,
    size: int,
) -> None:
    """Measure this stack beside a bare TUN-to-TUN forwarder and a veth pair, interleaved, and show medians.

    Exit status 1 if a run failed.
    """
    if disk:
        need_tools(*TOOLS)
        measured = run_until_signal(
            partial(run_disk_benchmark, rounds=rounds, seconds=seconds, size=size << 20, progress=click.echo)
        )
        _finish(disk_table(measured), measured.as_dict(), measured.failures, json_file)
    need_tools("ping", "iperf3", "nsenter")
    check_tun()
    workloads = [workload for workload in WORKLOADS if workload.kind in only]
    runs = rounds * len(contestants) * len(workloads)
    minutes = runs * (seconds + OVERHEAD) / 60
    click.echo(f"{runs} runs, about {minutes:.0f} min" if minutes >= 1 else f"{runs} runs, less than a minute")
    results = run_until_signal(
        partial(run_benchmark, contestants, workloads, rounds=rounds, seconds=seconds, progress=click.echo)
    )
    _finish(tables(results), results.as_dict(), results.failures, json_file)


def _finish(shown: str, figures: dict[str, Any], failures: Sequence[str], json_file: Path | None) -> NoReturn:
    click.echo("\n" + shown)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    for failure in failures:
        click.echo(f"vnet: failed: {failure}", err=True)
    click.get_current_context().exit(1 if failures else 0)
