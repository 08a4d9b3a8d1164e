"""The charts and tables of the benchmark page are those of its figures."""

from __future__ import annotations

import json
import runpy
from typing import Any
from xml.etree import ElementTree

import pytest

from support.paths import ROOT

DOCS = ROOT / "docs"
CHARTS = runpy.run_path(str(DOCS / "charts.py"))
FIGURES: Any = json.loads((DOCS / "benchmark.json").read_text(encoding="utf-8"))
PAGE = (DOCS / "benchmark.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("chart", CHARTS["CHARTS"], ids=lambda chart: chart.file)
def test_a_chart_is_drawn_from_the_figures(chart: Any) -> None:
    drawn = (DOCS / chart.file).read_text(encoding="utf-8")
    assert drawn == CHARTS["draw"](chart, FIGURES["peers"]["workloads"])
    ElementTree.fromstring(drawn)
    assert f"({chart.file})" in PAGE


def test_the_page_has_the_tables_of_the_figures() -> None:
    assert CHARTS["page"](PAGE, FIGURES) == PAGE
    assert len(CHARTS["TABLES"].findall(PAGE)) == 1
    assert "CPU seconds per gigabyte" in PAGE
    assert "nbdcopy, sequential write" in PAGE
    assert f"TCP with {FIGURES['peers']['congestion']}; " in PAGE
