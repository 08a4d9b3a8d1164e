"""``vnet bench``: this stack beside what else could carry the same, in one table for each suite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from vnet.bench.links import COUNTS, LINKS_MAX
from vnet.bench.measure import WORKLOADS
from vnet.bench.setups import CONTESTANTS
from vnet.bench.suites import SUITES, BenchOptions
from vnet.cli.bench_tables import disk_table, links_table, peers_table, rpmsg_table, tables
from vnet.cli.common import errors_in_one_line
from vnet.cli.logs import log_options
from vnet.cli.output import json_option, open_json
from vnet.cli.progress import progress_bar
from vnet.cli.signals import run_until_signal

__all__ = ["command"]

KINDS = tuple(dict.fromkeys(workload.kind for workload in WORKLOADS))
MIB = 1 << 20
SHOW: Mapping[str, Callable[[Any], str]] = {
    "net": tables,
    "carriers": partial(tables, batches=False),
    "processes": partial(tables, batches=False),
    "peers": peers_table,
    "guest": partial(tables, batches=False),
    "disk": disk_table,
    "rpmsg": rpmsg_table,
    "links": links_table,
}
"""How the outcome of each suite is shown."""


def _listed(known: Sequence[str]) -> Callable[[click.Context, click.Parameter, str], tuple[str, ...]]:
    """The callback of an option that takes several of ``known``, with commas between them."""

    def parse(_context: click.Context, _option: click.Parameter, text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(filter(None, text.split(","))))
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise click.BadParameter(f"{', '.join(unknown) or 'nothing'}; choose from {', '.join(known)}")
        return names

    return parse


def _list_option(
    name: str, known: Sequence[str], text: str, default: Sequence[str] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    chosen = ",".join(known if default is None else default)
    return click.option(name, default=chosen, show_default=True, callback=_listed(known), help=text)


def _link_counts(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    """The callback of the option for numbers of links."""
    words = dict.fromkeys(filter(None, text.split(",")))
    counts = tuple(int(word) for word in words if word.isdecimal() and 1 <= int(word) <= LINKS_MAX)
    if not counts or len(counts) < len(words):
        raise click.BadParameter(f"{text!r} must be numbers from 1 to {LINKS_MAX}, comma-separated")
    return counts


@click.command("bench")
@_list_option(
    "--suite",
    tuple(SUITES),
    "Suites to run, comma-separated. peers, guest and links run only if named.",
    [name for name, suite in SUITES.items() if suite.by_default],
)
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Number of rounds.")
@click.option("--seconds", type=click.IntRange(1, 3600), default=1, show_default=True, help="Length of each run.")
@_list_option(
    "--only", KINDS, "Workload kinds for the net, carriers, processes, peers and guest suites, comma-separated."
)
@_list_option("--contestants", tuple(CONTESTANTS), "Contestants in these five suites, comma-separated.")
@click.option(
    "--size", type=click.IntRange(8, 65536), default=512, show_default=True, help="MiB written to a disk and read back."
)
@click.option(
    "--congestion",
    metavar="NAME",
    help="TCP congestion control: cubic, reno, bbr, ... Default: the machine's.",
)
@click.option(
    "--links",
    default=",".join(map(str, COUNTS)),
    show_default=True,
    callback=_link_counts,
    help="Numbers of links, comma-separated.",
)
@json_option
@log_options
@errors_in_one_line
def command(
    suite: tuple[str, ...],
    rounds: int,
    seconds: int,
    only: tuple[str, ...],
    contestants: tuple[str, ...],
    size: int,
    congestion: str | None,
    links: tuple[int, ...],
    json_file: Path | None,
) -> None:
    """Measure this stack and alternatives to it; show medians.

    The contestants of a suite take turns in each round.

    net: over TUN and TAP, beside a bare TUN-to-TUN forwarder and a veth pair. carriers: over every transport,
    direct and mediated, beside pci. processes: driver and device in two processes, over vhost-user and over a link,
    beside both in one, and what that costs the bare forwarder. peers: beside what else joins two namespaces (forwarders
    in C and in Python, veth, socat, pasta, DPDK), with the ratios to each; programs that are not installed are left
    out (minutes, so it runs only where --suite names it). guest: the driver of a Linux guest in QEMU, TCP
    only, over vhost-user and, with QEMU 10.1, over vfio-user, beside both in one process (minutes, and a kernel of
    70 MB is downloaded once, so it runs only where --suite names it). disk: over NBD, beside `nbdkit file`. rpmsg:
    over every transport. links: many in one process, one of them busy (minutes, so it runs only where --suite names
    it). Exit status 1 if a run failed.
    """
    options = BenchOptions(rounds, seconds, only, contestants, size * MIB, congestion, links)
    suites = {name: SUITES[name] for name in suite if SUITES[name].duration(options)}
    if not suites:
        raise click.UsageError("no suite has anything to measure for these contestants")
    for kind in suites.values():
        kind.check()
    minutes = sum(kind.duration(options) for kind in suites.values()) / 60
    click.echo(f"{', '.join(suites)}: " + (f"about {minutes:.0f} min" if minutes >= 1 else "less than a minute"))
    figures, failures = {}, []
    with open_json(json_file) as write:
        for name, kind in suites.items():
            with progress_bar(name, kind.messages(options)) as bar:
                bar.show("")
                outcome = run_until_signal(partial(kind.run, options, bar.echo))
            click.echo(f"\n{name}\n\n{SHOW[name](outcome)}\n")
            figures[name] = outcome.as_dict()
            failures += [f"{name}, {failure}" for failure in outcome.failures]
        write(figures)
    for failure in failures:
        click.echo(f"vnet: failed: {' '.join(failure.split())}", err=True)
    click.get_current_context().exit(1 if failures else 0)
