"""Conversion of TOML values to records; reports the first invalid value with its place in the file."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import ForbiddenExtraKeysError, IterableValidationError
from cattrs.gen import make_dict_structure_fn, override

from drivers.registry import TRANSPORTS
from vnet.ends import ENDS
from vnet.errors import ConfigError, FieldError
from vnet.spec import DeviceSpec

__all__ = ["structure"]

T = TypeVar("T")
WORDS: Mapping[type, str] = {int: "a whole number", str: "text in quotes", bool: "true or false"}
"""Description of a value of each type, after "must be"."""


def structure(raw: Any, kind: type[T], file: str) -> T:
    """Return ``raw`` as a record of class ``kind``. Raises ConfigError for the first invalid value."""
    try:
        record: T = _converter().structure(raw, kind)
        return record
    except cattrs.BaseValidationError as exc:
        path, value, why = _first(exc, raw, "")
        raise ConfigError(file, path or "top level", value, why) from None


def _keys(kind: Any) -> list[str]:
    """Return the keys that a record's table may have."""
    return [field.name for field in attrs.fields(kind) if field.metadata.get("key", True)]


def _exact(kind: type) -> Callable[[Any, Any], Any]:
    """Return a hook that accepts exactly this TOML type: a number in quotes is no number."""

    def take(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"must be {WORDS[kind]}")
        if isinstance(value, str) and "\0" in value:
            raise ValueError("must not contain a NUL character")  # neither paths nor names can
        return value

    return take


def _number(value: Any, _: Any) -> float:
    if type(value) not in {int, float}:
        raise ValueError("must be a number")
    return float(value)


def _table(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("must be a table")
    return value


def _choice(value: Any, kind: Any) -> Any:
    if value not in get_args(kind):
        raise ValueError(f"must be one of {', '.join(get_args(kind))}")
    return value


def _is_a(origin: object) -> Callable[[Any], bool]:
    return lambda kind: get_origin(kind) is origin


@cache
def _converter() -> Any:
    """Return the converter. It generates functions per class once; `ENDS` and `TRANSPORTS` are read at each use."""
    converter: Any = cattrs.Converter()  # its hooks cannot be typed

    def make_list(value: Any, kind: Any) -> Any:
        # cattrs accepts a string as a list of its letters.
        if not isinstance(value, list):
            raise ValueError("must be a list")
        return tuple(converter.structure(value, types.GenericAlias(list, get_args(kind)[:1])))

    def make_mapping(value: Any, kind: Any) -> Any:
        return converter.structure(_table(value), types.GenericAlias(dict, get_args(kind)))

    def record(kind: Any) -> Callable[[Any, Any], Any]:
        hidden: Any = {field.name: override(omit=True) for field in attrs.fields(kind) if field.name not in _keys(kind)}
        make = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True, **hidden)
        return lambda value, kind: make(_table(value), kind)

    def make_device(value: Any, _: Any) -> Any:
        """Return the record of a device; options of transports that are no field of it go to ``extra``."""
        name = _table(value).get("type", "net")
        # The validator of the record reports an unknown type.
        kind = ENDS[name].spec if isinstance(name, str) and name in ENDS else next(iter(ENDS.values())).spec
        options = {key for transport in TRANSPORTS.values() for key in transport.options} - set(_keys(kind))
        device = converter.structure({key: given for key, given in value.items() if key not in options}, kind)
        return attrs.evolve(device, extra=tuple((key, given) for key, given in value.items() if key in options))

    for plain in WORDS:
        converter.register_structure_hook(plain, _exact(plain))
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook_func(_is_a(Literal), _choice)
    converter.register_structure_hook_func(_is_a(tuple), make_list)
    converter.register_structure_hook_func(_is_a(Mapping), make_mapping)
    converter.register_structure_hook_factory(attrs.has, record)
    converter.register_structure_hook_func(lambda kind: kind is DeviceSpec, make_device)
    return converter


def _first(exc: BaseException, raw: Any, path: str) -> tuple[str, object, str]:
    """Return the path, value and reason of the first error."""
    if isinstance(exc, ForbiddenExtraKeysError):
        key = min(exc.extra_fields)
        return f"{path}.{key}".lstrip("."), raw[key], f"unknown key; known are {', '.join(_keys(exc.cl))}"
    if isinstance(exc, FieldError):
        return f"{path}.{exc.field}".lstrip("."), exc.value, exc.why
    if isinstance(exc, cattrs.BaseValidationError):
        # A misspelt key says more than the missing key that it stands for.
        inner = next((e for e in exc.exceptions if isinstance(e, ForbiddenExtraKeysError)), exc.exceptions[0])
        for note in getattr(inner, "__notes__", ()):
            name = getattr(note, "name", getattr(note, "index", None))
            if name is None:
                continue
            below = raw.get(name) if isinstance(raw, dict) else raw
            if isinstance(exc, IterableValidationError) and isinstance(raw, list):
                return _first(inner, raw[int(name)], f"{path}[{name}]")
            return _first(inner, below, f"{path}.{name}")
        return _first(inner, raw, path)
    if isinstance(exc, KeyError):
        return path.lstrip("."), None, "must be given"
    return path.lstrip("."), raw, str(exc) or type(exc).__name__
