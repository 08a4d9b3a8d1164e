"""Directories count their links and the directories of users; some exist only while they are looked at."""

from __future__ import annotations

from vnet.configfs.nodes import Attribute, Directory, Kind, attributes
from vnet.configfs.tree import Tree


def test_a_live_directory_exists_while_it_is_looked_at() -> None:
    figures = {"rx": 1}
    live = Kind(live=lambda _: {name: Kind(attributes(_value(name, figures))) for name in figures})
    root = Directory("", Kind())
    root.add("queues", live)
    tree = Tree(root)
    assert tree.read("queues/rx/value") == "1\n"
    figures["rx"] = 2
    figures["tx"] = 3
    assert [tree.read(f"queues/{name}/value") for name in tree.directory("queues").nodes()] == ["2\n", "3\n"]
    figures.clear()
    assert tree.directory("queues").entry("rx") is None


def _value(name: str, figures: dict[str, int]) -> Attribute:
    return Attribute("value", lambda _: str(figures[name]))


def test_a_directory_that_goes_takes_its_links_and_counts_with_it() -> None:
    root = Directory("", Kind())
    target, place = root.add("target", Kind()), Directory("place", Kind(), root)
    root.put(place)
    place.put(Directory("inner", Kind(), place))
    place.link("l", target)
    place.link("fixed", target, fixed=True)
    assert (root.owned, target.links) == (2, 1)
    root.discard("place")
    assert (root.owned, target.links, list(root.children)) == (0, 0, ["target"])


def test_the_text_of_a_link_leads_from_its_directory() -> None:
    root = Directory("", Kind())
    a = root.add("a", Kind())
    b = a.add("b", Kind())
    c = root.add("c", Kind())
    texts = [place.link("l", target).text for place, target in ((root, b), (a, b), (b, a), (b, c), (c, b), (a, a))]
    assert texts == ["a/b", "b", "..", "../../c", "../a/b", "."]


def test_an_attribute_that_cannot_be_written_has_no_right_to_write() -> None:
    assert Attribute("a", lambda _: "").mode == 0o400
