"""Views from plain data, as a client receives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

import attrs
from cattrs import Converter
from cattrs.gen import make_dict_structure_fn

from vnet.errors import ControlError
from vnet.views.ends import EndView, OtherEndView
from vnet.views.plain import INLINE, KEY

__all__ = ["from_answer", "from_plain"]

T = TypeVar("T")
CONVERTER = Converter(detailed_validation=False)
END_RECORDS: Mapping[str, tuple[str, str]] = {
    "port": ("vnet.views.ends", "PortView"),
    "foreign": ("vnet.views.ends", "ForeignView"),
    "disk": ("vnet.views.blk", "DiskView"),
    "store": ("vnet.views.blk", "StoreView"),
    "initiator": ("vnet.views.scsi", "InitiatorView"),
    "targets": ("vnet.views.scsi", "TargetsView"),
    "rpmsg": ("vnet.views.rpmsg", "RpmsgView"),
    "mediator": ("vnet.views.mediator", "MediatorView"),
}
"""Module and name of the record of an end by `EndView.type`. Imported at the first use: drivers are slow to import."""


def from_plain(record: type[T], raw: object) -> T:
    """Return the view that `vnet.views.plain.to_plain` made ``raw`` of.

    Raises ValueError if ``raw`` is that of another version.
    """
    try:
        return CONVERTER.structure(raw, record)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise ValueError(f"no {record.__name__}: {type(exc).__name__} {exc}") from None


def from_answer(name: str, record: type[T], raw: object) -> T:
    """Return an answer of the system ``name`` as a view. Raises ControlError if that runs another version."""
    try:
        return from_plain(record, raw)
    except ValueError as exc:
        raise ControlError(f"{name} runs another version of vnet: {exc}") from None


def _structure_record(record: type[Any]) -> Callable[[Any, Any], Any]:
    fields = attrs.fields(attrs.resolve_types(record))
    inline = [field.name for field in fields if field.metadata == INLINE]
    keys = {field.name: field.metadata[KEY] for field in fields if KEY in field.metadata}
    structure = make_dict_structure_fn(record, CONVERTER)
    if not inline and not keys:
        return structure
    return lambda raw, _: structure(
        {**raw, **dict.fromkeys(inline, raw), **{name: raw[key] for name, key in keys.items()}}, record
    )


def _structure_word(raw: object, _: object) -> int | str:
    """Return a word of a ring, or its meaning."""
    if not isinstance(raw, int | str):
        raise TypeError(f"{raw!r} is no word")
    return raw


def _structure_end(raw: dict[str, object], _: object) -> EndView:
    """Return the record that ``type`` names, or the facts of an end whose record this program does not have."""
    name = str(raw["type"])
    if name in END_RECORDS:
        record: type[EndView] = getattr(import_module(END_RECORDS[name][0]), END_RECORDS[name][1])
        return CONVERTER.structure(raw, record)
    facts = {key: value for key, value in raw.items() if key not in {"type", "kind", "live"}}
    return OtherEndView(str(raw["kind"]), bool(raw["live"]), facts, type=name)


CONVERTER.register_structure_hook_factory(attrs.has, _structure_record)
CONVERTER.register_structure_hook_func(lambda record: record is object, lambda raw, _: raw)
CONVERTER.register_structure_hook_func(lambda record: record == int | str, _structure_word)
CONVERTER.register_structure_hook(bytes, lambda raw, _: bytes.fromhex(raw))
CONVERTER.register_structure_hook_func(lambda record: record is EndView, _structure_end)
