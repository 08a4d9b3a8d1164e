"""Draw the benchmark's charts from what ``vnet bench --json`` wrote.

vnet bench --suite net --congestion cubic --json docs/benchmark.json
python docs/charts.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import attrs

HERE = Path(__file__).parent
LABELS: Mapping[str, str] = {
    "tun": "this stack, TUN",
    "tap": "this stack, TAP",
    "bare": "bare forwarder",
    "veth": "veth pair",
}
COLOURS: Mapping[str, str] = {"tun": "#1f6feb", "tap": "#79a8f0", "bare": "#8b949e", "veth": "#d0d7de"}
STYLE = "text{fill:#24292f}.value{font-size:11px}@media(prefers-color-scheme:dark){text{fill:#e6edf3}}"
WIDTH, LEFT, BAR, GAP = 720, 190, 16, 12


@attrs.frozen
class Chart:
    """One picture: a group of bars for each workload."""

    file: str
    title: str
    figure: str
    unit: float
    """Step of the axis, in the figure's unit."""
    workloads: Mapping[str, str]
    """Their names in the figures, and their labels in the picture."""


CHARTS = (
    Chart(
        "tcp.svg",
        "TCP, Gbit/s",
        "bits_per_second",
        1e9,
        {
            "tcp1": "1 stream, rc to ep",
            "tcp1-reverse": "1 stream, ep to rc",
            "tcp4": "4 streams, rc to ep",
            "tcp4-reverse": "4 streams, ep to rc",
        },
    ),
    Chart(
        "udp.svg",
        "UDP of 64 bytes, 1000 packets/s",
        "packets_per_second",
        1e3,
        {"udp64": "rc to ep", "udp64-reverse": "ep to rc"},
    ),
)


def draw(chart: Chart, workloads: Mapping[str, Any]) -> str:
    """An SVG picture of medians."""
    groups = [(label, _bars(workloads[name], chart)) for name, label in chart.workloads.items() if name in workloads]
    longest = max(value for _, bars in groups for _, value in bars)
    y, parts = 40, []
    for label, bars in groups:
        middle = y + BAR * len(bars) / 2 + 4
        parts.append(f'<text x="{LEFT - 12}" y="{middle:.0f}" text-anchor="end">{escape(label)}</text>')
        for contestant, value in bars:
            size = (WIDTH - LEFT - 70) * value / longest
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{size:.1f}" height="{BAR - 2}" fill="{COLOURS[contestant]}"/>'
                f'<text x="{LEFT + size + 6:.1f}" y="{y + 11}" class="value">{value:.1f}</text>'
            )
            y += BAR
        y += GAP
    x = LEFT
    for contestant in dict.fromkeys(name for _, bars in groups for name, _ in bars):
        parts.append(
            f'<rect x="{x}" y="{y}" width="11" height="11" fill="{COLOURS[contestant]}"/>'
            f'<text x="{x + 16}" y="{y + 10}">{escape(LABELS[contestant])}</text>'
        )
        x += 130
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 24}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(chart.title)}">'
        f"<style>{STYLE}</style>"
        f'<text x="{LEFT}" y="22" font-size="15" font-weight="bold">{escape(chart.title)}</text>'
        f"{''.join(parts)}</svg>\n"
    )


def _bars(results: Mapping[str, Any], chart: Chart) -> list[tuple[str, float]]:
    return [
        (name, result["median"][chart.figure] / chart.unit)
        for name, result in _known(results.items())
        if chart.figure in result["median"]
    ]


def _known(results: Iterable[tuple[str, Any]]) -> Iterable[tuple[str, Any]]:
    return ((name, result) for name, result in results if name in LABELS)


def main() -> None:
    """Write every chart beside this file."""
    figures = json.loads((HERE / "benchmark.json").read_text(encoding="utf-8"))
    for chart in CHARTS:
        (HERE / chart.file).write_text(draw(chart, figures["net"]["workloads"]), encoding="utf-8")


if __name__ == "__main__":
    main()
