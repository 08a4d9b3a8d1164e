"""``vnet show``: print the state of a running system."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

import click

from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.table import render
from vnet.system.client import ask

__all__ = ["command", "tree"]

WIDTH = 110
"""Characters of the longest line."""
COLUMNS = {
    "num": "num",
    "avail": "avail",
    "used": "used",
    "in_flight": "in flight",
}
"""Headers of the columns with ring state, by key."""
COUNTERS = ("packets", "bytes", "kicks", "calls", "suppressed")
"""Keys and headers of the columns with counters."""

Plain = Mapping[str, Any]
"""Result of `vnet.system.snapshot.describe`, parsed from JSON."""


@click.command("show")
@name_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@errors_in_one_line
def command(name: str, as_json: bool) -> None:
    """Print hosts, links, devices, rings and counters."""
    snapshot = ask(name, "query-vnet")
    assert isinstance(snapshot, dict)
    click.echo(json.dumps(snapshot, indent=2) if as_json else "\n".join(tree(snapshot)))


def tree(snapshot: Plain) -> Iterator[str]:
    """Yield the snapshot as lines, indented below their parents."""
    yield snapshot["name"]
    for name, host in snapshot["hosts"].items():
        yield from _indent(1, _host(name, host))
    for name, link in snapshot["links"].items():
        yield from _indent(1, _link(name, link))
    for name, ntb in snapshot["ntbs"].items():
        yield from _indent(1, _ntb(name, ntb))
    for name, device in snapshot["devices"].items():
        yield from _indent(1, _device(name, device))
    yield f"  drops: {_counts(snapshot['drops'])}"


def _host(name: str, host: Plain) -> Iterator[str]:
    irqs = host["interrupts"]
    yield f"host {name}: namespace {host['netns'] or 'none'}; interrupts {_counts(irqs)}"
    for bus in host["pci"]:
        yield f"  bus {bus['bus']:02x} behind link {bus['link']}: {_up(bus['up'])}, epoch {bus['epoch']}"
        for function in bus["functions"]:
            yield from _indent(2, _function(f"{function['name']} {_identity(function)}", function))
    for region in host["platform"]:
        yield (
            f"  platform region {region['name']} at {region['address']:#x}, {_size(region['size'])}, "
            f"interrupt {region['irq']}: {region['interrupts']} handled, {region['unhandled']} not"
        )
    for socket in host["sockets"]:
        yield f"  vhost-user socket {socket['name']}: {socket['connections']} connections so far"
    for controller in host["controllers"]:
        yield f"  endpoint controller {controller['name']} on link {controller['link']}"
        for function in controller["functions"]:
            title = f"function {function['function']} {_identity(function)} class {function['class']:06x}"
            yield from _indent(2, _function(f"{title}: {' '.join(function['command'])}", function))
        for window in controller["windows"]:
            yield (
                f"    outbound window {window['addr']:#x}, {_size(window['size'])}, of function {window['function']}, "
                f"{window['pinned']} views"
            )


def _function(title: str, function: Plain) -> Iterator[str]:
    yield title
    for bar in function["bars"]:
        number = bar.get("bar", bar.get("index"))
        yield f"  BAR {number} at {bar['address']:#x}, {_size(bar['size'])}"
    capabilities = [f"{capability['offset']:02x} {capability['name']}" for capability in function["capabilities"]]
    yield from _wrap("  capabilities: ", ", ".join(capabilities))
    msix = function.get("msix")
    if msix is not None:
        yield f"  MSI-X: {msix['vectors']} vectors, {'on' if msix['enabled'] else 'off'}"


def _link(name: str, link: Plain) -> Iterator[str]:
    yield (
        f"link {name}: {link['root']} (root complex) to {link['endpoint']} (endpoint), {_up(link['up'])}, "
        f"epoch {link['epoch']}, {link['windows']} windows"
    )
    for kind in ("config", "downstream", "upstream", "messages"):
        yield f"  {kind}: {_counts(link[kind])}"
    timing = link.get("timing")
    if timing is not None:
        yield (
            f"  PCIe generation {timing['generation']}, {timing['lanes']} lanes, "
            f"{timing['rate'] / 1e9:.2f} GB/s in each direction, slept {timing['slept']:.3f} s"
        )
        for direction in ("downstream", "upstream"):
            carried = timing[direction]
            sums = f"{carried['payload']} bytes in {carried['wire']} on the link"
            yield f"    {direction}: {_counts(carried['tlps'])}; {sums}"
    if link.get("faults"):
        yield f"  faults: {_counts(link['faults'])}"
    trace = link.get("trace")
    if trace is not None:
        stopped = f"; it ended: {trace['error']}, {trace['lost']} lines lost" if trace["error"] else ""
        yield f"  trace {trace['path']}: {trace['lines']} lines{stopped}"


def _ntb(name: str, ntb: Plain) -> Iterator[str]:
    yield f"NTB {name} on {ntb['host']}: the link between the hosts is {_up(ntb['link_up'])}, epoch {ntb['link_epoch']}"
    for end in ("primary", "secondary"):
        side = ntb[end]
        link = "link requested" if side["link_requested"] else "link not requested"
        doorbells = f"{side['configured_doorbells']} doorbells configured"
        yield f"  {end}, controller {side['controller']}: {link}, {doorbells}"
        yield f"    {_counts({key: side[key] for key in ('doorbells', 'dead_doorbells', 'commands', 'refused')})}"
        yield "    " + ", ".join(f"{bar} at register {register}" for bar, register in side["bars"].items())
        yield from _wrap("    configuration: ", ", ".join(f"{key} {value:#x}" for key, value in side["config"].items()))
        set_to = (f"{name} {value:#x}" for name, value in side["spads"].items() if value)
        yield from _wrap("    scratchpads: ", ", ".join(set_to) or "all 0")
        yield from _wrap("    rang the other host's doorbells: ", _counts(side["rung"]))
        for window in side["windows"]:
            shares = f"shares memory from {window['shares']:#x} on" if window["mapped"] else "shares nothing"
            yield f"    {window['name']}: {_size(window['size'])} at {window['offset']:#x} of BAR2, {shares}"


def _device(name: str, device: Plain) -> Iterator[str]:
    yield f"device {name}: {device['type']} over {device['transport']} on {device['on']}, {device['location']}: " + (
        "up" if device["up"] else f"down ({device['trouble']})"
    )
    for side in ("driver", "device"):
        yield from _indent(1, _end(side, device[side]))
    yield from _indent(1, _queues(device))


def _end(side: str, end: Plain) -> Iterator[str]:
    if end.get("foreign"):
        yield f"{side} at {end['host']}: in another process"
    elif not end.get("found", True):
        yield f"{side} on {end['host']}: not enumerated yet"
    else:
        yield f"{side} on {end['host']}: {end['name']}, {end['driver'] or 'no driver'} {end['state']}" + (
            f" ({end['error']})" if end["error"] else ""
        )
        times = f"restarts {end['restarts']}" if side == "driver" else f"resets {end['resets']}"
        yield f"  status: {' '.join(end['status']) or 'reset'}; {times}"
        yield from _last_reset(end.get("last_reset"))
        if side == "device":
            yield from _wrap("  offered: ", " ".join(end["device_features"]))
            values = (f"{name} {value:#x}" for name, value in end["registers"].items())
            yield from _wrap("  registers: ", ", ".join(values) or "trapped")
        yield from _wrap("  negotiated: ", " ".join(end["features"]) or "nothing")
        for failure, same in groupby(end["failures"]):
            count = len(list(same))
            yield f"  failed: {failure}" + (f" ({count} times)" if count > 1 else "")
    yield from (f"  {line}" for line in _port(end["port"]))


def _last_reset(last: Plain | None) -> Iterator[str]:
    """Yield the reason of repeated resets by the driver, and the pause before the next one."""
    if last is not None and last["in_a_row"] > 1:
        pause = f", next try after {last['pause']:.2f} s" if last["pause"] else ""
        yield f"  last reset, {last['in_a_row']} in a row: {last['reason']}{pause}"


def _port(port: Plain) -> Iterator[str]:
    """Yield the lines of an end: an interface with its figures, or the plain data of another device type."""
    if "ifname" not in port:
        tables = {key: value for key, value in port.items() if isinstance(value, list)}
        rest = _flat({key: value for key, value in port.items() if key not in {"kind", "live", *tables}})
        state = "live" if port["live"] else "stopped"
        yield from _wrap("port: ", ", ".join((f"{port['kind']}, {state}", *rest)))
        for key, rows in tables.items():
            for row in rows:
                yield from _wrap(f"  {key}: ", ", ".join(_flat(row)))
        return
    where = f" {port['ifname']} in {port['netns']}" if port["netns"] else ""
    yield (
        f"port: {port['kind']}{where}, {' '.join(port['addresses']) or 'no addresses'}, "
        f"{port['lost'] or ('live' if port['live'] else 'stopped')}"
    )
    yield (
        f"  in {port['rx_packets']} packets {port['rx_bytes']} bytes, "
        f"out {port['tx_packets']} packets {port['tx_bytes']} bytes, drops: {_counts(port['drops'])}"
    )
    yield from _network(port["network"])


def _network(network: Plain) -> Iterator[str]:
    """Yield the link settings, as ``ethtool`` shows them, and the receive filter."""
    if "mac" not in network:
        return
    speed = "speed unknown" if network["speed"] is None else f"{network['speed']} Mbit/s"
    carrier = {True: "carrier on, ", False: "carrier off, "}.get(network.get("carrier", ""), "")
    offloads = " ".join(network["offloads"]) or "none"
    yield (
        f"  {network['mac']}, {carrier}{speed}, duplex {network['duplex']}, "
        f"pairs of queues {network['pairs']} of {network['max_pairs']}, offloads {offloads}"
    )
    receives = network["receives"]
    tables = [f"{name} {' '.join(receives[name])}" for name in ("unicast", "multicast") if receives[name]]
    vlans = receives["vlans"]
    vlan = "VLANs " + ("all" if vlans is None else " ".join(map(str, vlans)) or "none")
    yield from _wrap("  receives: ", ", ".join((" ".join(receives["modes"]) or "own and broadcast", *tables, vlan)))
    if len(network["by_pair"]) > 1:
        for number, pair in enumerate(network["by_pair"], 1):
            sides = (f"{side} {pair[side]['packets']} packets {pair[side]['bytes']} bytes" for side in pair)
            yield f"  pair {number}: {', '.join(sides)}"


def _flat(values: Plain) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value)
        elif value is not None:
            yield f"{key} {value}"


def _queues(device: Plain) -> Iterator[str]:
    rows = []
    for side in ("driver", "device"):
        for queue in device[side].get("queues", ()):
            ring = queue["ring"] or {}
            state = "broken" if ring.get("broken") else "live" if queue["live"] else "stopped"
            rows.append(
                (
                    side,
                    queue["name"],
                    state,
                    *(ring.get(key, 0) for key in COLUMNS),
                    *(queue[key] for key in COUNTERS),
                    queue.get("rescues", 0),
                    _counts(queue["drops"]),
                    " ".join(map(str, queue["batches"])),
                )
            )
    if rows:
        headers = (
            "side",
            "queue",
            "ring",
            *COLUMNS.values(),
            *COUNTERS,
            "rescues",
            "drops",
            "batches of 1, 2-3, 4-7, ...",
        )
        yield from render(headers, rows).splitlines()


def _identity(function: Plain) -> str:
    return f"{function['vendor']:04x}:{function['device']:04x}"


def _up(up: bool) -> str:
    return "up" if up else "down"


def _size(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit and not size % unit:
            return f"{size // unit} {name}"
    return f"{size} bytes"


def _counts(counts: Plain) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"


def _indent(depth: int, lines: Iterable[str]) -> Iterator[str]:
    return ("  " * depth + line for line in lines)


def _wrap(label: str, text: str) -> Iterator[str]:
    yield from textwrap.wrap(
        text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label), break_on_hyphens=False
    )
