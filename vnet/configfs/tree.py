"""The model of the tree: directories, attributes and links with the semantics of configfs. Without I/O.

A `Kind` is the table of a directory: its attributes, and the functions that the operations call. They may wait, since
an operation of a running system can, but nothing in this module waits itself. One operation that changes the tree must
end before the next begins; reads may happen at any time.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import attrs

from vnet.configfs.values import TreeError

__all__ = ["NAME_BYTES", "OBJECTS_MAX", "WRITE_MAX", "Attribute", "Directory", "Kind", "Link", "Node", "Tree"]

NAME_BYTES = 255
"""Bytes of the longest name (NAME_MAX of Linux)."""
WRITE_MAX = 4095
"""Bytes of the longest value: a page without its last byte."""
OBJECTS_MAX = 1 << 14
"""Directories of users."""
LINKS_MAX = 40
"""Links that a path may follow (MAXSYMLINKS of Linux)."""


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


class Tree:
    """A tree and its operations, by path. Each raises TreeError with the error number of the kernel's configfs."""

    def __init__(self, root: Directory) -> None:
        self.root = root

    @property
    def objects(self) -> int:
        """Number of directories that users may remove."""
        return self.root.owned

    # Looks

    def find(self, path: str, *, follow: bool = True) -> tuple[Directory, Node]:
        """Return the entry at ``path`` and its directory. With ``follow``, a link stands for its target."""
        at = self.root
        node: Node = at
        hops = 0
        parts = path.split("/")
        for place, part in enumerate(parts):
            if part in ("", "."):
                continue
            if not isinstance(node, Directory):
                raise TreeError(errno.ENOTDIR, path=path)
            _check_length(part, path)
            at = node
            entry = at.parent or at if part == ".." else at.entry(part)
            if entry is None:
                raise TreeError(errno.ENOENT, path=path)
            node = entry
            if isinstance(node, Link) and (follow or any(parts[place + 1 :])):
                hops += 1
                if hops > LINKS_MAX:
                    raise TreeError(errno.ELOOP, path=path)
                node = node.target
        return at, node

    def directory(self, path: str) -> Directory:
        """Return the directory at ``path``."""
        _, node = self.find(path)
        if not isinstance(node, Directory):
            raise TreeError(errno.ENOTDIR, path=path)
        return node

    def read(self, path: str) -> str:
        """Return the value of an attribute, with a newline behind it."""
        at, node = self._attribute(path)
        try:
            return node.show(at) + "\n"
        except TreeError as exc:
            raise TreeError(exc.number, exc.why, path) from None

    # Changes

    async def write(self, path: str, data: bytes) -> None:
        """Give an attribute a new value, which must be all of ``data``. After an error the old value stays."""
        at, node = self._attribute(path)
        if node.store is None:
            raise TreeError(errno.EACCES, "can't be written", path)
        if not 0 < len(data) <= WRITE_MAX:
            raise TreeError(errno.EINVAL, f"must be between 1 and {WRITE_MAX} bytes", path)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise TreeError(errno.EINVAL, "must be UTF-8 text", path) from None
        if "\0" in text:
            raise TreeError(errno.EINVAL, "must not contain a NUL character", path)
        await _named(path, node.store(at, text.removesuffix("\n")))

    async def mkdir(self, path: str) -> None:
        """Make a directory."""
        parent, name = self._place(path)
        if parent.kind.make is None:
            raise TreeError(errno.EPERM, "no directories can be made here", path)
        if self.objects >= OBJECTS_MAX:
            raise TreeError(errno.ENOSPC, f"there are {OBJECTS_MAX} directories already", path)
        try:
            made = parent.kind.make(parent, name)
        except TreeError as exc:
            raise TreeError(exc.number, exc.why, path) from None
        parent.put(made)

    async def rmdir(self, path: str) -> None:
        """Remove an empty directory that a user made."""
        if path.rstrip("/").rsplit("/", 1)[-1] == ".":
            raise TreeError(errno.EINVAL, path=path)
        _, node = self.find(path, follow=False)
        if not isinstance(node, Directory):
            raise TreeError(errno.ENOTDIR, path=path)
        if not node.own:
            raise TreeError(errno.EPERM, "belongs to the system", path)
        if node.links:
            raise TreeError(errno.EBUSY, "a link leads to it", path)
        if _is_used(node):
            raise TreeError(errno.ENOTEMPTY, path=path)
        await _named(path, node.kind.drop(node))
        assert node.parent is not None
        node.parent.discard(node.name)

    async def symlink(self, target: str, path: str) -> None:
        """Make a link at ``path`` to the directory at ``target``, both from the root."""
        parent, name = self._place(path)
        if parent.kind.allow_link is None:
            raise TreeError(errno.EPERM, "no links can be made here", path)
        _, node = self.find(target)
        if not isinstance(node, Directory):
            raise TreeError(errno.ENOENT, "must be a directory", target)
        await _named(path, parent.kind.allow_link(parent, node))
        parent.link(name, node)

    async def unlink(self, path: str) -> None:
        """Remove a link."""
        _, node = self.find(path, follow=False)
        if isinstance(node, Directory):
            raise TreeError(errno.EISDIR, path=path)
        if isinstance(node, Attribute) or node.fixed:
            raise TreeError(errno.EPERM, "belongs to the system", path)
        await _named(path, node.parent.kind.drop_link(node.parent, node.target))
        node.parent.discard(node.name)

    def _attribute(self, path: str) -> tuple[Directory, Attribute]:
        at, node = self.find(path)
        if not isinstance(node, Attribute):
            raise TreeError(errno.EISDIR, path=path)
        return at, node

    def _place(self, path: str) -> tuple[Directory, str]:
        """Return the directory and the name of a new entry."""
        above, _, name = path.rstrip("/").rpartition("/")
        if name in ("", ".", ".."):
            raise TreeError(errno.EEXIST, path=path)
        _check_length(name, path)
        if "\0" in name or not name.isprintable():
            raise TreeError(errno.EINVAL, "must be a printable name", path)
        parent = self.directory(above)
        if parent.entry(name) is not None:
            raise TreeError(errno.EEXIST, path=path)
        return parent, name


async def _named(path: str, done: Awaitable[None]) -> None:
    """Wait for an operation, and name its path in its error."""
    try:
        await done
    except TreeError as exc:
        raise TreeError(exc.number, exc.why, path) from None


def _check_length(name: str, path: str) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise TreeError(errno.EINVAL, "must be UTF-8 text", path) from None
    if size > NAME_BYTES:
        raise TreeError(errno.ENAMETOOLONG, path=f"{path[:32]}...")


def _is_used(directory: Directory) -> bool:
    """Return whether the directory, or one of the system's in it, has a link or a directory of a user."""
    children: Iterable[Directory | Link] = directory.children.values()
    return any(isinstance(child, Link) or child.own or _is_used(child) for child in children)
