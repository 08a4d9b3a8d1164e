"""``vnet show``: print the state of a running system."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.live_names import complete_things
from vnet.cli.query import query
from vnet.cli.ring import ring_tree
from vnet.cli.rootless import require_rootless, require_rootless_option
from vnet.cli.tree import (
    counts,
    device_title,
    device_tree,
    host_title,
    indent,
    last_reset,
    link_title,
    link_tree,
    process_lines,
    queue_tree,
    rule_lines,
    sandbox_lines,
    tree,
    verdict_lines,
)
from vnet.errors import ControlError
from vnet.names import named
from vnet.system.state import running
from vnet.views.ends import PortView
from vnet.views.link import LinkView
from vnet.views.plain import to_plain
from vnet.views.ring import RingReport
from vnet.views.system import DeviceQueueView, DeviceView, DriverQueueView, SystemView

__all__ = ["command", "summary"]


@click.command("show")
@name_option
@require_rootless_option
@click.option("--all", "everything", is_flag=True, help="Print everything: PCI trees, links, both ends of each device.")
@click.option("--json", "as_json", is_flag=True, help="Print everything, or PART or QUEUE, as JSON.")
@click.option("--hex", "with_bytes", is_flag=True, help="Print also the bytes of the three areas of QUEUE's ring.")
@click.option(
    "--svg",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Draw QUEUE's ring to a file instead; - is standard output.",
)
@click.argument("part", required=False, shell_complete=complete_things)
@click.argument("queue", required=False)
@errors_in_one_line
def command(
    name: str,
    rootless: bool,
    everything: bool,
    as_json: bool,
    with_bytes: bool,
    svg: Path | None,
    part: str | None,
    queue: str | None,
) -> None:
    """Print hosts, links, devices and traffic.

    With PART, print that device or link: both ends of a device with features, ports, queues; of a link its requests,
    timing, and faults with their rules. With QUEUE of a device, such as receiveq1, print that queue and its
    ring: indices, flags, suppression of notifications, and every outstanding chain with its descriptors.
    """
    for option, given in (("--hex", with_bytes), ("--svg", svg)):
        if given and queue is None:
            raise click.UsageError(f"{option} requires a QUEUE")
    if rootless:
        require_rootless(running(name), name)
    system = query(name, SystemView, "query-vnet")
    view: object = system
    lines = tree(system) if everything else summary(system)
    if part is not None:
        if part in system.processes:
            other = system.processes[part].system
            raise ControlError(f"{part} has a process of its own; try: vnet show --name {other} {part}")
        chosen: DeviceView | LinkView
        if queue is None:
            parts: Mapping[str, DeviceView | LinkView] = {**system.devices, **system.links}
            chosen = named("device or link", parts, part, ControlError)
        else:
            chosen = named("device", system.devices, part, ControlError)
        view = chosen
        if isinstance(chosen, LinkView):
            lines = link_tree(part, chosen)
        else:
            lines = itertools.chain(verdict_lines(chosen), device_tree(part, chosen))
        if queue is not None and isinstance(chosen, DeviceView):
            sides = named("queue", _sides(chosen), queue, ControlError, f"{part}: ")
            report = query(name, RingReport, "query-ring", {"name": part, "queue": queue})
            if svg is not None:
                _draw(svg, f"{name}: {part} {queue}", report)
                return
            view = {**sides, "ring": report}
            lines = (line for side, each in sides.items() for line in queue_tree(side, each))
            lines = itertools.chain(lines, ring_tree(report, with_bytes))
    click.echo(json.dumps(to_plain(view), indent=2) if as_json else "\n".join(lines))


def _draw(file: Path, title: str, report: RingReport) -> None:
    """Write the picture of a ring. Raises OSError."""
    from vnet.ring_picture.draw import ring_picture

    picture = ring_picture(title, report)
    if str(file) == "-":
        click.echo(picture, nl=False)
    else:
        file.write_text(picture, encoding="utf-8")


def summary(system: SystemView) -> Iterator[str]:
    """Yield the system in a few lines per host, link and device."""
    yield system.name
    yield from indent(1, sandbox_lines(system.sandbox))
    yield from indent(1, process_lines(system.processes))
    for name, host in system.hosts.items():
        yield f"  {host_title(name, host)}"
    for name, link in system.links.items():
        yield f"  {link_title(name, link)}"
        yield from indent(2, rule_lines(link))
    for name, ntb in system.ntbs.items():
        yield f"  NTB {name} on {ntb.host}: {'up' if ntb.link_up else 'down'}"
    for name, device in system.devices.items():
        yield f"  {device_title(name, device)}"
        yield from indent(2, verdict_lines(device))
        yield from indent(2, _traffic(system, name, device))


def _traffic(system: SystemView, name: str, device: DeviceView) -> Iterator[str]:
    """Yield the traffic of each side that counts it, with its drops by cause, and the last reset."""
    for side, own in device.sides:
        figures = [queue.view.counters for queue in own.queues]
        if isinstance(own.port, PortView):
            traffic = f"in {own.port.rx_packets}, out {own.port.tx_packets} packets"
        elif figures:
            traffic = f"{sum(each.packets for each in figures)} packets, {sum(each.bytes for each in figures)} bytes"
        else:
            continue  # another process counts, or nothing is there yet
        yield f"{side} on {own.host}: {traffic}, drops: {counts(system.drops_of(name, side))}"
    if device.driver.last_reset.reason and (device.verdict is None or device.verdict.rule != "reset-loop"):
        yield last_reset(device.driver.last_reset)


def _sides(device: DeviceView) -> Mapping[str, Mapping[str, DriverQueueView | DeviceQueueView]]:
    """Return the queues of a device by name, then by side."""
    sides: dict[str, dict[str, DriverQueueView | DeviceQueueView]] = {}
    for side, own in device.sides:
        for queue in own.queues:
            sides.setdefault(queue.view.name, {})[side] = queue
    return sides
