"""The model of the management tree has the semantics of configfs."""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from support.tree import drive
from vnet.configfs import tree as model
from vnet.configfs.nodes import Attribute, Directory, Kind, Link, attributes
from vnet.configfs.tree import Tree
from vnet.configfs.values import TreeError, parse_unsigned


class Model:
    """A tree with a directory ``items`` in which users make items, and one ``places`` to which they link them."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.refuse = False
        root = Directory("", Kind())
        self.tree = Tree(root)
        value = Attribute("value", lambda item: str(item.data["value"]), self._store)
        fixed = Attribute("fixed", lambda _: "7")
        self.item = Kind(attributes(value, fixed), drop=self._drop)
        items = root.add("items", Kind(make=self._make))
        root.link("things", items, fixed=True)
        root.add("places", Kind()).add("place", Kind(allow_link=self._link, drop_link=self._unlink))

    async def _store(self, item: Directory, text: str) -> None:
        item.data["value"] = parse_unsigned(text, 8)

    def _make(self, parent: Directory, name: str) -> Directory:
        made = Directory(name, self.item, parent, {"value": 0})
        made.add("group", Kind())
        return made

    async def _drop(self, item: Directory) -> None:
        self._note("drop", item)

    async def _link(self, place: Directory, item: Directory) -> None:
        self._note("link", item)

    async def _unlink(self, place: Directory, item: Directory) -> None:
        self._note("unlink", item)

    def _note(self, what: str, item: Directory) -> None:
        if self.refuse:
            raise TreeError(errno.EIO, "refused")
        self.log.append(f"{what} {item.name}")


@pytest.fixture
def m() -> Model:
    made = Model()
    drive(made.tree.mkdir("items/a"))
    return made


def refused(number: int, operation: Coroutine[Any, Any, object] | Callable[[], object]) -> None:
    with pytest.raises(TreeError) as caught:
        operation() if callable(operation) else drive(operation)
    assert errno.errorcode[caught.value.number] == errno.errorcode[number]


def test_a_directory_lists_attributes_groups_and_links(m: Model) -> None:
    assert sorted(m.tree.directory("items/a").nodes()) == ["fixed", "group", "value"]
    assert sorted(m.tree.root.nodes()) == ["items", "places", "things"]


def test_paths_follow_links_and_dots(m: Model) -> None:
    drive(m.tree.symlink("items/a", "places/place/l"))
    for path in ("things/a/value", "/items//./a/value", "places/../items/a/value", "../items/a/value"):
        assert m.tree.read(path) == "0\n"
    assert m.tree.read("places/place/l/value") == "0\n"


def test_a_link_reads_as_a_path_from_its_directory(m: Model) -> None:
    drive(m.tree.symlink("items/a", "places/place/l"))
    _, link = m.tree.find("places/place/l", follow=False)
    assert isinstance(link, Link)
    assert link.text == "../../items/a"


def test_a_value_with_one_newline_is_stored_whole(m: Model) -> None:
    drive(m.tree.write("items/a/value", b"0x10\n"))
    assert m.tree.read("items/a/value") == "16\n"


@pytest.mark.hostile("X05")
@pytest.mark.parametrize(
    "data", [b"", b"1" * 4096, b"1\0", b"\0", b"\xff\xfe", b"1\n\n", b"300", b"\n", b" 1", b"1" * 4095]
)
def test_a_bad_value_is_refused_and_the_old_one_stays(m: Model, data: bytes) -> None:
    drive(m.tree.write("items/a/value", b"9"))
    refused(errno.EINVAL, m.tree.write("items/a/value", data))
    assert m.tree.read("items/a/value") == "9\n"


@pytest.mark.hostile("X05")
def test_a_value_in_two_writes_is_two_values(m: Model) -> None:
    drive(m.tree.write("items/a/value", b"1"))
    drive(m.tree.write("items/a/value", b"6"))
    assert m.tree.read("items/a/value") == "6\n"


def test_only_attributes_can_be_read_and_only_some_written(m: Model) -> None:
    refused(errno.EISDIR, lambda: m.tree.read("items"))
    refused(errno.EISDIR, m.tree.write("items/a", b"1"))
    refused(errno.EACCES, m.tree.write("items/a/fixed", b"1"))
    assert m.tree.read("items/a/fixed") == "7\n"


@pytest.mark.hostile("X06")
@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("items/a", errno.EEXIST),
        ("items/.", errno.EEXIST),
        ("items/..", errno.EEXIST),
        ("", errno.EEXIST),
        ("items/" + "n" * 256, errno.ENAMETOOLONG),
        ("items/" + "\u00e9" * 128, errno.ENAMETOOLONG),
        ("n" * 256 + "/x", errno.ENAMETOOLONG),
        ("items/a\0b", errno.EINVAL),
        ("items/a\nb", errno.EINVAL),
        ("items/\udcff", errno.EINVAL),
        ("x", errno.EPERM),
        ("places/place/x", errno.EPERM),
        ("items/a/x", errno.EPERM),
        ("items/b/x", errno.ENOENT),
        ("items/a/value/x", errno.ENOTDIR),
    ],
)
def test_mkdir_is_refused(m: Model, path: str, number: int) -> None:
    refused(number, m.tree.mkdir(path))
    assert (m.tree.objects, sorted(m.tree.directory("items").children)) == (1, ["a"])


def test_a_name_of_255_bytes_is_accepted(m: Model) -> None:
    drive(m.tree.mkdir("items/" + "n" * 255))
    assert "n" * 255 in m.tree.directory("items").children


@pytest.mark.hostile("X06")
@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("items", errno.EPERM),
        ("items/a/group", errno.EPERM),
        ("", errno.EPERM),
        ("items/a/.", errno.EINVAL),
        ("items/a/value", errno.ENOTDIR),
        ("things", errno.ENOTDIR),
        ("items/b", errno.ENOENT),
    ],
)
def test_rmdir_is_refused(m: Model, path: str, number: int) -> None:
    refused(number, m.tree.rmdir(path))
    assert m.log == []


@pytest.mark.hostile("X06")
def test_a_linked_directory_is_busy_and_one_with_a_link_is_not_empty(m: Model) -> None:
    m.item = attributes_of_a_parent(m)
    drive(m.tree.symlink("items/a", "places/place/l"))
    refused(errno.EBUSY, m.tree.rmdir("items/a"))
    drive(m.tree.unlink("places/place/l"))
    drive(m.tree.mkdir("items/b"))
    drive(m.tree.symlink("items/a", "items/b/l"))
    refused(errno.ENOTEMPTY, m.tree.rmdir("items/b"))
    drive(m.tree.unlink("items/b/l"))
    drive(m.tree.rmdir("items/b"))
    drive(m.tree.rmdir("items/a"))
    assert m.tree.objects == 0


def attributes_of_a_parent(m: Model) -> Kind:
    """Return a kind of items that may have links, for items made from now on."""
    return Kind(m.item.attributes, allow_link=m._link, drop_link=m._unlink)


def test_links_are_refused(m: Model) -> None:
    refused(errno.EPERM, m.tree.symlink("items/a", "places/l"))
    refused(errno.ENOENT, m.tree.symlink("items/b", "places/place/l"))
    refused(errno.ENOENT, m.tree.symlink("items/a/value", "places/place/l"))
    refused(errno.EPERM, m.tree.unlink("items/a/value"))
    refused(errno.EPERM, m.tree.unlink("things"))
    refused(errno.EISDIR, m.tree.unlink("items/a"))
    drive(m.tree.symlink("items/a", "places/place/l"))
    refused(errno.EEXIST, m.tree.symlink("items/a", "places/place/l"))
    assert m.log == ["link a"]


def test_a_refusal_of_the_binding_undoes_the_operation(m: Model) -> None:
    m.refuse = True
    refused(errno.EIO, m.tree.symlink("items/a", "places/place/l"))
    refused(errno.EIO, m.tree.rmdir("items/a"))
    m.refuse = False
    drive(m.tree.symlink("items/a", "places/place/l"))
    m.refuse = True
    refused(errno.EIO, m.tree.unlink("places/place/l"))
    assert m.tree.directory("items/a").links == 1


@pytest.mark.hostile("X06")
def test_of_100_000_directories_those_beyond_the_limit_are_refused(m: Model) -> None:
    made = full = 0
    for number in range(100_000):
        try:
            drive(m.tree.mkdir(f"items/n{number}"))
            made += 1
        except TreeError as exc:
            full += exc.number == errno.ENOSPC
    assert made == model.OBJECTS_MAX - 1
    assert made + full == 100_000
    for number in range(made):
        drive(m.tree.rmdir(f"items/n{number}"))
    assert list(m.tree.directory("items").children) == ["a"]
    drive(m.tree.mkdir("items/b"))
