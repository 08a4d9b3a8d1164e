"""Conversion of TOML values to records; reports all invalid values with their places."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import Any, Literal, TypeVar, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError
from cattrs.gen import make_dict_structure_fn, override

from drivers.carriers.options import TransportOptions
from drivers.carriers.transport import Transport
from vnet.ends import DEVICE_TYPES
from vnet.errors import FieldError, Keys
from vnet.process_ends import ProcessEnd, RemoteEnd
from vnet.spec import DeviceSpec, HostSpec, LinkSpec, Must, NtbSpec
from vnet.transports import CARRIERS, TRANSPORTS

__all__ = ["references", "structure"]

T = TypeVar("T")
DEFAULT_TRANSPORT = attrs.fields(DeviceSpec).transport.default
WORDS: Mapping[type, str] = {int: "a whole number", str: "text in quotes", bool: "true or false"}
"""Description of a value of each type, after "must be"."""
LIKENESS = 0.7
"""Least similarity of a misspelt key to the key that it stands for, between 0 and 1."""
REFERENCES: Mapping[str, tuple[type, tuple[str, ...]]] = {
    "hosts": (HostSpec, ("memory",)),
    "links": (LinkSpec, ("root", "endpoint")),
    "ntbs": (NtbSpec, ("host", "primary", "secondary")),
    "devices": (DeviceSpec, ("type", "transport", *CARRIERS, "function")),
}
"""Class of records by table, and the keys that concern other records."""


def structure(raw: Any, kind: type[T]) -> tuple[T | None, list[FieldError]]:
    """Return ``raw`` as a record of class ``kind`` and no errors, or None and all errors."""
    try:
        return _converter().structure(raw, kind), []
    except (cattrs.BaseValidationError, FieldError) as exc:
        return None, list(_errors(exc, raw, ()))


def references(raw: Mapping[str, Any], invalid: set[Keys]) -> tuple[dict[str, dict[str, Any]], set[Keys]]:
    """Return the valid part of the tables of a topology, and the keys of the records that are incomplete in it.

    A record with an ``invalid`` value keeps only the keys of `REFERENCES`, for the checks of other records. It is left
    out if one of these is invalid or missing.
    """
    incomplete, bad = {keys[:2] for keys in invalid}, {keys[:3] for keys in invalid}
    tables: dict[str, dict[str, Any]] = {}
    for table, (kind, shared) in REFERENCES.items():
        required = {field.name for field in attrs.fields(kind) if field.default is attrs.NOTHING}
        tables[table] = {}
        for name, record in raw[table].items() if isinstance(raw.get(table), dict) else ():
            path = (table, name)
            if path not in incomplete:
                tables[table][name] = record
            elif not {path, *((*path, key) for key in shared)} & bad and required <= record.keys():
                tables[table][name] = {key: record[key] for key in shared if key in record}
    return tables, incomplete


def _keys(kind: Any) -> tuple[str, ...]:
    """Return the keys that a record's table may have."""
    return tuple(field.name for field in attrs.fields(kind) if field.metadata.get("key", True))


def _transport(device: Mapping[str, Any]) -> Transport | None:
    """Return the transport of a device; None if it is unknown, which its record reports."""
    name = device.get("transport", DEFAULT_TRANSPORT)
    return TRANSPORTS.get(name) if isinstance(name, str) else None


def _options(device: Mapping[str, Any]) -> type[TransportOptions]:
    transport = _transport(device)
    return TransportOptions if transport is None else transport.options


def _options_of_others(options: type[TransportOptions]) -> dict[str, object]:
    """Return the options that other transports have, with their defaults; not those in ``options``."""
    fields = (field for transport in TRANSPORTS.values() for field in attrs.fields(transport.options))
    return {field.name: field.default for field in fields if field.name not in _keys(options)}


@lru_cache(maxsize=1024)
def _meant(key: str, known: tuple[str, ...]) -> str | None:
    """Return the known key that a misspelt ``key`` is most like, if there is one."""
    return next(iter(get_close_matches(key, known, 1, LIKENESS)), None)


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
    """Return the converter. It generates functions per class once; both registries are read at each use."""
    converter: Any = cattrs.Converter()  # its hooks cannot be typed

    def make_list(value: Any, kind: Any) -> Any:
        # cattrs accepts a string as a list of its letters.
        if not isinstance(value, list):
            raise ValueError("must be a list")
        return tuple(converter.structure(value, types.GenericAlias(list, get_args(kind)[:1])))

    def make_mapping(value: Any, kind: Any) -> Any:
        return converter.structure(_table(value), types.GenericAlias(dict, get_args(kind)))

    def record(kind: Any) -> Callable[[Any, Any], Any]:
        fields = {field.name: _field(converter, field) for field in attrs.fields(kind)}
        make = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True, **fields)
        return lambda value, kind: make(_table(value), kind)

    def make_device(value: Any, _: Any) -> Any:
        """Return the record of a device, with the options of its transport."""
        name = _table(value).get("type", "net")
        if not isinstance(name, str):
            value, name = {"type": name}, "net"  # whose record refuses the value; other keys depend on it
        if name not in DEVICE_TYPES:
            raise FieldError(("type",), name, f"must be one of {', '.join(DEVICE_TYPES)}")
        kind, options = DEVICE_TYPES[name].spec, _options(value)
        own, foreign = {*_keys(kind)}, _options_of_others(options)
        others = (foreign.keys() | {*_keys(options)}) - own
        errors: list[Exception] = [
            FieldError((key,), value[key], f"must be absent for transport {value.get('transport', DEFAULT_TRANSPORT)}")
            for key, default in foreign.items()
            if key not in own and value.get(key, default) != default and _transport(value) is not None
        ]
        made = []
        for record, given in (
            (kind, {key: given for key, given in value.items() if key not in others}),
            (options, {key: value[key] for key in _keys(options) if key in value}),
        ):
            try:
                made.append(converter.structure(given, record))
            except cattrs.BaseValidationError as exc:
                errors.append(exc)
        if errors:
            raise ClassValidationError("invalid keys of a device", errors, kind)
        device, device_options = made
        return attrs.evolve(device, options=device_options)

    def make_end(value: Any, _: Any) -> Any:
        """Return the end of a link: the name of a host, or the record of an end in another process."""
        if not isinstance(value, str | dict):
            raise ValueError("must be text in quotes (a host), or a table (another process)")
        return converter.structure(value, str if isinstance(value, str) else RemoteEnd)

    for plain in WORDS:
        converter.register_structure_hook(plain, _exact(plain))
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook_func(_is_a(Literal), _choice)
    converter.register_structure_hook_func(_is_a(tuple), make_list)
    converter.register_structure_hook_func(_is_a(Mapping), make_mapping)
    converter.register_structure_hook_factory(attrs.has, record)
    converter.register_structure_hook_func(lambda kind: kind is DeviceSpec, make_device)
    converter.register_structure_hook_func(lambda kind: kind == str | ProcessEnd, make_end)
    return converter


def _field(converter: Any, field: attrs.Attribute[Any]) -> Any:
    """Return how a field is made: with its validator, because attrs stops at the first error of a record."""
    if not field.metadata.get("key", True):
        return override(omit=True)
    validator = field.validator
    if not isinstance(validator, Must):
        return override()

    def make(value: Any, kind: Any) -> Any:
        made = converter.structure(value, kind)
        try:
            validator(None, field, made)
        except FieldError as exc:
            raise FieldError((), exc.value, exc.why) from None  # cattrs adds the field
        return made

    return override(struct_hook=make)


def _errors(exc: BaseException, raw: Any, keys: Keys) -> Iterator[FieldError]:
    """Yield the errors in ``exc``, which is about the value ``raw`` at ``keys``."""
    if isinstance(exc, ClassValidationError):
        fields, others = exc.group_exceptions()
        unknown = {key for error in others if isinstance(error, ForbiddenExtraKeysError) for key in error.extra_fields}
        known = _keys(exc.cl) + (_keys(_options(raw)) if issubclass(exc.cl, DeviceSpec) else ())
        meant = {key: _meant(key, known) for key in raw if key in unknown}
        for key, guess in meant.items():
            hint = f"did you mean {guess}? " if guess else ""
            yield FieldError((*keys, key), raw[key], f"unknown key; {hint}known are {', '.join(known)}")
        for error, field in fields:
            if not isinstance(error, KeyError):
                yield from _errors(error, raw[field.name], (*keys, field.name))
            elif field.name not in meant.values():  # the misspelt key is the cause
                yield FieldError((*keys, field.name), None, "must be given")
        for error in others:
            if not isinstance(error, ForbiddenExtraKeysError):
                yield from _errors(error, raw, keys)
    elif isinstance(exc, IterableValidationError):
        for error, item in exc.group_exceptions()[0]:
            yield from _errors(error, raw[item.index], (*keys, item.index))
    elif isinstance(exc, FieldError):
        yield exc.inside(*keys)
    else:
        yield FieldError(keys, raw, str(exc) or type(exc).__name__)
