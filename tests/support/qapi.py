"""A check of values against a schema of QEMU's form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["by_name", "misfits", "shape"]

JSON = {"string": str, "int": int, "boolean": bool, "null": type(None), "object": dict, "array": list}
Schema = Mapping[str, Any]


def by_name(entries: Sequence[Mapping[str, Any]]) -> Schema:
    """The entries by name; each name occurs once."""
    names = {entry["name"]: entry for entry in entries}
    assert len(names) == len(entries)
    return names


def misfits(schema: Schema, name: str, value: object, place: str = "") -> Iterator[str]:
    """Yield the differences between a value and its type."""
    entry = schema[name]
    match entry["meta-type"]:
        case "builtin":
            kind = entry["json-type"]
            good = kind == "value" or (type(value) in (int, float) if kind == "number" else type(value) is JSON[kind])
            if not good:
                yield f"{place}: {value!r} is no {kind}"
        case "enum":
            if value not in entry["values"]:
                yield f"{place}: {value!r} is none of {entry['values']}"
        case "array":
            if not isinstance(value, list):
                yield f"{place}: {value!r} is no array"
                return
            for at, item in enumerate(value):
                yield from misfits(schema, entry["element-type"], item, f"{place}[{at}]")
        case "alternate":
            if all(any(misfits(schema, one["type"], value)) for one in entry["members"]):
                yield f"{place}: {value!r} is none of {name}"
        case "object":
            yield from _object_misfits(schema, entry, value, place)


def _object_misfits(schema: Schema, entry: Mapping[str, Any], value: object, place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place}: {value!r} is no object"
        return
    members = list(entry["members"])
    for variant in entry.get("variants", ()):
        if variant["case"] == value.get(entry["tag"]):
            members += schema[variant["type"]]["members"]
    known = {member["name"]: member for member in members}
    yield from (f"{place}.{key}: unknown" for key in value.keys() - known.keys())
    for key, member in known.items():
        if key in value:
            yield from misfits(schema, member["type"], value[key], f"{place}.{key}")
        elif "default" not in member:
            yield f"{place}.{key}: missing"


def shape(schema: Schema, name: str) -> Any:
    """A type without its name: what is to be equal in two schemas. Not for types that refer to themselves."""
    entry = schema[name]
    match entry["meta-type"]:
        case "builtin":
            return entry["json-type"]
        case "enum":
            return "string"
        case "array":
            return [shape(schema, entry["element-type"])]
        case "object":
            members = {
                f"{member['name']}{'?' if 'default' in member else ''}": shape(schema, member["type"])
                for member in entry["members"]
            }
            cases = {one["case"]: shape(schema, one["type"]) for one in entry.get("variants", ())}
            return {"members": members, "tag": entry.get("tag"), "cases": cases}
        case "alternate":
            return {"any of": [shape(schema, one["type"]) for one in entry["members"]]}
    raise AssertionError(entry)
