"""Entries of the schema, as in QEMU: one class for each kind of entity."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import attrs

from vnet.qmp.qapi import Null, QapiRecord

__all__ = [
    "OPTIONAL",
    "JsonType",
    "Member",
    "SchemaAlternate",
    "SchemaArray",
    "SchemaBuiltin",
    "SchemaCommand",
    "SchemaEnum",
    "SchemaEvent",
    "SchemaInfo",
    "SchemaObject",
    "Type",
    "Value",
    "Variant",
]

JsonType = Literal["string", "number", "int", "boolean", "null", "object", "array", "value"]
MetaType = Literal["builtin", "enum", "array", "object", "alternate", "command", "event"]


@attrs.frozen(kw_only=True)
class SchemaInfo(QapiRecord):
    """An entity of the protocol."""

    TAG: ClassVar[str] = "meta_type"
    """Field that tells the subclass."""

    name: str
    """Name of a command or an event; a type's name means nothing outside of the schema."""
    meta_type: MetaType
    """Kind of the entity."""
    features: tuple[str, ...] | None = None
    """Features of the entity, such as unstable."""


@attrs.frozen(kw_only=True)
class SchemaBuiltin(SchemaInfo):
    """A type of JSON."""

    meta_type: MetaType = "builtin"
    json_type: JsonType


@attrs.frozen
class Value(QapiRecord):
    """A value of an enumeration."""

    name: str
    features: tuple[str, ...] | None = None


@attrs.frozen(kw_only=True)
class SchemaEnum(SchemaInfo):
    """A string of a few."""

    meta_type: MetaType = "enum"
    members: tuple[Value, ...]
    values: tuple[str, ...]
    """The same values, for old clients."""


@attrs.frozen(kw_only=True)
class SchemaArray(SchemaInfo):
    """An array."""

    meta_type: MetaType = "array"
    element_type: str


@attrs.frozen
class Member(QapiRecord):
    """A member of an object."""

    name: str
    type: str
    default: Any = None
    """Null if the member is optional; absent if it is always there."""
    features: tuple[str, ...] | None = None


@attrs.frozen
class Variant(QapiRecord):
    """Members that an object has for one value of its tag."""

    case: str
    """Value of the tag."""
    type: str
    """Object with the members."""


@attrs.frozen(kw_only=True)
class SchemaObject(SchemaInfo):
    """An object."""

    meta_type: MetaType = "object"
    members: tuple[Member, ...]
    tag: str | None = None
    """Name of the member whose value decides about further members."""
    variants: tuple[Variant, ...] | None = None


@attrs.frozen
class Type(QapiRecord):
    """A type of an alternate."""

    type: str


@attrs.frozen(kw_only=True)
class SchemaAlternate(SchemaInfo):
    """A value of one of several types."""

    meta_type: MetaType = "alternate"
    members: tuple[Type, ...]


@attrs.frozen(kw_only=True)
class SchemaCommand(SchemaInfo):
    """A command."""

    meta_type: MetaType = "command"
    arg_type: str
    """Object of the arguments."""
    ret_type: str
    """Type of the result."""
    allow_oob: bool | None = None
    """Whether it can be executed out of band; absent: no."""


@attrs.frozen(kw_only=True)
class SchemaEvent(SchemaInfo):
    """An event."""

    meta_type: MetaType = "event"
    arg_type: str
    """Object of the data."""


OPTIONAL = Null()
"""Value of `Member.default` of an optional member."""
