"""``vnet demo``: build a system, send traffic through one device, and judge the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from drivers.registry import TRANSPORTS
from vnet.cli.common import errors_in_one_line, name_option, one_line
from vnet.cli.output import json_option, open_json
from vnet.cli.signals import run_until_signal
from vnet.cli.table import render
from vnet.demo import DEMOS, Demo, DemoReport, DemoSettings, run_demo
from vnet.ends.net.end import PortKind
from vnet.errors import PrivilegeError
from vnet.linux.netns import check_netns
from vnet.ports.packet.open import check_tun
from vnet.system.claim import claim
from vnet.topology import Topology
from vnet.traffic.kernel import Plan, Run
from vnet.traffic.tools import need_tools

__all__ = ["command"]


@click.command("demo")
@click.option("--device", type=click.Choice(list(DEMOS)), default="net", show_default=True, help="Device type.")
@click.option(
    "--port",
    type=click.Choice(["tun", "tap", "memory"]),
    help="Port at both ends of a network device.  [default: tun]",
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
@errors_in_one_line
def command(
    device: str, port: PortKind | None, transport: str, mode: str, seconds: int, json_file: Path | None, name: str
) -> None:
    """Build a system with one device and test the device.

    net: ping and iperf3; without TUN, root or these programs, scapy frames on in-memory ports. blk: nbdcopy, compared
    by hash, and fio. scsi and rpmsg: our own Python programs. Runs that need a missing program are left out, with a
    line that says so. The exit status is 1 if data differ, a ping is lost, a TCP run ends early, UDP at 50 Mbit/s loses
    more than 1 %, or a drop counter increases.
    """
    if port is not None and device != "net":
        raise click.UsageError(f"--port requires --device net: a {device} device has no packet port")
    kinds = _ports(port or "tun") if device == "net" else _ports("memory")
    with open_json(json_file) as write:
        report = _demonstrate(device, transport, mode, seconds, name, kinds)
        click.echo("\n" + _tables(report))
        write(report.as_dict())
    failures = report.failures()
    for failure in failures:
        click.echo(f"vnet: {failure}", err=True)
    click.get_current_context().exit(1 if failures else 0)


def _demonstrate(
    device: str, transport: str, mode: str, seconds: int, name: str, kinds: Iterator[PortKind]
) -> DemoReport:
    """Run the demonstration on the first of the port ``kinds`` that this process may use."""
    while True:
        port = next(kinds)
        with TemporaryDirectory(prefix="vnet-demo-") as folder:
            settings = DemoSettings(transport, mode, seconds, Path(folder), port)
            topology = DEMOS[device].topology(settings)
            [spec] = topology.devices.values()
            driver, other = topology.ends(spec)
            kind = f"{device}, {port}" if device == "net" else device
            click.echo(f"{driver} (virtio-{kind}) <== {transport}, {mode} ==> {other} (vhost-{kind})")
            try:
                # A system without namespaces leaves nothing behind if it is killed.
                with claim(name, topology) if topology.own_netns(name) else nullcontext():
                    return run_until_signal(partial(_run, DEMOS[device], settings, topology, name))
            except (PrivilegeError, PermissionError) as exc:
                if port == "memory":
                    raise
                _report_fallback(exc)


def _ports(port: PortKind) -> Iterator[PortKind]:
    """Yield the kind of port to try, if its tools and rights are present, then memory."""
    if port != "memory":
        try:
            need_tools("ping", "iperf3", "nsenter")
            check_tun()
            check_netns()
            yield port
        except PrivilegeError as exc:
            _report_fallback(exc)
    yield "memory"


def _report_fallback(error: Exception) -> None:
    click.echo(f"vnet: {one_line(error)}", err=True)
    click.echo("vnet: running on in-memory ports with scapy traffic instead", err=True)


async def _run(demo: Demo, settings: DemoSettings, topology: Topology, name: str) -> DemoReport:
    def on_start(plan: Plan) -> None:
        click.echo(f"  {plan.name}, {plan.source} to {plan.target} ... ", nl=False)

    def on_end(run: Run) -> None:
        click.echo(run.line())

    return await run_demo(demo, settings, topology, name=name, on_start=on_start, on_end=on_end)


def _tables(report: DemoReport) -> str:
    runs = [(run.name, f"{run.source} to {run.target}", run.line()) for run in report.runs]
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
    columns = ("device", "side", "queue", report.units, "bytes", "kicks", "calls", "suppressed", "drops")
    return f"{render(('run', 'direction', 'result'), runs)}\n\n{render(columns, queues)}"
