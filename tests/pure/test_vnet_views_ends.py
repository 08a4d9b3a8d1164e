"""An end of a device type that a program does not know keeps all its facts."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import attrs
import pytest

from vnet.views.ends import EndView, OtherEndView
from vnet.views.parse import END_RECORDS, from_plain
from vnet.views.plain import INLINE, to_plain


@attrs.frozen
class Part:
    size: int
    names: tuple[str, ...]


@attrs.frozen
class MyView(EndView):
    TYPE = "mine"
    path: str | None
    part: Part
    inner: Part = attrs.field(metadata=INLINE)
    table: Mapping[int, Part | None]


def test_an_unknown_record_is_received_as_facts() -> None:
    part = Part(7, ("a", "b"))
    plain = to_plain(MyView("mine", True, None, part, part, {3: part, 4: None}))
    inner = {"size": 7, "names": ["a", "b"]}
    facts = {"type": "mine", "path": None, "part": inner, **inner, "table": {"3": inner, "4": None}}
    assert plain == {"kind": "mine", "live": True, **facts}
    received = from_plain(EndView, plain)
    assert received == OtherEndView("mine", True, {key: facts[key] for key in facts if key != "type"}, type="mine")
    assert to_plain(received) == plain


def test_facts_replace_no_key_of_the_record() -> None:
    facts = {"kind": "mine", "live": "yes", "type": "port", "size": 3}
    assert to_plain(OtherEndView("api", False, facts)) == {"type": "other", "kind": "api", "live": False, "size": 3}


@pytest.mark.parametrize("name", END_RECORDS)
def test_the_name_of_a_record_leads_to_it(name: str) -> None:
    module, record = END_RECORDS[name]
    assert getattr(import_module(module), record).TYPE == name


WITHOUT_NETWORK = {"type": "port", "kind": "x", "live": True, "network": 3}


@pytest.mark.parametrize("raw", [None, 3, [], {}, {"kind": "x"}, WITHOUT_NETWORK])
def test_anything_else_is_a_value_error(raw: object) -> None:
    with pytest.raises(ValueError, match="no EndView"):
        from_plain(EndView, raw)
