"""The files of the page fit together, and none of them names another server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.paths import ROOT

PAGE = ROOT / "vnet" / "web" / "page"
HTML = (PAGE / "index.html").read_text(encoding="utf-8")
SCRIPTS = sorted(PAGE.glob("*.js"))
NAMESPACE = "http://www.w3.org/2000/svg"


@pytest.mark.parametrize("file", sorted(PAGE.iterdir()), ids=lambda file: file.name)
def test_a_file_names_no_other_server(file: Path) -> None:
    text = file.read_text(encoding="utf-8").replace(NAMESPACE, "")
    assert re.findall(r"https?:|//[a-z]+\.[a-z]|@import|url\(", text) == []


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_a_script_sets_text_never_markup(file: Path) -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", file.read_text("utf-8"))


def test_the_html_has_no_script_or_style_of_its_own() -> None:
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]* src=)", HTML) == []


def test_every_element_that_a_script_uses_is_there() -> None:
    used = {name for file in SCRIPTS for name in re.findall(r'\$\("([^"]+)"\)', file.read_text("utf-8"))}
    assert used <= set(re.findall(r'\sid="([^"]+)"', HTML))


def test_every_file_that_the_page_loads_is_there() -> None:
    linked = re.findall(r'(?:src|href)="/page/([^"]+)"', HTML)
    imported = [name for file in SCRIPTS for name in re.findall(r'from "\./([^"]+)"', file.read_text("utf-8"))]
    assert {*linked, *imported} == {file.name for file in PAGE.iterdir()} - {"index.html"}


def test_every_control_has_a_name() -> None:
    for control in re.findall(r"<(?:input|select)[^>]*>", HTML):
        before = HTML[: HTML.index(control)]
        assert before.rfind("<label>") > before.rfind("</label>"), control
