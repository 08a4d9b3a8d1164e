"""The entries of the tree: directories, attributes and links. A `Kind` is the table of a directory.

A kind has the attributes of a directory and the functions that the operations of `vnet.configfs.tree` call. They may
wait, since an operation of a running system can.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs

__all__ = ["Attribute", "Directory", "Kind", "Link", "Node", "attributes"]


async def _nothing(*_: Any) -> None:
    """Do nothing."""


@attrs.frozen
class Attribute:
    """A file that has one value. Reading it changes nothing."""

    name: str
    show: Callable[[Directory], str]
    """Returns the value of a directory's attribute, without a newline."""
    store: Callable[[Directory, str], Awaitable[None]] | None = None
    """Takes a new value without its newline; None: the file can't be written. Raises TreeError."""

    @property
    def mode(self) -> int:
        """Permissions: those of the owner alone."""
        return 0o400 if self.store is None else 0o600


@attrs.frozen(eq=False)
class Kind:
    """The contents and the abilities of a directory. A function that is None makes the operation fail with EPERM."""

    attributes: Mapping[str, Attribute] = attrs.field(factory=dict)
    make: Callable[[Directory, str], Directory] | None = None
    """Returns the new directory for mkdir. Raises TreeError."""
    drop: Callable[[Directory], Awaitable[None]] = _nothing
    """Called with a directory that rmdir is about to remove. Raises TreeError."""
    allow_link: Callable[[Directory, Directory], Awaitable[None]] | None = None
    """Called with the directory of a new link and the link's target. Raises TreeError."""
    drop_link: Callable[[Directory, Directory], Awaitable[None]] = _nothing
    """Called with the directory and the target of a link that is about to be removed. Raises TreeError."""
    live: Callable[[Directory], Mapping[str, Kind]] | None = None
    """Returns further directories, which only exist while they are looked at; each gets the data of its parent."""
    data: Any = None
    """Data of a live directory; None: those of its parent."""


def attributes(*items: Attribute) -> dict[str, Attribute]:
    """Return attributes by name."""
    return {item.name: item for item in items}


@attrs.define(eq=False)
class Directory:
    """A directory: an item or a group of configfs."""

    name: str
    kind: Kind
    parent: Directory | None = None
    data: Any = None
    """Object of the binding."""
    own: bool = False
    """Whether rmdir may remove it, such as one that a user made."""
    children: dict[str, Directory | Link] = attrs.field(factory=dict)
    links: int = 0
    """Number of links whose target this is."""
    owned: int = 0
    """Number of directories in the tree that users may remove; only the root counts them."""

    def add(self, name: str, kind: Kind, data: Any = None) -> Directory:
        """Add a directory of the system and return it."""
        made = Directory(name, kind, self, data)
        self.children[name] = made
        return made

    def put(self, made: Directory) -> None:
        """Add a directory that users may remove."""
        made.own = True
        self.children[made.name] = made
        self._root.owned += 1

    def link(self, name: str, target: Directory, *, fixed: bool = False) -> Link:
        """Add a link without any check, and return it. A ``fixed`` one stays, and does not hold its target."""
        made = Link(name, self, target, fixed)
        self.children[name] = made
        target.links += not fixed
        return made

    def discard(self, name: str) -> None:
        """Remove a child without any check."""
        child = self.children.pop(name)
        if isinstance(child, Link):
            child.target.links -= not child.fixed
        else:
            for inner in list(child.children):
                child.discard(inner)
            self._root.owned -= child.own

    def discard_links(self, target: Directory) -> None:
        """Remove the links to ``target`` without any check."""
        for name, child in list(self.children.items()):
            if isinstance(child, Link) and child.target is target:
                self.discard(name)

    @property
    def _root(self) -> Directory:
        at = self
        while at.parent is not None:
            at = at.parent
        return at

    @property
    def path(self) -> str:
        """Path from the root, without a slash in front."""
        names = []
        at: Directory | None = self
        while at is not None and at.parent is not None:
            names.append(at.name)
            at = at.parent
        return "/".join(reversed(names))

    def nodes(self) -> dict[str, Node]:
        """Return all entries by name: attributes, then directories and links."""
        return {**self.kind.attributes, **self._live(), **self.children}

    def entry(self, name: str) -> Node | None:
        """Return an entry; None if there is none."""
        return self.children.get(name) or self.kind.attributes.get(name) or self._live().get(name)

    def _live(self) -> dict[str, Directory]:
        if self.kind.live is None:
            return {}
        return {
            name: Directory(name, kind, self, self.data if kind.data is None else kind.data)
            for name, kind in self.kind.live(self).items()
        }


@attrs.frozen(eq=False)
class Link:
    """A symbolic link to a directory."""

    name: str
    parent: Directory
    target: Directory
    fixed: bool = False
    """Whether it belongs to the tree itself: another spelling of a name."""

    @property
    def text(self) -> str:
        """The target as a path from the link's directory, as readlink returns it."""
        here, there = [part.path.split("/") if part.path else [] for part in (self.parent, self.target)]
        shared = 0
        while shared < min(len(here), len(there)) and here[shared] == there[shared]:
            shared += 1
        return "/".join([*[".."] * (len(here) - shared), *there[shared:]]) or "."


Node = Attribute | Directory | Link
