"""Errors of vnet: failed accesses over a link, invalid settings, missing rights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rings.errors import MemoryFault

__all__ = [
    "CompleterAbort",
    "CompletionTimeout",
    "ConfigError",
    "ControlError",
    "FieldError",
    "LinkDown",
    "PoisonedData",
    "PrivilegeError",
    "SUDO",
    "SettingRefused",
    "TrafficError",
    "UnsupportedRequest",
    "settings_of",
]


class LinkDown(MemoryFault):
    """The link is down, or the access belongs to an epoch that ended."""


class CompletionTimeout(MemoryFault):
    """The link is up, but no completion arrived in time."""


class UnsupportedRequest(MemoryFault):
    """The other end, or our own end on its behalf, refused the request."""


class CompleterAbort(MemoryFault):
    """The other end aborted the request."""


class PoisonedData(MemoryFault):
    """The data arrived marked as damaged, and must not be used."""


class FieldError(ValueError):
    """One ``field`` of a record has an invalid ``value``; ``why`` completes the message."""

    def __init__(self, field: str, value: object, why: str) -> None:
        super().__init__(field, value, why)
        self.field, self.value, self.why = field, value, why

    def __str__(self) -> str:
        return f"{self.field} = {self.value!r}: {self.why}"


class SettingRefused(OSError):
    """The kernel refused the ``value`` of an interface's setting ``field``; ``why`` is the reason."""

    def __init__(self, code: int, why: str, ifname: str, field: str, value: object) -> None:
        super().__init__(code, why, ifname)
        self.field, self.value, self.why = field, value, why


class ConfigError(Exception):
    """An invalid setting: its ``file``, its ``path`` in the file, its ``value``, and the reason.

    An empty ``path`` means the whole file, a ``value`` of None a missing one.
    """

    def __init__(self, file: str, path: str, value: object, why: str) -> None:
        super().__init__(file, path, value, why)
        self.file = file
        self.path = path
        self.value = value
        self.why = why

    def __str__(self) -> str:
        if self.value is None:
            return ": ".join(filter(None, (self.file, self.path, self.why)))
        # repr keeps multi-line text of the file on one line.
        return f"{self.file}: {self.path} = {self.value!r}: {self.why}"


@contextmanager
def settings_of(file: str, rename: Callable[[str], str] = lambda path: path) -> Iterator[None]:
    """Re-raise a `ConfigError` with the name of the setting's ``file``, and its path changed by ``rename``."""
    try:
        yield
    except ConfigError as exc:
        raise ConfigError(file, rename(exc.path), exc.value, exc.why) from None


SUDO = 'sudo "$(command -v vnet)"'
"""``command`` of a `PrivilegeError` for the same command as root. The command line adds its arguments."""


class PrivilegeError(Exception):
    """A ``missing`` right or tool, and the ``command`` that grants or installs it."""

    def __init__(self, missing: str, command: str) -> None:
        super().__init__(missing, command)
        self.missing = missing
        self.command = command

    def __str__(self) -> str:
        return f"{self.missing}; try: {self.command}"


class ControlError(Exception):
    """A running system can't be reached, has the name already, or refuses a command; the message says which."""


class TrafficError(Exception):
    """A traffic program failed; the message has its name and its last line of output."""
