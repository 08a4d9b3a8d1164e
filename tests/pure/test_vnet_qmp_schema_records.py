"""Entries of the schema look as QEMU's do."""

from __future__ import annotations

import pytest

from vnet.qmp.qapi import to_wire
from vnet.qmp.schema_records import (
    OPTIONAL,
    Member,
    SchemaArray,
    SchemaBuiltin,
    SchemaCommand,
    SchemaEnum,
    SchemaInfo,
    SchemaObject,
    Value,
)


@pytest.mark.parametrize(
    ("entry", "wire"),
    [
        (SchemaBuiltin(name="int", json_type="int"), {"name": "int", "meta-type": "builtin", "json-type": "int"}),
        (SchemaArray(name="[int]", element_type="int"), {"name": "[int]", "meta-type": "array", "element-type": "int"}),
        (
            SchemaEnum(name="a", members=(Value("b"),), values=("b",)),
            {"name": "a", "meta-type": "enum", "members": [{"name": "b"}], "values": ["b"]},
        ),
        (
            SchemaObject(name="a", members=(Member("b", "int"), Member("c", "str", OPTIONAL))),
            {
                "name": "a",
                "meta-type": "object",
                "members": [{"name": "b", "type": "int"}, {"name": "c", "type": "str", "default": None}],
            },
        ),
        (
            SchemaCommand(name="x-a", arg_type="b", ret_type="c", features=("unstable",)),
            {"name": "x-a", "meta-type": "command", "arg-type": "b", "ret-type": "c", "features": ["unstable"]},
        ),
    ],
)
def test_an_entry_has_the_members_of_its_kind(entry: SchemaInfo, wire: dict[str, object]) -> None:
    assert to_wire(entry) == wire
