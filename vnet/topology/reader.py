"""Reads topologies from TOML, and reports all problems of a file at once."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from vnet.errors import ConfigError, FieldError, Keys
from vnet.spec import DeviceSpec
from vnet.topology.checks import problems
from vnet.topology.join import NOTHING, TABLES, clashes, keys_of, select, union
from vnet.topology.structure import references, structure
from vnet.topology.topology import Topology

__all__ = ["DEFAULT", "load", "parse", "parse_device", "parse_unit"]

FILE_MAX = 16 << 20
"""Largest topology file in bytes: the path may be a device that never ends."""
END = -1
"""Index that no value has."""
DEPTH = 10
"""Most keys that lead to an error; below unknown keys, tables can be nested without end."""


def load(path: Path, running: Topology = NOTHING) -> Topology:
    """Return the topology in a file; ``running`` is as of `parse`. Raises ConfigError."""
    return from_tables(load_tables(path), str(path), running)


def load_tables(path: Path) -> dict[str, Any]:
    """Return the tables in a file, which are not checked. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            return read_tables(file, str(path))
    except OSError as exc:
        raise ConfigError(str(path), "", None, exc.strerror or str(exc)) from None


def read_tables(stream: BinaryIO, file: str) -> dict[str, Any]:
    """Return the tables in an open file, which are not checked; ``file`` is its name. Raises ConfigError, OSError."""
    data = stream.read(FILE_MAX + 1)
    if len(data) > FILE_MAX:
        raise ConfigError(file, "", None, f"must be at most {FILE_MAX >> 20} MiB long")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigError(file, "", None, "must be UTF-8 text") from None
    return parse_tables(text, file)


def parse(text: str, file: str = "topology", running: Topology = NOTHING) -> Topology:
    """Return the topology in a TOML text, with default sizes filled in.

    Its records may refer to parts of the topology ``running``, to which they are to be added. Raises ConfigError: the
    first problem, and all others in its ``more``, in the order of the text.
    """
    return from_tables(parse_tables(text, file), file, running)


def parse_tables(text: str, file: str) -> dict[str, Any]:
    """Return the tables in a TOML text, whatever they are. Raises ConfigError if it is not valid TOML."""
    try:
        return tomllib.loads(text)
    except ValueError as exc:  # also for a number that Python does not convert
        raise ConfigError(file, "", None, f"not valid TOML: {exc}") from None
    except RecursionError:
        raise ConfigError(file, "", None, "not valid TOML: nested too deeply") from None


def from_tables(raw: Mapping[str, Any], file: str, running: Topology = NOTHING, *, sized: bool = True) -> Topology:
    """Return the topology in the tables of a TOML text, as `parse` does; unless ``sized``, without default sizes."""
    tables = {**({} if running is NOTHING else {"hosts": {}, "devices": {}}), "links": {}, **raw}
    new, errors = structure(tables, Topology)
    known = {error.keys for error in errors}
    incomplete: set[Keys] = set()
    if new is None:
        tables, incomplete = references(tables, known)
        new, _ = structure(tables, Topology)
        assert new is not None
    errors += clashes(running, new)
    whole = union(running, new)
    if running is NOTHING or not errors:
        named = {name: table for name, table in raw.items() if isinstance(table, dict)}
        for name in TABLES:
            named[name] = {**getattr(running, name), **named.get(name, {})}
        errors += (error for error in problems(whole, named, incomplete) if error.keys not in known)
    if errors:
        raise ConfigError.of(file, _sorted(errors, raw))
    return select(whole.sided().sized(), keys_of(new)) if sized else new


def _sorted(errors: Iterable[FieldError], raw: Mapping[str, Any]) -> list[FieldError]:
    """Return the errors in the order of the text; a key that is not there counts as the last of its table."""
    places = {keys: place for place, keys in enumerate(_walk(raw, ()))}

    def place(error: FieldError) -> int:
        keys = error.keys
        while keys not in places:
            keys = (*keys[:-1], END) if keys[-1] != END else (*keys[:-2], END)
        return places[keys]

    return sorted(errors, key=place)


def _walk(value: Any, keys: Keys) -> Iterator[Keys]:
    """Yield the keys of ``value`` and of all values in it, and at the end of each table and list the key `END`."""
    yield keys
    if isinstance(value, dict | list) and len(keys) < DEPTH:
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _walk(each, (*keys, key))
        yield (*keys, END)


def parse_device(keys: Mapping[str, Any], file: str) -> DeviceSpec:
    """Return a device outside any topology from its ``keys``. Raises ConfigError as `parse` does."""
    device, errors = structure(keys, DeviceSpec)
    if device is not None:
        errors = list(device.problems()) or list(device.shortages())
    if errors:
        raise ConfigError.of(file, _sorted(errors, keys))
    assert device is not None
    return device


def parse_unit(name: str, device: DeviceSpec, keys: Mapping[str, Any], file: str) -> Any:
    """Return the record of a new unit of the ``device`` called ``name`` from its keys. Raises ConfigError."""
    assert device.unit is not None
    unit, errors = structure(keys, device.unit)
    if errors:
        place: Keys = ("devices", name, *device.units_key, len(device.units))
        raise ConfigError.of(file, [error.inside(*place) for error in _sorted(errors, keys)])
    return unit


DEFAULT = """\
# Two hosts, one PCI Express link, one network device: virtio-net on rc, vhost-net on ep.
[hosts.rc]
[hosts.ep]

[links.pcie0]
root = "rc"
endpoint = "ep"

[devices.net0]
type = "net"
transport = "pci"
link = "pcie0"
driver = { kind = "tun", addresses = ["198.18.0.1/24", "2001:2::1/64"] }
device = { kind = "tun", addresses = ["198.18.0.2/24", "2001:2::2/64"] }
"""
"""The topology of `vnet up` without a file, in TOML."""
