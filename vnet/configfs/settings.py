"""Keys of a topology's record as attributes: one for each plain key, and a directory for each table in it."""

from __future__ import annotations

import errno
import json
import tomllib
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol, Union, get_args, get_origin

import attrs

from vnet.configfs.nodes import Attribute, Directory, Kind
from vnet.configfs.values import TreeError, parse_bool, parse_unsigned
from vnet.errors import dotted
from vnet.spec import DeviceSpec
from vnet.topology.reference import Key, keys_of
from vnet.topology.structure import structure

__all__ = ["Configured", "Settings", "device_of", "settings_kind", "table_of"]

Path = tuple[str, ...]


class Configured(Protocol):
    """An object with settings, which is the data of a directory."""

    settings: Settings

    def check_free(self) -> None:
        """Raise TreeError (EBUSY) while no setting can change."""


Table = dict[str, Any]


def table_of(record: Any) -> Table:
    """Return the table of a topology file that makes ``record``, without keys that have their defaults."""
    table: Table = {}
    for field in attrs.fields(type(record)):
        value = getattr(record, field.name)
        if field.name == "options":
            table |= table_of(value)
        elif field.metadata.get("key", True) and value is not None and value != field.default:
            table[field.name] = _plain(value)
    return table


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return table_of(value) if attrs.has(type(value)) else value


@attrs.define(eq=False)
class Settings:
    """The settings of a record of class ``kind``, as a table of a topology file."""

    kind: type
    table: Table

    def get(self, path: Path) -> Any:
        """Return a value that was given; None for one that was not."""
        value: Any = self.table
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def put(self, path: Path, value: Any) -> None:
        """Give a setting another value, None: its default. Raises TreeError; the old value then stays."""
        table = _replaced(self.table, path, value)
        _, errors = structure(table, self.kind)
        for error in errors:
            if error.keys[: len(path)] == path:
                where = dotted(error.keys[len(path) :])
                raise TreeError(errno.EINVAL, ": ".join(filter(None, (where, error.why))))
        self.table = table


def _replaced(table: Mapping[str, Any], path: Path, value: Any) -> Table:
    name, *rest = path
    new = dict(table)
    if rest:
        value = _replaced(table.get(name, {}), tuple(rest), value) or None
    if value is None:
        new.pop(name, None)
    else:
        new[name] = value
    return new


def settings_kind(keys: Mapping[str, Key], base: Kind, path: Path = ()) -> Kind:
    """Return ``base`` with an attribute or a directory for each key. The data of its directories are `Configured`."""
    made: dict[str, Attribute] = {}
    tables: dict[str, Kind] = {}
    for name, key in keys.items():
        if key.inner is not None and not _is_tuple(key.type):
            tables[name] = _table_kind(key.inner, (*path, name))
        else:
            made[name] = _attribute(key, (*path, name))
    return attrs.evolve(base, attributes=made | dict(base.attributes), live=(lambda _: tables) if tables else None)


@cache
def _table_kind(record: type, path: Path) -> Kind:
    return settings_kind({key.name: key for key in keys_of(record)}, Kind(), path)


def _attribute(key: Key, path: Path) -> Attribute:
    def show(directory: Directory) -> str:
        value = directory.data.settings.get(path)
        return _text(key.default if value is None else value)

    async def store(directory: Directory, text: str) -> None:
        directory.data.check_free()
        directory.data.settings.put(path, _value(key, text) if text else None)

    return Attribute(key.name, show, store)


def _text(value: Any) -> str:
    """Return a value as its attribute shows it: a list of texts or numbers with commas, other values as in TOML."""
    if value is None or value is attrs.NOTHING:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, list | tuple):
        if not any(isinstance(each, dict) or attrs.has(type(each)) for each in value):
            return ", ".join(map(_text, value))
        return f"[{', '.join(map(_inline, value))}]"
    return str(value)


def _inline(value: Any) -> str:
    """Return a value in TOML, on one line."""
    value = _plain(value)
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {_inline(each)}' for name, each in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    return json.dumps(value)


def _value(key: Key, text: str) -> Any:
    """Return the value of a key in ``text``. Raises TreeError (EINVAL)."""
    kind = _some(key.type)
    if kind is bool:
        return parse_bool(text)
    if kind is int:
        return parse_unsigned(text, 64)
    if kind is float:
        try:
            return float(text)
        except ValueError:
            raise TreeError(errno.EINVAL, "must be a number") from None
    if key.inner is not None or text.startswith("["):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            raise TreeError(errno.EINVAL, "must be a value as in a topology file") from None
    if _is_tuple(kind):
        items = [part.strip() for part in text.split(",") if part.strip()]
        return [parse_unsigned(item, 64) for item in items] if get_args(kind)[0] is int else items
    return text


def _some(kind: Any) -> Any:
    """Return a type without None."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(part for part in get_args(kind) if part is not types.NoneType)
    return kind


def _is_tuple(kind: Any) -> bool:
    return get_origin(_some(kind)) is tuple


def device_of(settings: Settings) -> DeviceSpec:
    """Return the device's record. Raises TreeError (EINVAL), which names the first setting that is invalid."""
    device, errors = structure(settings.table, DeviceSpec)
    if device is not None:
        errors = list(device.problems()) or list(device.shortages())
    if errors:
        raise TreeError(errno.EINVAL, f"{dotted(errors[0].keys) or 'device'}: {errors[0].why}")
    assert device is not None
    return device
