"""A system, or a part of one, as indented lines."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import attrs

from vnet.cli.table import render
from vnet.views.ends import EndView, NetworkView, PortView
from vnet.views.link import LinkView, RemoteView, WireStatistics
from vnet.views.pci import BarView, CapabilityView, ErrorView, LinkErrorView, NtbSideView, NtbView
from vnet.views.plain import to_plain
from vnet.views.system import (
    DeviceQueueView,
    DeviceSideView,
    DeviceView,
    DriverQueueView,
    DriverSideView,
    HostView,
    ProcessView,
    QueueView,
    ResetView,
    SandboxView,
    SystemView,
)

__all__ = [
    "counts",
    "device_title",
    "device_tree",
    "host_title",
    "indent",
    "last_reset",
    "link_title",
    "link_tree",
    "process_lines",
    "queue_tree",
    "rule_lines",
    "sandbox_lines",
    "tree",
    "verdict_lines",
]

WIDTH = 110
"""Characters of the longest line."""
QUEUE_COLUMNS = (
    *("side", "queue", "ring", "num", "avail", "used", "in flight"),
    *("packets", "bytes", "kicks", "calls", "suppressed", "rescues", "drops", "batches of 1, 2-3, 4-7, ..."),
)
SHOWN_APART = ("name", "live", "ring", "drops", "batches", "waited")
"""Figures of a queue with lines of their own, its ring's included."""


def sandbox_lines(sandbox: SandboxView) -> Iterator[str]:
    """Yield what the process of a system may still do; nothing without a sandbox."""
    if sandbox.mode != "off":
        rights = f"{sandbox.capabilities} capabilities" if sandbox.capabilities else "no capability"
        calls = f"{sandbox.calls} system calls" if sandbox.calls else "all system calls (vnet doctor says why)"
        files = "only its own files" if sandbox.landlock else "all files (vnet doctor says why)"
        yield f"sandbox {sandbox.mode}: {rights}, {calls}, {files}"


def process_lines(processes: Mapping[str, ProcessView]) -> Iterator[str]:
    """Yield a line for each process of a supervisor."""
    for device, process in processes.items():
        before = f" (its predecessor {process.last_end})" if process.restarts else ""
        past = f", restarts: {process.restarts}{before}"
        if process.pid is not None:
            look = f"; vnet show --name {process.system}" if process.system else ""
            yield f"{device}: process {process.pid} for {process.age:.0f} s{past}{look}"
        else:
            yield f"{device}: no process, it {process.last_end or 'starts'}{past}"


def tree(system: SystemView) -> Iterator[str]:
    """Yield all of the system, indented below their parents."""
    yield system.name
    yield from indent(1, sandbox_lines(system.sandbox))
    yield from indent(1, process_lines(system.processes))
    for name, host in system.hosts.items():
        yield from indent(1, _host(name, host))
    for name, link in system.links.items():
        yield from indent(1, link_tree(name, link))
    for name, ntb in system.ntbs.items():
        yield from indent(1, _ntb(name, ntb))
    for name, device in system.devices.items():
        yield from indent(1, device_tree(name, device))
        yield from indent(2, verdict_lines(device))
    yield f"  drops: {counts(system.drops)}"


def host_title(name: str, host: HostView) -> str:
    return f"host {name}: namespace {host.netns or 'none'}"


def _host(name: str, host: HostView) -> Iterator[str]:
    yield f"{host_title(name, host)}; interrupts {counts(attrs.asdict(host.interrupts))}"
    for bus in host.pci:
        yield f"  bus {bus.bus:02x} behind link {bus.link}: {_up(bus.up)}, epoch {bus.epoch}"
        for function in bus.functions:
            yield f"    {function.name} {_identity(function.vendor, function.device)}"
            yield from indent(3, _function(function.bars, function.capabilities))
    for region in host.platform:
        yield (
            f"  platform region {region.name} at {region.address:#x}, {_size(region.size)}, "
            f"interrupt {region.irq}: {region.interrupts} handled, {region.unhandled} not"
        )
    for socket in host.sockets:
        yield f"  vhost-user socket {socket.name}: {socket.connections} connections so far"
    for controller in host.controllers:
        yield f"  endpoint controller {controller.name} on link {controller.link}"
        for own in controller.functions:
            config, msix = own.config, own.msix
            title = f"function {own.function} {_identity(config.vendor, config.device)} class {config.class_code:06x}"
            yield f"    {title}: {' '.join(config.command)}"
            yield from indent(3, _function(config.bars, config.capabilities))
            if msix is not None:
                yield f"      MSI-X: {msix.vectors} vectors, {'on' if msix.enabled else 'off'}"
        for window in controller.windows:
            yield (
                f"    outbound window {window.addr:#x}, {_size(window.size)}, of function {window.function}, "
                f"{window.pinned} views"
            )


def _function(bars: Iterable[BarView], capabilities: Iterable[CapabilityView]) -> Iterator[str]:
    for bar in bars:
        yield f"BAR {bar.bar} at {bar.address:#x}, {_size(bar.size)}"
    yield from _wrap("capabilities: ", ", ".join(f"{each.offset:02x} {each.name}" for each in capabilities))


def link_title(name: str, link: LinkView) -> str:
    up, epoch = _up(link.figures.up), link.figures.epoch
    return f"link {name}: {link.root} (root complex) to {link.endpoint} (endpoint), {up}, epoch {epoch}"


def link_tree(name: str, link: LinkView) -> Iterator[str]:
    """Yield all of a link: its figures, its timing, its faults and its trace."""
    figures, timing, trace = link.figures, link.figures.timing, link.trace
    yield f"{link_title(name, link)}, {figures.windows} windows"
    for kind, requests in figures.requests.items():
        yield f"  {kind}: {counts(attrs.asdict(requests))}"
    if link.remote is not None:
        yield f"  {_remote(link.remote)}"
    if timing is not None:
        yield (
            f"  PCIe generation {timing.generation}, {timing.lanes} lanes, "
            f"{timing.rate / 1e9:.2f} GB/s in each direction, read latency {timing.read_latency * 1e9:.0f} ns, "
            f"slept {timing.slept:.3f} s"
        )
        for direction, carried in timing.directions.items():
            yield f"    {direction}: {counts(carried.tlps)}; {carried.payload} bytes in {carried.wire} on the link"
    if figures.wire is not None:
        yield from indent(1, _wire(figures.wire))
    if link.errors is not None:
        yield from indent(1, _errors(link.errors))
    if figures.faults:
        yield f"  faults: {counts(figures.faults)}"
    yield from indent(1, rule_lines(link))
    if trace is not None:
        stopped = f"; it ended: {trace.error}, {trace.lost} lines lost" if trace.error else ""
        yield f"  trace {trace.path}: {trace.lines} lines{stopped}"


def _wire(wire: WireStatistics) -> Iterator[str]:
    yield f"wire {wire.state}: {wire.time * 1e3:.3f} ms of packets, up {wire.lives} times, {wire.retrains} retrains"
    for name, port in wire.ports.items():
        yield f"  {name}: {counts(port.tlps)}; {port.bytes} bytes in {port.frames} frames, {port.replayed} replayed"
        if port.errors:
            yield f"    errors: {counts(port.errors)}"
    if wire.faults:
        yield f"  faults of the wire: {counts(wire.faults)}"


def _errors(errors: LinkErrorView) -> Iterator[str]:
    """Yield what Advanced Error Reporting has: errors that were handled, and registers that are not clear."""
    root = errors.root
    yield f"error reporting: {counts(root.handled)} handled, {root.link_resets} resets of the link"
    pending = f"; messages not handled: {', '.join(root.received)}" if root.received else ""
    registers = _registers(root.errors) + pending
    if registers:
        yield f"  root port {root.port}{registers}"
    for name, function in errors.functions.items():
        if registers := _registers(function):
            yield f"  {name}{registers}"


def _registers(view: ErrorView) -> str:
    """Return the error registers of a function; empty if they are clear."""
    parts = (
        ("device status", ", ".join(view.device)),
        ("uncorrectable", ", ".join(view.uncorrectable)),
        ("correctable", ", ".join(view.correctable)),
        ("first", f"{view.first} with header {view.header or 'none'}" if view.first else ""),
    )
    shown = "; ".join(f"{name} {value}" for name, value in parts if value)
    return shown and f": {shown}"


def rule_lines(link: LinkView) -> Iterator[str]:
    """Yield the rules of faults of a link, with what each has done."""
    yield from (f"rule {rule.words}" for rule in link.figures.rules)


def _remote(remote: RemoteView) -> str:
    count = "1 connection" if remote.connections == 1 else f"{remote.connections} connections"
    state = "connected" if remote.connected else f"not connected{f' ({remote.trouble})' if remote.trouble else ''}"
    blocked = f", accesses took {remote.blocked:.3f} s" if remote.blocked else ""
    errors = f", errors: {counts(remote.errors)}" if remote.errors else ""
    return f"other process at {remote.socket}: {state}, {count} so far{blocked}{errors}"


def _ntb(name: str, ntb: NtbView) -> Iterator[str]:
    yield f"NTB {name} on {ntb.host}: the link between the hosts is {_up(ntb.link_up)}, epoch {ntb.link_epoch}"
    yield from indent(1, _ntb_side("primary", ntb.primary))
    yield from indent(1, _ntb_side("secondary", ntb.secondary))


def _ntb_side(name: str, side: NtbSideView) -> Iterator[str]:
    link = "link requested" if side.link_requested else "link not requested"
    yield f"{name}, controller {side.controller}: {link}, {side.configured_doorbells} doorbells configured"
    yield f"  {counts(attrs.asdict(side.figures))}"
    yield "  " + ", ".join(f"{bar} at register {register}" for bar, register in side.bars.items())
    yield from _wrap("  configuration: ", ", ".join(f"{key} {value:#x}" for key, value in side.config.items()))
    spads = (f"{name} {value:#x}" for name, value in side.spads.items() if value)
    yield from _wrap("  scratchpads: ", ", ".join(spads) or "all 0")
    yield from _wrap("  rang the other host's doorbells: ", counts(side.rung))
    for window in side.windows:
        shares = f"shares memory from {window.shares:#x} on" if window.mapped else "shares nothing"
        yield f"  {window.name}: {_size(window.size)} at {window.offset:#x} of its BAR, {shares}"


def device_title(name: str, device: DeviceView) -> str:
    state = "up" if device.up else f"down ({device.trouble})"
    return f"device {name}: {device.type} over {device.transport} on {device.on}, {device.location}: {state}"


def verdict_lines(device: DeviceView) -> Iterator[str]:
    """Yield what is wrong with a device that is unwell, and the command that shows more."""
    if device.verdict is not None:
        yield device.verdict.words


def device_tree(name: str, device: DeviceView) -> Iterator[str]:
    """Yield all of a device: both sides, their ports and their queues."""
    yield device_title(name, device)
    yield from indent(1, _driver_side(device.driver))
    yield from indent(1, _device_side(device.device))
    rows = [_row(side, queue) for _, side, queue in device.queues()]
    if rows:
        yield from indent(1, render(QUEUE_COLUMNS, rows).splitlines())


def _driver_side(side: DriverSideView) -> Iterator[str]:
    if side.foreign:
        yield f"driver at {side.host}: in another process"
    elif side.enumerated:
        yield from _bound("driver", side)
        yield f"  status: {' '.join(side.status) or 'reset'}; restarts {side.restarts}"
        if side.last_reset.in_a_row > 1:
            yield f"  {last_reset(side.last_reset)}"
        yield from _negotiated(side)
    else:
        yield f"driver on {side.host}: not enumerated yet"
    yield from indent(1, _port(side.port))


def _device_side(side: DeviceSideView) -> Iterator[str]:
    if side.foreign:
        yield f"device at {side.host}: in another process"
    else:
        yield from _bound("device", side)
        yield f"  status: {' '.join(side.status) or 'reset'}; resets {side.resets}"
        yield from _wrap("  offered: ", " ".join(side.device_features))
        values = (f"{name} {value:#x}" for name, value in side.registers.items())
        yield from _wrap("  registers: ", ", ".join(values) or "trapped")
        yield from _negotiated(side)
    yield from indent(1, _port(side.port))


def _bound(name: str, side: DriverSideView | DeviceSideView) -> Iterator[str]:
    binding = side.binding
    error = f" ({binding.error})" if binding.error else ""
    yield f"{name} on {side.host}: {side.name}, {binding.driver or 'no driver'} {binding.state}{error}"


def _negotiated(side: DriverSideView | DeviceSideView) -> Iterator[str]:
    yield from _wrap("  negotiated: ", " ".join(side.features) or "nothing")
    for failure, same in groupby(side.failures):
        count = len(list(same))
        yield f"  failed: {failure}" + (f" ({count} times)" if count > 1 else "")


def last_reset(reset: ResetView) -> str:
    """Return the reason of the last reset, and the pause before the next one."""
    pause = f", next try after {reset.pause:.2f} s" if reset.pause else ""
    return f"last reset, {reset.in_a_row} in a row: {reset.reason}{pause}"


def _port(port: EndView) -> Iterator[str]:
    """Yield the lines of an end: an interface with its figures, or the facts of another device type."""
    if not isinstance(port, PortView):
        facts: dict[str, Any] = to_plain(port)
        tables = {key: value for key, value in facts.items() if isinstance(value, list)}
        rest = _flat({key: value for key, value in facts.items() if key not in {"type", "kind", "live", *tables}})
        yield from _wrap("port: ", ", ".join((f"{port.kind}, {'live' if port.live else 'stopped'}", *rest)))
        for key, rows in tables.items():
            for row in rows:
                yield from _wrap(f"  {key}: ", ", ".join(_flat(row) if isinstance(row, dict) else [str(row)]))
        return
    where = f" {port.ifname} in {port.netns}" if port.netns else ""
    yield (
        f"port: {port.kind}{where}, {' '.join(port.addresses) or 'no addresses'}, "
        f"{port.lost or ('live' if port.live else 'stopped')}"
    )
    yield (
        f"  in {port.rx_packets} packets {port.rx_bytes} bytes, "
        f"out {port.tx_packets} packets {port.tx_bytes} bytes, drops: {counts(port.drops)}"
    )
    yield from indent(1, _network(port.network))


def _network(network: NetworkView) -> Iterator[str]:
    """Yield the link settings, as ``ethtool`` shows them, and the receive filter."""
    if network.mac is None or network.receives is None:
        return
    speed = "speed unknown" if network.speed is None else f"{network.speed} Mbit/s"
    carrier = "" if network.carrier is None else f"carrier {'on' if network.carrier else 'off'}, "
    yield (
        f"{network.mac}, {carrier}{speed}, duplex {network.duplex}, "
        f"pairs of queues {network.pairs} of {network.max_pairs}, offloads {' '.join(network.offloads) or 'none'}"
    )
    receives = network.receives
    addresses = (("unicast", receives.unicast), ("multicast", receives.multicast))
    tables = [f"{name} {' '.join(table)}" for name, table in addresses if table]
    vlan = "VLANs " + ("all" if receives.vlans is None else " ".join(map(str, receives.vlans)) or "none")
    yield from _wrap("receives: ", ", ".join((" ".join(receives.modes) or "own and broadcast", *tables, vlan)))
    if network.coalescing:
        each = (f"{name} {c.max_packets} packets {c.max_usecs} us" for name, c in network.coalescing.items())
        yield from _wrap("calls after: ", ", ".join(each))
    if (steering := network.steering) is not None:
        entries = ", ".join(f"{count} entries to {name}" for name, count in steering.entries.items())
        text = f"{' '.join(steering.types) or 'nothing'}: {entries}; other frames to {steering.unclassified}"
        yield from _wrap("steers by a hash of ", text)
    if network.hashes:
        yield from _wrap("reports hashes of ", " ".join(network.hashes))
    if network.reports:
        yield from _wrap("hash reports: ", counts(network.reports))
    for name, numbers in network.device_counts.items():
        yield from _wrap(f"the device counts for {name}: ", ", ".join(f"{key} {n}" for key, n in numbers.items()))
    if len(network.by_pair) > 1:
        for number, pair in enumerate(network.by_pair, 1):
            sides = (("received", pair.received), ("sent", pair.sent))
            figures = (f"{side} {traffic.packets} packets {traffic.bytes} bytes" for side, traffic in sides)
            yield f"pair {number}: {', '.join(figures)}"


def _row(side: str, queue: QueueView) -> Sequence[object]:
    ring, counters = queue.ring, queue.counters
    return (
        *(side, queue.name, _ring(queue)),
        *((0, 0, 0, 0) if ring is None else (ring.num, ring.avail, ring.used, ring.in_flight)),
        *(counters.packets, counters.bytes, counters.kicks, counters.calls, counters.suppressed),
        *(queue.rescues, counts(counters.drops), " ".join(map(str, counters.batches))),
    )


def _ring(queue: QueueView) -> str:
    return "broken" if queue.ring is not None and queue.ring.broken else "live" if queue.live else "stopped"


def queue_tree(side: str, queue: DriverQueueView | DeviceQueueView) -> Iterator[str]:
    """Yield every figure of a queue on one side."""
    yield f"{side} {queue.view.name}: {_ring(queue.view)}"
    view, counters = queue.view, queue.view.counters
    yield from _wrap("  ring: ", "none" if view.ring is None else ", ".join(_flat(attrs.asdict(view.ring))))
    figures = {key: value for key, value in to_plain(queue).items() if key not in SHOWN_APART and value != ""}
    yield from _wrap("  ", ", ".join(_flat(figures)))
    yield f"  drops: {counts(counters.drops)}"
    yield f"  batches of 1, 2-3, 4-7, ...: {' '.join(map(str, counters.batches))}"


def _flat(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        elif value is not None:
            yield f"{key} {value}"


def _identity(vendor: int, device: int) -> str:
    return f"{vendor:04x}:{device:04x}"


def _up(up: bool) -> str:
    return "up" if up else "down"


def _size(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit and not size % unit:
            return f"{size // unit} {name}"
    return f"{size} bytes"


def counts(figures: Mapping[str, int]) -> str:
    """Return the figures above 0 by name; "none" without one."""
    return ", ".join(f"{name} {count}" for name, count in figures.items() if count) or "none"


def indent(depth: int, lines: Iterable[str]) -> Iterator[str]:
    """Return the lines, ``depth`` levels further to the right."""
    return ("  " * depth + line for line in lines)


def _wrap(label: str, text: str) -> Iterator[str]:
    yield from textwrap.wrap(
        text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label), break_on_hyphens=False
    )
