"""The commands of the management tree, which raise TreeError: its text begins with the symbol of an error number."""

from __future__ import annotations

import errno
import re

import attrs

from vnet.configfs.service import Configfs
from vnet.qmp.qapi import Empty, QapiRecord

__all__ = ["CfsEntry", "CfsLink", "CfsPath", "CfsText", "CfsWrite", "error_number"]
__all__ += ["list_entries", "mkdir", "read", "rmdir", "stat", "symlink", "unlink", "write"]

SYMBOL = re.compile(r"(E[A-Z0-9]+): ")


@attrs.frozen
class CfsPath(QapiRecord):
    """Arguments that name an entry of the tree."""

    path: str = ""
    """Path of the entry, from the root of the tree."""


@attrs.frozen
class CfsWrite(QapiRecord):
    """Arguments that give an attribute a value."""

    path: str
    """Path of the attribute, from the root of the tree."""
    data: str
    """The value; one newline at its end is not part of it."""


@attrs.frozen
class CfsLink(QapiRecord):
    """Arguments that make a link."""

    path: str
    """Path of the link, from the root of the tree."""
    target: str
    """Path of the directory that it leads to, from the root of the tree."""


@attrs.frozen
class CfsEntry(QapiRecord):
    """An entry of the tree."""

    name: str
    """Name of the entry in its directory."""
    mode: int
    """Type and permissions, as in stat(2)."""
    target: str | None = None
    """Target of a link, from the link's directory."""


@attrs.frozen
class CfsText(QapiRecord):
    """The value of an attribute."""

    text: str
    """The value, with a newline behind it."""


def error_number(text: str) -> int:
    """Return the error number that the text of an error begins with; EIO if it begins with none."""
    match = SYMBOL.match(text)
    return getattr(errno, match[1], errno.EIO) if match else errno.EIO


async def list_entries(tree: Configfs, arguments: CfsPath) -> object:
    """Return the entries of a directory of the management tree."""
    return [CfsEntry(entry.name, entry.mode, entry.target) for entry in tree.list(arguments.path)]


async def stat(tree: Configfs, arguments: CfsPath) -> object:
    """Return an entry of the management tree; a link itself, not its target."""
    entry = tree.stat(arguments.path)
    return CfsEntry(entry.name, entry.mode, entry.target)


async def read(tree: Configfs, arguments: CfsPath) -> object:
    """Return the value of an attribute of the management tree. Changes nothing."""
    return CfsText(tree.read(arguments.path))


async def write(tree: Configfs, arguments: CfsWrite) -> object:
    """Give an attribute of the management tree a value. After an error, the old value stays."""
    await tree.write(arguments.path, arguments.data.encode(errors="surrogatepass"))
    return Empty()


async def mkdir(tree: Configfs, arguments: CfsPath) -> object:
    """Make a directory in the management tree."""
    await tree.mkdir(arguments.path)
    return Empty()


async def rmdir(tree: Configfs, arguments: CfsPath) -> object:
    """Remove an empty directory of the management tree."""
    await tree.rmdir(arguments.path)
    return Empty()


async def symlink(tree: Configfs, arguments: CfsLink) -> object:
    """Make a link to a directory of the management tree."""
    await tree.symlink(arguments.target, arguments.path)
    return Empty()


async def unlink(tree: Configfs, arguments: CfsPath) -> object:
    """Remove a link of the management tree."""
    await tree.unlink(arguments.path)
    return Empty()
