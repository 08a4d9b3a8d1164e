"""``vnet demo``: the whole thing in one command."""

from __future__ import annotations

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import click

from drivers.registry import TRANSPORTS
from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.signals import run_until_signal
from vnet.cli.table import render
from vnet.demo import DemoReport, default_topology, run_demo
from vnet.ends.net import PortKind
from vnet.errors import PrivilegeError
from vnet.ports.interface import check_tun
from vnet.state import claim
from vnet.topology import Topology
from vnet.traffic import Plan, Run, need_tools

__all__ = ["command"]


@click.command("demo")
@click.option(
    "--port",
    type=click.Choice(["tun", "tap", "memory"]),
    default="tun",
    show_default=True,
    help="What both ends are plugged into.",
)
@click.option(
    "--transport",
    type=click.Choice(list(TRANSPORTS)),
    default="pci",
    show_default=True,
    help="What carries the device.",
)
@click.option(
    "--mode",
    type=click.Choice(["direct", "mediated"]),
    default="direct",
    show_default=True,
    help="Whether the device is the port itself, or has the endpoint's own driver behind it.",
)
@click.option(
    "--seconds", type=click.IntRange(1, 3600), default=3, show_default=True, help="Length of each throughput run."
)
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures to this file, too."
)
@name_option
@errors_in_one_line
def command(port: PortKind, transport: str, mode: str, seconds: int, json_file: Path | None, name: str) -> None:
    """Build two hosts and what joins them, run ping and iperf3 across their virtqueues, and judge the result.

    Exit status 1 if a ping is lost, a TCP run ends early, UDP at 50 Mbit/s loses more than 1 %, or a drop
    counter of ours rose. Where TUN, a right, or a program is missing, the same stack runs on in-memory ports.
    """
    if port != "memory":
        try:
            need_tools("ping", "iperf3", "nsenter")
            check_tun()
        except PrivilegeError as exc:
            click.echo(f"vnet: {exc}", err=True)
            click.echo("vnet: running on in-memory ports with scapy traffic instead", err=True)
            port = "memory"
    topology = default_topology(port, transport, mode)
    driver, device = topology.ends(topology.devices["net0"])
    click.echo(f"{driver} (virtio-net, {port}) <== {transport}, {mode} ==> {device} (vhost-net, {port})")
    # In memory nothing is visible outside, so nothing has to be cleaned up by anybody else.
    with claim(name, topology) if port != "memory" else nullcontext():
        report = run_until_signal(partial(_run, topology, seconds, name))
    click.echo("\n" + _tables(report))
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_dict(), indent=2) + "\n", encoding="utf-8")
    failures = report.failures()
    for failure in failures:
        click.echo(f"vnet: {failure}", err=True)
    click.get_current_context().exit(1 if failures else 0)


async def _run(topology: Topology, seconds: int, name: str) -> DemoReport:
    def started(plan: Plan) -> None:
        click.echo(f"  {plan.name}, {plan.source} to {plan.target} ... ", nl=False)

    def finished(run: Run) -> None:
        click.echo(run.line())

    return await run_demo(topology, name=name, seconds=seconds, started=started, finished=finished)


def _tables(report: DemoReport) -> str:
    runs = [(run.name, f"{run.source} to {run.target}", run.line()) for run in (*report.ping, *report.tcp, *report.udp)]
    queues = [
        (
            row.device,
            row.side,
            row.queue,
            row.packets,
            row.bytes,
            row.kicks,
            row.calls,
            row.suppressed,
            ", ".join(f"{cause} {count}" for cause, count in row.drops.items() if count) or "none",
        )
        for row in report.queues
    ]
    columns = ("device", "side", "queue", "packets", "bytes", "kicks", "calls", "suppressed", "drops")
    return f"{render(('run', 'direction', 'result'), runs)}\n\n{render(columns, queues)}"
