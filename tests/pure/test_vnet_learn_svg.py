"""Slides are self-contained XML in which exactly the changed words are marked."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from support.lessons import RING_LESSONS, frames
from vnet.learn.step import Frame
from vnet.learn.svg import CHANGED, slide

FRAMES = [frame for name in RING_LESSONS for frame in frames(name)]
SVG = "{http://www.w3.org/2000/svg}"
DRAWN = {f"{SVG}{name}" for name in ("svg", "title", "rect", "text", "g", "ellipse")}


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: f"{frame.lesson}-{frame.number}")
def test_a_slide_is_xml_that_refers_to_nothing_else(frame: Frame) -> None:
    text = slide(frame)
    root = ElementTree.fromstring(text.encode())
    assert {element.tag for element in root.iter()} <= DRAWN
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "", 1)
    assert not any(name.startswith("on") or "href" in name for element in root.iter() for name in element.attrib)


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: f"{frame.lesson}-{frame.number}")
def test_a_slide_marks_the_changed_words_and_has_all_texts(frame: Frame) -> None:
    root = ElementTree.fromstring(slide(frame).encode())
    marks = [element for element in root.iter(f"{SVG}rect") if element.get("fill") == CHANGED]
    assert len(marks) == len(frame.changes)
    texts = " ".join(element.text or "" for element in root.iter(f"{SVG}text"))
    for cell in frame.changes:
        assert f"{cell.before} → {cell.after}" in texts
    assert frame.step.section in texts
    assert all(word in texts for word in frame.step.text.split())


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: f"{frame.lesson}-{frame.number}")
def test_drawings_stay_on_the_slide(frame: Frame) -> None:
    root = ElementTree.fromstring(slide(frame).encode())
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for element in root.findall(f"{SVG}text"):
        assert 0 <= float(element.attrib["x"]) <= width
        assert 0 <= float(element.attrib["y"]) <= height
