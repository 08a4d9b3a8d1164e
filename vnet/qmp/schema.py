"""The schema of the protocol, made from the records of commands and events."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NewType, Union, get_args, get_origin, get_type_hints

import attrs

from vnet.qmp.qapi import QapiRecord, member
from vnet.qmp.schema_records import (
    OPTIONAL,
    JsonType,
    Member,
    SchemaAlternate,
    SchemaArray,
    SchemaBuiltin,
    SchemaCommand,
    SchemaEnum,
    SchemaEvent,
    SchemaInfo,
    SchemaObject,
    Type,
    Value,
    Variant,
)
from vnet.views.ends import EndView
from vnet.views.plain import KEY

__all__ = ["make_schema"]

BUILTINS: Mapping[Any, tuple[str, JsonType]] = {
    str: ("str", "string"),
    bytes: ("str", "string"),
    int: ("int", "int"),
    bool: ("bool", "boolean"),
    float: ("number", "number"),
    types.NoneType: ("null", "null"),
    Any: ("any", "value"),
}
"""Name and JSON type of each plain type."""
UNIONS = (Union, types.UnionType)


def make_schema(commands: Mapping[str, tuple[type, Any]], events: Mapping[str, type]) -> tuple[SchemaInfo, ...]:
    """Return the entries of all commands, events and their types.

    ``commands`` has the arguments and the result of each, ``events`` the data.
    """
    made = _Types()
    entries: list[SchemaInfo] = [
        SchemaCommand(
            name=name,
            arg_type=made.name(arguments),
            ret_type=made.name(result),
            features=("unstable",) if name.startswith("x-") else None,
        )
        for name, (arguments, result) in commands.items()
    ]
    entries += [SchemaEvent(name=name, arg_type=made.name(data)) for name, data in events.items()]
    return (*entries, *made.entries.values())


class _Types:
    """The entries of types by name, added when a type is named for the first time."""

    def __init__(self) -> None:
        self.entries: dict[str, SchemaInfo] = {}
        self._records: dict[str, type] = {}

    def name(self, kind: Any) -> str:
        """Return the name of a type, whose entry is made if there is none."""
        if isinstance(kind, NewType):
            kind = kind.__supertype__
        origin, parts = get_origin(kind), get_args(kind)
        if kind in BUILTINS:
            name, json_type = BUILTINS[kind]
            self.entries.setdefault(name, SchemaBuiltin(name=name, json_type=json_type))
            return name
        if origin is Literal:
            return self._add(SchemaEnum(name="|".join(map(str, parts)), members=tuple(map(Value, parts)), values=parts))
        if origin in UNIONS:
            return self._alternate(parts)
        if origin in (tuple, Sequence):
            return self._array(part for part in parts if part is not Ellipsis)
        if attrs.has(kind) and not issubclass(kind, EndView):
            return self._object(kind)
        return self.name(Any)  # a mapping, or a record that depends on the device type

    def _add(self, entry: SchemaInfo) -> str:
        self.entries.setdefault(entry.name, entry)
        return entry.name

    def _alternate(self, parts: Iterable[Any]) -> str:
        names = tuple(sorted({self.name(part) for part in parts}))
        if "any" in names:
            return "any"
        return self._add(SchemaAlternate(name="|".join(names), members=tuple(map(Type, names))))

    def _array(self, parts: Iterable[Any]) -> str:
        names = {self.name(part) for part in parts}
        element = names.pop() if len(names) == 1 else self.name(Any)
        return self._add(SchemaArray(name=f"[{element}]", element_type=element))

    def _object(self, record: type) -> str:
        name = record.__name__
        if self._records.setdefault(name, record) is not record:
            name = f"{record.__module__}.{name}"
        if name not in self.entries:
            self.entries[name] = SchemaObject(name=name, members=())  # a record may refer to itself
            self.entries[name] = self._described(name, record)
        return name

    def _described(self, name: str, record: type) -> SchemaObject:
        members = tuple(self._members(record))
        tag = getattr(record, "TAG", None)
        if tag is None or attrs.fields_dict(record)[tag].default is not attrs.NOTHING:
            return SchemaObject(name=name, members=members)
        own = {field.name for field in attrs.fields(record)}
        variants = []
        kinds: list[type] = type.__subclasses__(record)
        for kind in kinds:
            case: Any = attrs.fields_dict(kind)[tag].default
            if case is not attrs.NOTHING:  # not a class that attrs has replaced
                entry = f"{name}:{case}"
                self.entries[entry] = SchemaObject(name=entry, members=tuple(self._members(kind, without=own)))
                variants.append(Variant(case, entry))
        return SchemaObject(name=name, members=members, tag=member(record, tag), variants=tuple(variants))

    def _members(self, record: type, without: Iterable[str] = ()) -> Iterator[Member]:
        hints = get_type_hints(record)
        for field in attrs.fields(record):
            kind = hints[field.name]
            if field.name in without:
                continue
            if "inline" in field.metadata:
                yield from self._members(kind)
                continue
            name, optional = str(field.metadata.get(KEY, member(record, field.name))), None
            if issubclass(record, QapiRecord) and field.default is not attrs.NOTHING:
                kind, optional = _some(kind), OPTIONAL
            yield Member(name, self.name(kind), optional)


def _some(kind: Any) -> Any:
    """Return the type without None."""
    if get_origin(kind) in UNIONS:
        parts = tuple(part for part in get_args(kind) if part is not types.NoneType)
        return Union[parts]  # noqa: UP007 (made of a tuple)
    return kind
