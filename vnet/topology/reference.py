"""The reference of topology files, generated from their records: a table per record, and a JSON Schema for editors."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
import types
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs

from vnet.ends import DEVICE_TYPES
from vnet.names import NAME
from vnet.spec import DeviceSpec, HostSpec, LinkSpec, NtbSpec
from vnet.transports import TRANSPORTS

__all__ = ["Key", "Record", "json_schema", "records", "reference"]

TOP: Mapping[str, tuple[type, str]] = {
    "hosts": (HostSpec, "hosts.NAME"),
    "links": (LinkSpec, "links.NAME"),
    "ntbs": (NtbSpec, "ntbs.NAME"),
}
"""Tables of a file whose entries have the same record; ``devices`` has a record per device type."""

WORDS: Mapping[type, tuple[str, str]] = {
    int: ("integer", "whole number"),
    float: ("number", "number"),
    str: ("string", "text"),
    bool: ("boolean", "true or false"),
}
"""Names of a type in the schema and in the tables."""


@attrs.frozen
class Key:
    """A key of a table."""

    name: str
    type: Any
    default: Any
    """Default value; `attrs.NOTHING` for a required key."""
    doc: str
    """Docstring of the field, and the rule of its validator."""

    @property
    def plain_default(self) -> bool:
        """Whether the default is a TOML value that is not a table."""
        values = self.default if isinstance(self.default, tuple) else (self.default,)
        return not any(value is None or value is attrs.NOTHING or attrs.has(type(value)) for value in values)

    @property
    def inner(self) -> type | None:
        """The record of the key's table, or of the tables in its list; None for other types."""
        kind = _items(_some(self.type)) or _parts(self.type)[-1]
        return kind if isinstance(kind, type) and attrs.has(kind) else None


@attrs.frozen
class Record:
    """A table of a topology file."""

    path: str
    """Path of the table, such as ``devices.NAME.driver``."""
    doc: str
    keys: tuple[Key, ...]
    shared: tuple[str, ...] = ()
    """Names of keys that every device has, which are described once."""


@cache
def _docs(kind: type) -> Mapping[str, str]:
    """Return the docstrings below the fields of a class and its bases, by field."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not attrs.has(base):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):  # a class made without a file
            continue
        [node] = [n for n in tree.body if isinstance(n, ast.ClassDef)]
        for field, text in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                docs[field.target.id] = " ".join(text.value.value.split())
    return docs


def keys_of(kind: type) -> tuple[Key, ...]:
    """Return the keys of a record, in order."""
    hints, docs = get_type_hints(kind), _docs(kind)
    keys = []
    for field in attrs.fields(kind):
        if field.metadata.get("key") is False:
            continue
        rule = getattr(field.validator, "why", None)
        rule = rule() if callable(rule) else rule
        parts = [docs.get(field.name, ""), f"Must be {rule}." if rule else ""]
        default = field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = default.factory()
        keys.append(
            Key(field.name, field.metadata.get("form", hints[field.name]), default, " ".join(filter(None, parts)))
        )
    return tuple(keys)


def records() -> Iterator[Record]:
    """Yield every table that a file may have, with those of all known device types."""
    shared = keys_of(DeviceSpec)
    for kind, path in TOP.values():
        yield from _tree(kind, path)
    which, *others = shared
    which = attrs.evolve(which, doc=f"{which.doc} Must be one of {', '.join(DEVICE_TYPES)}.")
    yield Record("devices.NAME", _doc(DeviceSpec), (which, *others))
    names = tuple(key.name for key in shared)
    for name, device in DEVICE_TYPES.items():
        own = tuple(key for key in keys_of(device.spec) if key.name not in names)
        path = f'devices.NAME (type = "{name}")'
        yield Record(path, _doc(device.spec), own, names)
        for key in own:
            if key.inner is not None:
                yield from _tree(key.inner, f"{path}.{key.name}")
    for name, transport in TRANSPORTS.items():
        if options := keys_of(transport.options):
            yield Record(f'devices.NAME (transport = "{name}")', _doc(transport.options), options, names)


def _tree(kind: type, path: str) -> Iterator[Record]:
    keys = keys_of(kind)
    yield Record(path, _doc(kind), keys)
    for key in keys:
        if key.inner is not None:
            yield from _tree(key.inner, f"{path}.{key.name}")


def _doc(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "")


def reference() -> str:
    """Return all tables as Markdown."""
    return "\n\n".join(_section(record) for record in records()) + "\n"


def _section(record: Record) -> str:
    lines = [f"## `{record.path}`", "", record.doc, ""]
    if record.shared:
        lines += ["Besides the keys of every device:", ""]
    if record.keys:
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        lines += [f"| `{k.name}` | {_words(k.type)} | {_default(k)} | {k.doc or '-'} |" for k in record.keys]
    return "\n".join(lines)


def _parts(kind: Any) -> list[Any]:
    """Return the types that a value may have, without None, the value of a missing key; a record is the last one."""
    if get_origin(kind) not in {Union, types.UnionType}:
        return [kind]
    return sorted((part for part in get_args(kind) if part is not type(None)), key=attrs.has)


def _some(kind: Any) -> Any:
    """Return the type without None; a union of other types as it is."""
    parts = _parts(kind)
    return parts[0] if len(parts) == 1 else kind


def _items(kind: Any) -> Any:
    """Return the type of a list's items; None for other types."""
    return get_args(kind)[0] if get_origin(kind) is tuple else None


def _words(kind: Any) -> str:
    if len(parts := _parts(kind)) > 1:
        return " or ".join(map(_words, parts))
    kind = _some(kind)
    if get_origin(kind) is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in get_args(kind))
    if (items := _items(kind)) is not None:
        return f"list of {'tables' if attrs.has(items) else WORDS[items][1]}"
    return "table" if attrs.has(kind) else WORDS[kind][1]


def _default(key: Key) -> str:
    if key.default is attrs.NOTHING:
        return "*required*"
    return f"`{json.dumps(key.default)}`" if key.plain_default else "-"


def json_schema() -> dict[str, Any]:
    """Return a JSON Schema (draft 2020-12) of topology files: keys, types and choices, without rules between keys."""
    tables: dict[str, Any] = {name: _entries(_object(kind, _doc(kind))) for name, (kind, _) in TOP.items()}
    devices = [
        _with_options({**_object(device.spec, _doc(device.spec)), **_only_if(name)})
        for name, device in DEVICE_TYPES.items()
    ]
    tables["devices"] = _entries({"oneOf": devices})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vnet topology",
        "type": "object",
        "properties": tables,
        "required": ["hosts", "devices"],
        "additionalProperties": False,
    }


def _with_options(device: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a device with the keys of its transport, each of which requires a transport that has it."""
    owners: dict[str, list[str]] = {}
    for name, transport in TRANSPORTS.items():
        for key in keys_of(transport.options):
            if not owners.get(key.name) and key.name in device["properties"]:
                continue  # a key of the device type has the same name
            device["properties"][key.name] = _schema(key)
            owners.setdefault(key.name, []).append(name)
    needs: dict[str, Any] = {}
    for key_name, names in owners.items():
        needs[key_name] = {"properties": {"transport": {"enum": names}}}
        if attrs.fields(DeviceSpec).transport.default not in names:
            needs[key_name]["required"] = ["transport"]
    return {**device, "dependentSchemas": needs} if needs else device


def _only_if(name: str) -> dict[str, Any]:
    """Return the condition that the device has this type; without the key ``type``, it is a network device."""
    only: dict[str, Any] = {"properties": {"type": {"const": name}}}
    if name != attrs.fields(DeviceSpec).type.default:
        only["required"] = ["type"]
    return {"allOf": [only]}


def _entries(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "patternProperties": {f"^{NAME.pattern}$": schema}, "additionalProperties": False}


def _object(kind: type, doc: str) -> dict[str, Any]:
    keys = keys_of(kind)
    schema: dict[str, Any] = {
        "type": "object",
        "description": " ".join(doc.split()),
        "properties": {key.name: _schema(key) for key in keys},
        "additionalProperties": False,
    }
    required = [key.name for key in keys if key.default is attrs.NOTHING]
    return {**schema, "required": required} if required else schema


def _schema(key: Key) -> dict[str, Any]:
    schema = _schema_of(key.type)
    if key.doc:
        schema["description"] = key.doc
    if key.plain_default:
        schema["default"] = list(key.default) if isinstance(key.default, tuple) else key.default
    return schema


def _schema_of(kind: Any) -> dict[str, Any]:
    if len(parts := _parts(kind)) > 1:
        return {"anyOf": [_schema_of(part) for part in parts]}
    kind = _some(kind)
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    if (items := _items(kind)) is not None:
        return {"type": "array", "items": _schema_of(items)}
    return _object(kind, _doc(kind)) if attrs.has(kind) else {"type": WORDS[kind][0]}
