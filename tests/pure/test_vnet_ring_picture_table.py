"""Tables are drawn below each other, and arrows join the rows that are drawn."""

from __future__ import annotations

from xml.etree import ElementTree

from vnet.ring_picture.table import MARKER, Arrow, Row, Table, draw_arrows, draw_tables
from vnet.svg import document

LEFT = Table("left", "first <table>", ("name", "value"), [Row(0, ("a", "1")), Row(1, ("b", "2"), "fault")])
BELOW = Table("below", "second", ("name",), [Row(0, ("c",)), Row(-1, ("no target",))])


def test_rows_have_places_below_each_other_and_titles_are_escaped() -> None:
    parts, places, right, bottom = draw_tables([LEFT, BELOW], 10, 20)
    assert list(places) == [("left", 0), ("left", 1), ("below", 0)]
    heights = [place.y for place in places.values()]
    assert heights == sorted(heights)
    assert all(place.left == 10 and place.right <= right and place.y < bottom for place in places.values())
    root = ElementTree.fromstring(document(right, bottom, "t", parts).encode())
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["first <table>", "name", "value", "a", "1", "b", "2", "second", "name", "c", "no target"]


def test_an_arrow_is_drawn_once_and_only_between_rows_that_are_there() -> None:
    parts, places, right, bottom = draw_tables([LEFT, BELOW], 0, 0)
    across, within = Arrow(("left", 0), ("below", 0), dashed=True), Arrow(("left", 0), ("left", 1))
    missing = Arrow(("left", 0), ("left", 9)), Arrow(("moon", 0), ("left", 0))
    drawn = list(draw_arrows([across, within, *missing, within], places))
    ElementTree.fromstring(document(right, bottom, "t", [MARKER, *parts, *drawn]).encode())
    assert [("stroke-dasharray" in each, "left 0 to left 1" in each) for each in drawn] == [
        (True, False),
        (False, True),
    ]
