"""Options of ``vnet serve TYPE``, and QEMU's arguments for the served device: a table per device type."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar, get_args, get_type_hints

import attrs

from vnet.spec import DeviceSpec

__all__ = ["OLDEST", "VALUE", "QemuDevice", "Serve", "ServeOption", "Version", "table"]

SpecT = TypeVar("SpecT", bound=DeviceSpec)

Version = tuple[int, int]
"""A version of QEMU."""
OLDEST: Version = (7, 2)
"""The oldest supported version of QEMU."""


class _Value:
    """Type of `VALUE`."""


VALUE = _Value()
"""Placeholder for the value from the command line."""


def _plain(given: Any) -> object:
    return list(given) if isinstance(given, tuple) else given


def _value(kind: Any, text: str) -> object:
    """Return ``text`` as a value of type ``kind``, or unchanged if it is none."""
    kinds = {kind, *get_args(kind)}
    if int in kinds and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    return {"true": True, "false": False}.get(text, text) if bool in kinds else text


def table(record: type, text: str) -> dict[str, object]:
    """Return ``key=value,key=value`` as the table of a record. Raises ValueError."""
    kinds = get_type_hints(record)
    rows = [part.partition("=") for part in text.split(",")]
    keys = [key for key, _, _ in rows]
    if len({*keys}) < len(keys) or not all(equals for _, equals, _ in rows):
        raise ValueError(f"{text!r}: must be KEY=VALUE,..., each key once")
    return {key: _value(kinds.get(key), value) for key, _, value in rows}


@attrs.frozen
class ServeOption:
    """An option, and the keys of a device in a topology that it sets."""

    flag: str
    """Name, such as --mtu."""
    keys: Mapping[str, object]
    """Values by dotted key; `VALUE` stands for the option's value."""
    help: str
    kind: type[str | int | bool] = str
    """Type of the value; bool for an option without a value."""
    choices: Sequence[str] = ()
    """All values that the option takes; empty: any."""
    metavar: str | None = None
    """Name of the value in help texts. Default: its type."""
    required: bool = False
    repeatable: bool = False
    """Whether the option may be given several times: its value is then a tuple."""
    make: Callable[[Any], object] = _plain
    """Converts the option's value to that of a key. Raises ValueError with the rule that the value breaks."""

    @property
    def name(self) -> str:
        """Name of the option's parameter."""
        return self.flag.lstrip("-").replace("-", "_")

    def is_given(self, value: object) -> bool:
        """Return whether the user gave ``value``: an absent option is None, False or an empty tuple."""
        return value is not None and value is not False and value != ()

    def put(self, given: Any, device: dict[str, Any]) -> None:
        """Set the keys of ``device`` for the value ``given``. Raises ValueError."""
        for path, value in self.keys.items():
            *tables, key = path.split(".")
            table = device
            for name in tables:
                table = table.setdefault(name, {})
            table[key] = self.make(given) if value is VALUE else value


@attrs.frozen
class QemuDevice(Generic[SpecT]):
    """QEMU's device for a vhost-user back end of a device type."""

    device: str
    """Argument of -device that every version takes."""
    queues: str | None = None
    """Property for the number of queues, by default one per processor of the guest; None: no such property."""
    size: str | None = None
    """Property for the descriptors of a queue; None: no such property."""
    returns: Version | None = None
    """First version that reconnects to a restarted back end; None: no version does."""
    properties: Callable[[SpecT], Iterable[str]] = lambda spec: ()
    """Returns more properties of -device."""
    words: Callable[[SpecT], Iterable[str]] = lambda spec: ()
    """Returns arguments between -chardev, whose id is c0, and -device."""


@attrs.frozen
class Serve(Generic[SpecT]):
    """How ``vnet serve`` serves a device type."""

    options: Sequence[ServeOption] = ()
    """Options besides those of every type."""
    one_of: Sequence[str] = ()
    """Flags of options, exactly one of which must be given."""
    qemu: QemuDevice[SpecT] | None = None
    """QEMU's device; None: QEMU has none."""
