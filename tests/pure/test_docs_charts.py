"""The charts of the benchmark page are those of its figures, and the page says what the figures say."""

from __future__ import annotations

import json
import runpy
from statistics import median
from typing import Any
from xml.etree import ElementTree

import pytest

from support.paths import ROOT

DOCS = ROOT / "docs"
CHARTS = runpy.run_path(str(DOCS / "charts.py"))
FIGURES: Any = json.loads((DOCS / "benchmark.json").read_text(encoding="utf-8"))["net"]
PAGE = (DOCS / "benchmark.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("chart", CHARTS["CHARTS"], ids=lambda chart: chart.file)
def test_a_chart_is_drawn_from_the_figures(chart: Any) -> None:
    drawn = (DOCS / chart.file).read_text(encoding="utf-8")
    assert drawn == CHARTS["draw"](chart, FIGURES["workloads"])
    ElementTree.fromstring(drawn)
    assert f"({chart.file})" in PAGE


def test_the_page_states_the_medians_of_the_figures() -> None:
    ping = FIGURES["workloads"]["ping"]
    assert f"{ping['tun']['median']['rtt_median']:.2f} ms over this stack" in PAGE
    assert f"{ping['bare']['median']['rtt_median']:.2f} ms over the bare forwarder" in PAGE
    for contestant in ("tun", "bare"):
        costs = [
            workload[contestant]["median"]["cpu_seconds_per_gigabyte"]
            for name, workload in FIGURES["workloads"].items()
            if name.startswith("tcp")
        ]
        assert f"{median(costs):.2f}" in PAGE
    assert (FIGURES["rounds"], FIGURES["congestion"]) == (5, "cubic")
