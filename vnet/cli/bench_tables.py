"""The results of a benchmark as text that stands in a README as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from drivers.flow.pump import BATCH_BUCKETS
from vnet.bench import disk
from vnet.bench.figures import Machine, Result, Results, from_samples
from vnet.bench.links import LENGTH, LinksResults
from vnet.bench.measure import WORKLOADS
from vnet.bench.rpmsg import RpmsgResults
from vnet.bench.setups import APART, BARE_APART, CONTESTANTS
from vnet.cli.table import render

__all__ = ["disk_table", "links_table", "peers_table", "rpmsg_table", "tables"]

MIB = 1 << 20
SMALL = 0.1
"""Ratios below it have more digits."""
OURS = "tun"
"""This stack in one process, among its peers."""


@attrs.frozen
class Cell:
    """A number as it is shown; what is no text stands to the right in its column."""

    value: float | None
    digits: int

    def __str__(self) -> str:
        return "-" if self.value is None else f"{self.value:.{self.digits}f}"


@attrs.frozen
class Row:
    """One figure of one workload, or over all runs of several."""

    title: str
    workloads: tuple[str, ...]
    figure: str
    scale: float
    digits: int


# Per kind of workload, what is shown of each: unit, figure, scale, digits.
_SHOWN = {
    "tcp": (("Gbit/s", "bits_per_second", 1e-9, 2),),
    "udp": (("1000 packets/s", "packets_per_second", 1e-3, 1), ("Mbit/s", "bits_per_second", 1e-6, 1)),
    "ping": (("median ms", "rtt_median", 1, 3), ("average ms", "rtt_average", 1, 3)),
}
_GROUPS: Mapping[str, tuple[str, ...]] = {
    "TCP": tuple(workload.name for workload in WORKLOADS if workload.kind == "tcp"),
    "UDP 64 bytes": tuple(workload.name for workload in WORKLOADS if workload.length == 64),
}
_ROWS = (
    *(
        Row(f"{workload.title}, {unit}", (workload.name,), figure, scale, digits)
        for workload in WORKLOADS
        for unit, figure, scale, digits in _SHOWN[workload.kind]
    ),
    Row("TCP, CPU seconds per gigabyte", _GROUPS["TCP"], "cpu_seconds_per_gigabyte", 1, 2),
    *(
        Row(f"{group}, {title}", names, figure, 1, 3)
        for group, names in _GROUPS.items()
        for title, figure in (
            ("notifications per packet", "notifications_per_packet"),
            ("kicks per driver batch", "kicks_per_batch"),
            ("calls per device batch", "calls_per_batch"),
        )
    ),
)


_HEADLINES = tuple(
    row
    for row in _ROWS
    if row.figure in {"packets_per_second", "rtt_median", "cpu_seconds_per_gigabyte"}
    or (row.figure == "bits_per_second" and row.workloads[0] in _GROUPS["TCP"])
)
"""Figures that contestants are compared by."""
_APART = (APART, BARE_APART)


def tables(results: Results, *, batches: bool = True) -> str:
    """Where it was measured, every figure with its ratio to the reference, and the sizes of batches."""
    reference = CONTESTANTS[results.reference].title
    how = f"{_how(results)}; medians; /{reference}: median of each round's ratio to {reference}"
    return _fenced(results.machine, how, (_figures(results), _batches(results) if batches else ""))


def peers_table(results: Results) -> str:
    """Contestants that are left out, the headlines of the others, and the ratios of this stack to each of them."""
    contestants = _contestants(results)
    others = [name for name in contestants if name not in {OURS, *_APART}]
    pairs = [(OURS, name) for name in others] if OURS in contestants else []
    pairs += [_APART] if set(_APART) <= set(contestants) else []
    rows = [[row.title, *(_ratio(results, row, *pair) for pair in pairs)] for row in _HEADLINES]
    headers = ["ratio, of CPU and ping the lower the better", *(_against(*pair) for pair in pairs)]
    left_out = "\n".join(f"left out: {CONTESTANTS[name].title}: {why}" for name, why in results.left_out.items())
    how = f"{_how(results)}; medians, and medians of each round's ratio"
    measured = [row for row in rows if any(cell.value is not None for cell in row[1:] if isinstance(cell, Cell))]
    return _fenced(
        results.machine,
        how,
        (left_out, _figures(results, _HEADLINES, ratios=False), render(headers, measured) if measured else ""),
    )


def _how(results: Results) -> str:
    return f"rounds: {results.rounds}, interleaved, {results.seconds} s a run, TCP with {results.congestion}"


def _against(ours: str, other: str) -> str:
    title = f"/{CONTESTANTS[other].title}"
    return title if ours == OURS else f"{CONTESTANTS[ours].title}{title}"


def _ratio(results: Results, row: Row, ours: str, other: str) -> Cell:
    ratio = _over(results, row.workloads, ours, other).ratio.get(row.figure)
    return Cell(ratio, 2 if ratio is None or ratio >= SMALL else 4)


def _fenced(machine: Machine, how: str, parts: Iterable[str]) -> str:
    where = f"{machine.cores} cores ({machine.cpu}), {machine.kernel}, {machine.python}"
    return "```text\n" + "\n\n".join(filter(None, (f"{where}\n{how}", *parts))) + "\n```"


def _contestants(results: Results) -> list[str]:
    there = {name for results_by_name in results.workloads.values() for name in results_by_name}
    return [name for name in CONTESTANTS if name in there]


def _over(results: Results, names: Sequence[str], contestant: str, reference: str | None = None) -> Result:
    """Join all runs of the workloads on one contestant, with ratios to ``reference``, by default that of the suite."""
    chosen = [results.workloads[name] for name in names if name in results.workloads]
    rounds, base = (
        [sample for by_name in chosen if name in by_name for sample in by_name[name].rounds]
        for name in (contestant, reference or results.reference)
    )
    return from_samples(rounds, base)


def _figures(results: Results, shown: Iterable[Row] = _ROWS, *, ratios: bool = True) -> str:
    contestants = _contestants(results)
    reference = results.reference
    compared = [name for name in contestants if name != reference] if ratios and reference in contestants else []
    headers = [""]
    for name in contestants:
        title = CONTESTANTS[name].title
        headers += [title, f"/{CONTESTANTS[reference].title}"] if name in compared else [title]
    rows: list[list[object]] = []
    for row in shown:
        cells: list[object] = [row.title]
        for name in contestants:
            result = _over(results, row.workloads, name)
            value = result.median.get(row.figure)
            cells.append(Cell(None if value is None else value * row.scale, row.digits))
            if name in compared:
                cells.append(Cell(result.ratio.get(row.figure), 2))
        if any(isinstance(cell, Cell) and cell.value is not None for cell in cells):
            rows.append(cells)
    rows.append(["peak memory, MiB", *_memory(results, contestants, compared)])
    return render(headers, rows)


def _memory(results: Results, contestants: Sequence[str], compared: Sequence[str]) -> Iterator[Cell]:
    reference = results.peak_memory.get(results.reference)
    for name in contestants:
        memory = results.peak_memory.get(name)
        yield Cell(None if memory is None else memory / MIB, 1)
        if name in compared:
            yield Cell(memory / reference if memory and reference else None, 2)


def _batches(results: Results) -> str:
    """How many batches of all had which size, as parts of a hundred."""
    rows: list[list[object]] = []
    for group, names in _GROUPS.items():
        for contestant in _contestants(results):
            queues = [q for s in _over(results, names, contestant).rounds if s is not None for q in s.queues]
            for side in ("driver", "device") if queues else ():
                sizes = [sum(column) for column in zip(*(getattr(q, f"{side}_batches") for q in queues), strict=True)]
                parts = [Cell(100 * size / (sum(sizes) or 1), 1) for size in sizes]
                rows.append([f"{group}, % of batches of", CONTESTANTS[contestant].title, side, *parts])
    return render(["", "", "", *bucket_names()], rows) if rows else ""


def bucket_names() -> list[str]:
    """The sizes of the batches each number counts."""
    first = [1 << at for at in range(BATCH_BUCKETS)]
    return ["1", *(f"{low}-{2 * low - 1}" for low in first[1:-1]), f"{first[-1]}-"]


def disk_table(results: disk.DiskResults) -> str:
    """The disk behind this stack beside nbdkit's."""
    how = (
        f"a disk of {results.size // MIB} MiB over NBD, interleaved; medians; "
        f"/{disk.BARE}: median of each round's ratio"
    )
    rows: list[list[object]] = []
    for workload, title in disk.WORKLOADS.items():
        unit, scale = ("1000/s", 1e-3) if workload == "random" else ("MB/s", 1e-6)
        cells: list[object] = [f"{title}, {unit}"]
        for name in ("vnet", disk.BARE):
            result = results.workloads[workload].get(name)
            cells.append(Cell(None if result is None else result.median * scale, 1))
            cells.append(Cell(None if result is None else result.cpu_seconds, 2))
            if name != disk.BARE:
                cells.append(Cell(None if result is None else result.ratio, 2))
        rows.append(cells)
    headers = ["", "vnet", "CPU s", f"/{disk.BARE}", disk.BARE, "CPU s"]
    return _fenced(results.machine, how, [render(headers, rows)])


def rpmsg_table(results: RpmsgResults) -> str:
    """Messages and round trips over each transport."""
    how = f"{results.size} bytes a message, both sides in one process; rounds: {results.rounds}, interleaved; medians"
    rows = [
        [name, Cell(median.to_device / 1e3, 1), Cell(median.to_driver / 1e3, 1), Cell(median.round_trip * 1e6, 1)]
        for name, median in results.medians.items()
    ]
    headers = ["", "to device, 1000/s", "to driver, 1000/s", "round trip, us"]
    return _fenced(results.machine, how, [render(headers, rows)])


_LINKS = (
    ("start, s", "start", 1.0, 2),
    ("start, CPU s", "start_cpu", 1.0, 2),
    ("memory, MiB", "memory", 1 / MIB, 0),
    ("idle CPU, %", "idle", 100.0, 2),
    ("ping, ms", "ping", 1.0, 2),
    ("CPU us/packet", "cpu_per_packet", 1e6, 2),
)
"""Columns of a table of links: heading, figure, scale, digits."""


def links_table(results: LinksResults) -> str:
    """Start, cost at rest, and cost of a packet on one busy link, by the number of links in a process."""
    fewest = min(results.counts, key=int)
    rounds = len(results.counts[fewest].rounds)
    how = (
        f"links of a network device on TUN in one process; one of them busy with UDP of {LENGTH} bytes; "
        f"rounds: {rounds}, interleaved; medians; load of the machine: {results.load:.1f}"
    )
    rows: list[list[object]] = []
    for count, result in results.counts.items():
        cells: list[object] = [count]
        for _, figure, scale, digits in _LINKS:
            value = result.median[figure]
            cells.append(Cell(None if value is None else value * scale, digits))
        rows.append([*cells, Cell(result.cpu_per_packet_ratio, 2)])
    headers = ["links", *(title for title, *_ in _LINKS), f"/{fewest} link"]
    return _fenced(results.machine, how, [render(headers, rows)])
