"""``vnet demo``: build a system, send traffic through one device, and judge the result."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from vnet.cli.common import errors_in_one_line, name_option, one_line
from vnet.cli.logs import log_options
from vnet.cli.output import json_option, open_json
from vnet.cli.progress import progress_bar
from vnet.cli.rootless import enter_rootless, rootless_option
from vnet.cli.signals import run_until_signal
from vnet.cli.table import render
from vnet.cli.tree import counts
from vnet.demo import DemoReport, demo_topology, run_demo
from vnet.ends import DEVICE_TYPES
from vnet.ends.running import Demo, DemoSettings
from vnet.errors import SUDO, PrivilegeError
from vnet.linux.privileges.rootless import gives_interfaces
from vnet.system.claim import claim
from vnet.topology import Topology
from vnet.traffic.kernel import Plan, Run
from vnet.transports import TRANSPORTS

__all__ = ["command"]

DEMOS: Mapping[str, Demo[Any, Any]] = {name: kind.demo for name, kind in DEVICE_TYPES.items() if kind.demo is not None}
FIGURES = ("packets", "bytes", "kicks", "calls", "suppressed")
"""Counters of a queue that the table shows, besides drops."""
PORTED = [name for name, demo in DEMOS.items() if demo.ports]
"""Device types with ports to choose from."""
HELP = f"""Build a system with one device and test the device.

{" ".join(f"{name}: {demo.about}." for name, demo in DEMOS.items())} Runs that need a missing program are left out, with
a line that says so. The exit status is 1 if data differ, a ping is lost, a TCP run ends early, UDP at 50 Mbit/s loses
more than 1 %, or a drop counter increases.
"""


@click.command("demo", help=HELP)
@click.option("--device", type=click.Choice(list(DEMOS)), default="net", show_default=True, help="Device type.")
@click.option(
    "--port",
    type=click.Choice(list(dict.fromkeys(port for name in PORTED for port in DEMOS[name].ports))),
    help=f"Port at both ends of a {' or '.join(PORTED)} device.  [default: {DEMOS['net'].ports[0]}]",
)
@click.option(
    "--transport",
    type=click.Choice(list(TRANSPORTS)),
    default="pci",
    show_default=True,
    help="Transport between driver and device.",
)
@click.option(
    "--mode",
    type=click.Choice(["direct", "mediated"]),
    default="direct",
    show_default=True,
    help="direct: the device uses its port itself; mediated: a local driver does so, behind a mediator.",
)
@click.option("--seconds", type=click.IntRange(1, 3600), default=3, show_default=True, help="Length of each timed run.")
@json_option
@name_option
@rootless_option
@log_options
@errors_in_one_line
def command(
    device: str,
    port: str | None,
    transport: str,
    mode: str,
    seconds: int,
    json_file: Path | None,
    name: str,
    in_namespace: bool,
) -> None:
    demo = DEMOS[device]
    if port is not None and port not in demo.ports:
        raise click.UsageError(f"--port requires --device {' or '.join(PORTED)}: a {device} device has no {port} port")
    first = port or next(iter(demo.ports), "")
    if in_namespace or _is_better_rootless(demo, first):
        enter_rootless()
    ports = _ports(demo, first)
    with open_json(json_file) as write:
        report = _demonstrate(device, transport, mode, seconds, name, ports)
        click.echo("\n" + _tables(report))
        write(report.as_dict())
    failures = report.failures()
    for failure in failures:
        click.echo(f"vnet: {failure}", err=True)
    click.get_current_context().exit(1 if failures else 0)


def _demonstrate(device: str, transport: str, mode: str, seconds: int, name: str, ports: Iterator[str]) -> DemoReport:
    """Run the demonstration on the first of the ``ports`` that this process may use."""
    while True:
        port = next(ports)
        with TemporaryDirectory(prefix="vnet-demo-") as folder:
            settings = DemoSettings(transport, mode, seconds, Path(folder), port)
            topology = demo_topology(device, settings)
            [spec] = topology.devices.values()
            driver, other = topology.ends(spec)
            kind = ", ".join(filter(None, (device, port)))
            click.echo(f"{driver} (virtio-{kind}) <== {transport}, {mode} ==> {other} (vhost-{kind})")
            try:
                # A system without namespaces leaves nothing behind if it is killed.
                with claim(name, topology) if topology.own_netns(name) else nullcontext():
                    return run_until_signal(partial(_run, device, settings, topology, name))
            except (PrivilegeError, PermissionError) as exc:
                if port == DEMOS[device].last_port:
                    raise
                _report_fallback(DEMOS[device], exc)


def _is_better_rootless(demo: Demo[Any, Any], port: str) -> bool:
    """Return whether this user lacks root's rights for a port, and has them in a user namespace; then say so."""
    if not os.geteuid() or port == demo.last_port:
        return False
    try:
        demo.check_port(port)
    except PrivilegeError as exc:
        if exc.command != SUDO or not gives_interfaces():
            return False
        click.echo(f"vnet: {exc.missing}: running in a user namespace (--rootless)", err=True)
        return True
    return False


def _ports(demo: Demo[Any, Any], port: str) -> Iterator[str]:
    """Yield the kind of port to try, if its programs and rights are present, then the one that needs none."""
    if port != demo.last_port:
        try:
            demo.check_port(port)
            yield port
        except PrivilegeError as exc:
            _report_fallback(demo, exc)
    yield demo.last_port


def _report_fallback(demo: Demo[Any, Any], error: Exception) -> None:
    click.echo(f"vnet: {one_line(error)}", err=True)
    click.echo(f"vnet: running on {demo.fallback} instead", err=True)


async def _run(device: str, settings: DemoSettings, topology: Topology, name: str) -> DemoReport:
    with progress_bar("demo", 0) as bar:

        def on_plan(count: int) -> None:
            bar.total = count

        def on_start(plan: Plan) -> None:
            if bar.visible:
                bar.show(f"{plan.name}, {plan.source} to {plan.target}")
            else:
                click.echo(f"  {plan.name}, {plan.source} to {plan.target} ... ", nl=False)

        def on_end(run: Run) -> None:
            start = f"  {run.name}, {run.source} to {run.target} ... " if bar.visible else ""
            bar.echo(start + run.line())

        return await run_demo(device, settings, topology, name=name, on_plan=on_plan, on_start=on_start, on_end=on_end)


def _tables(report: DemoReport) -> str:
    runs = [(run.name, f"{run.source} to {run.target}", run.line()) for run in report.runs]
    queues = [
        (
            row.device,
            row.side,
            row.queue,
            *(getattr(row.counters, name) for name in FIGURES),
            counts(row.counters.drops),
        )
        for row in report.queues
    ]
    columns = ("device", "side", "queue", report.units, *FIGURES[1:], "drops")
    return f"{render(('run', 'direction', 'result'), runs)}\n\n{render(columns, queues)}"
