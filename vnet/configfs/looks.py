"""The directories devices and ntb: a running system's figures as read-only files, made when they are looked at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import attrs

from vnet.configfs.nodes import Attribute, Directory, Kind
from vnet.configfs.operations import System

__all__ = ["add_looks"]


def add_looks(root: Directory, system: System) -> None:
    """Add the directories to the root."""
    root.add("devices", Kind(live=lambda _: _Looks(system.devices, system.device)))
    root.add("ntb", Kind(live=lambda _: _Looks(system.ntbs, system.ntb)))


@attrs.frozen(eq=False)
class _Looks(Mapping[str, Kind]):
    """The kinds of directories by name; each is made of a look."""

    names: Collection[str]
    look: Callable[[str], Mapping[str, Any]]

    def __getitem__(self, name: str) -> Kind:
        if name not in self.names:
            raise KeyError(name)
        return _kind(self.look(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _kind(values: Mapping[str, Any]) -> Kind:
    """Return the kind of a directory with a file for each plain value, and a directory for each mapping in it."""
    files: dict[str, Attribute] = {}
    directories: dict[str, Mapping[str, Any]] = {}
    for key, value in values.items():
        name = key.replace("/", "_")
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            directories[name] = {str(each.get("name") or at): each for at, each in enumerate(value)}
        elif isinstance(value, Mapping):
            directories[name] = value
        else:
            files[name] = _file(name, value)
    return Kind(files, live=lambda _: {name: _kind(each) for name, each in directories.items()})


def _file(name: str, value: Any) -> Attribute:
    return Attribute(name, lambda _: _text(value))


def _text(value: Any) -> str:
    """Return a value on one line: those of a list with spaces between them, 1 and 0 for yes and no."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, list):
        return " ".join(map(_text, value))
    return " ".join(str(value).split())
