"""Every page of the documentation does what it says: its blocks are run, in order, as a reader would."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.docs import blocks, play

ROOT = Path(__file__).parents[2]
OWN_TEST = {"running.md"}
"""Pages with a test file of their own."""
PAGES = [
    page
    for page in sorted((ROOT / "docs").rglob("*.md"))
    if page.name not in OWN_TEST and any(b.language == "sh" for b in blocks(page.read_text(encoding="utf-8")))
]


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("privileged", "no_leaks")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs").with_suffix("")))
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    play(page, tmp_path)
