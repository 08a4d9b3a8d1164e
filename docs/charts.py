"""Draw the benchmark's charts, and write its tables into its page, from what ``vnet bench --json`` wrote.

vnet bench --suite peers,disk --congestion cubic --rounds 5 --json docs/benchmark.json
python docs/charts.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

import attrs
import cattrs

from vnet.bench.disk import DiskResults
from vnet.bench.figures import Results
from vnet.cli.bench_tables import disk_table, peers_table

HERE = Path(__file__).parent
PAGE = HERE / "benchmark.md"
TABLES = re.compile(r"(?<=<!-- Written by docs/charts\.py\. -->\n\n).*?(?=\n\n<!-- End of the tables\. -->)", re.DOTALL)
CONTESTANTS: Mapping[str, tuple[str, str]] = {
    "tun": ("this stack", "#1f6feb"),
    "bare-c": ("forwarder in C", "#57606a"),
    "bare": ("forwarder in Python", "#8b949e"),
    "veth": ("veth pair", "#d0d7de"),
    "socat": ("socat", "#bf8700"),
    "pasta": ("pasta", "#d4a72c"),
    "dpdk": ("DPDK", "#cf222e"),
    "two-processes": ("this stack, 2 processes", "#79a8f0"),
    "bare-two-processes": ("forwarder, 2 processes", "#afb8c1"),
}
"""Label and colour of each, in the order of the bars."""
STYLE = "text{fill:#24292f}.value{font-size:11px}@media(prefers-color-scheme:dark){text{fill:#e6edf3}}"
WIDTH, LEFT, BAR, GAP = 720, 190, 16, 12
LEGEND, LEGEND_WIDTH = 4, 180
"""Entries of a line of the legend, and the width of each."""
CUT = 8
"""Bars longer than so many times the median are cut: their value alone says how long they are."""


@attrs.frozen
class Chart:
    """One picture: a group of bars for each label."""

    file: str
    title: str
    figure: str
    unit: float
    """Step of the axis, in the figure's unit."""
    groups: Mapping[str, tuple[str, ...]]
    """Workloads by the label in the picture; a bar is the median of their medians."""


TCP = {
    "1 stream, rc to ep": ("tcp1",),
    "1 stream, ep to rc": ("tcp1-reverse",),
    "4 streams, rc to ep": ("tcp4",),
    "4 streams, ep to rc": ("tcp4-reverse",),
}
CHARTS = (
    Chart("tcp.svg", "TCP, Gbit/s", "bits_per_second", 1e9, TCP),
    Chart(
        "cpu.svg",
        "TCP, CPU seconds per gigabyte",
        "cpu_seconds_per_gigabyte",
        1,
        {"all four": tuple(name for names in TCP.values() for name in names)},
    ),
    Chart(
        "udp.svg",
        "UDP of 64 bytes, 1000 packets/s",
        "packets_per_second",
        1e3,
        {"rc to ep": ("udp64",), "ep to rc": ("udp64-reverse",)},
    ),
    Chart("ping.svg", "Ping after 10 ms of rest, median, ms", "rtt_median", 1, {"there and back": ("ping",)}),
)


def draw(chart: Chart, workloads: Mapping[str, Any]) -> str:
    """Return an SVG picture of medians."""
    groups = [(label, _bars(names, workloads, chart)) for label, names in chart.groups.items()]
    values = [value for _, bars in groups for _, value in bars]
    longest = min(max(values), CUT * median(values))
    y, parts = 40, []
    for label, bars in groups:
        middle = y + BAR * len(bars) / 2 + 4
        parts.append(f'<text x="{LEFT - 12}" y="{middle:.0f}" text-anchor="end">{escape(label)}</text>')
        for contestant, value in bars:
            size = (WIDTH - LEFT - 90) * min(value, longest) / longest
            cut = " (cut)" if value > longest else ""
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{size:.1f}" height="{BAR - 2}" fill="{CONTESTANTS[contestant][1]}"/>'
                f'<text x="{LEFT + size + 6:.1f}" y="{y + 11}" class="value">{value:.3g}{cut}</text>'
            )
            y += BAR
        y += GAP
    for at, contestant in enumerate(dict.fromkeys(name for _, bars in groups for name, _ in bars)):
        label, colour = CONTESTANTS[contestant]
        x, line = 16 + at % LEGEND * LEGEND_WIDTH, y + at // LEGEND * (BAR + 4)
        parts.append(
            f'<rect x="{x}" y="{line}" width="11" height="11" fill="{colour}"/>'
            f'<text x="{x + 16}" y="{line + 10}">{escape(label)}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {line + 24}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(chart.title)}">'
        f"<style>{STYLE}</style>"
        f'<text x="{LEFT}" y="22" font-size="15" font-weight="bold">{escape(chart.title)}</text>'
        f"{''.join(parts)}</svg>\n"
    )


def _bars(names: tuple[str, ...], workloads: Mapping[str, Any], chart: Chart) -> list[tuple[str, float]]:
    bars = []
    for contestant in CONTESTANTS:
        results = [workloads[name][contestant]["median"] for name in names if contestant in workloads.get(name, ())]
        values = [result[chart.figure] for result in results if chart.figure in result]
        if values:
            bars.append((contestant, median(values) / chart.unit))
    return bars


def page(text: str, figures: Mapping[str, Any]) -> str:
    """Return the page with the tables of these figures."""
    peers, disk = cattrs.structure(figures["peers"], Results), cattrs.structure(figures["disk"], DiskResults)
    tables = f"{peers_table(peers)}\n\n{disk_table(disk)}"
    return TABLES.sub(lambda _: tables, text)


def main() -> None:
    """Write every chart beside this file, and the page."""
    figures = json.loads((HERE / "benchmark.json").read_text(encoding="utf-8"))
    for chart in CHARTS:
        (HERE / chart.file).write_text(draw(chart, figures["peers"]["workloads"]), encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), figures), encoding="utf-8")


if __name__ == "__main__":
    main()
