"""The operations on a tree, with the semantics and the error numbers of configfs. Without I/O.

Functions of the nodes' kinds may wait; nothing in this module waits itself. One operation that changes the tree must
end before the next begins; reads may happen at any time.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Iterable

from vnet.configfs.nodes import Attribute, Directory, Link, Node
from vnet.configfs.values import TreeError

__all__ = ["NAME_BYTES", "OBJECTS_MAX", "WRITE_MAX", "Tree"]

NAME_BYTES = 255
"""Bytes of the longest name (NAME_MAX of Linux)."""
WRITE_MAX = 4095
"""Bytes of the longest value: a page without its last byte."""
OBJECTS_MAX = 1 << 14
"""Directories of users."""
LINKS_MAX = 40
"""Links that a path may follow (MAXSYMLINKS of Linux)."""


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
