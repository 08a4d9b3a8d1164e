"""What can go wrong in the simulated world: an access lost on the link, a bad setting, a missing right."""

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
    "UnsupportedRequest",
    "settings_of",
]


class LinkDown(MemoryFault):
    """The access belongs to a link, or to an epoch of it, that is over."""


class CompletionTimeout(MemoryFault):
    """The link is up, yet no completion came back in time."""


class UnsupportedRequest(MemoryFault):
    """The other end, or our own end on its behalf, refused the request."""


class CompleterAbort(MemoryFault):
    """The other end began to serve the request, and gave up."""


class PoisonedData(MemoryFault):
    """The data came marked as damaged on its way: nobody may use it."""


class FieldError(ValueError):
    """One ``field`` of a record has a ``value`` that can't be used; ``why`` is the end of the sentence."""

    def __init__(self, field: str, value: object, why: str) -> None:
        super().__init__(field, value, why)
        self.field, self.value, self.why = field, value, why

    def __str__(self) -> str:
        return f"{self.field} = {self.value!r}: {self.why}"


class SettingRefused(OSError):
    """The kernel refused one ``value`` for an interface, that of the setting ``field``; ``why`` is its cause."""

    def __init__(self, code: int, why: str, ifname: str, field: str, value: object) -> None:
        super().__init__(code, why, ifname)
        self.field, self.value, self.why = field, value, why


class ConfigError(Exception):
    """A setting that can't be used: in which ``file``, at which ``path`` in it, its ``value``, and why not.

    An empty ``path`` is the file as a whole, a ``value`` of None one that is missing.
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
        # repr keeps any text of the file on one line.
        return f"{self.file}: {self.path} = {self.value!r}: {self.why}"


@contextmanager
def settings_of(file: str, rename: Callable[[str], str] = lambda path: path) -> Iterator[None]:
    """Raise a `ConfigError` as one of the ``file`` that the setting came from, at the place that ``rename`` returns."""
    try:
        yield
    except ConfigError as exc:
        raise ConfigError(file, rename(exc.path), exc.value, exc.why) from None


SUDO = 'sudo "$(command -v vnet)"'
"""The ``command`` of a `PrivilegeError` that means: the same command, as root. The command line adds its arguments."""


class PrivilegeError(Exception):
    """A right or a tool that is ``missing``, and the ``command`` that grants or installs it."""

    def __init__(self, missing: str, command: str) -> None:
        super().__init__(missing, command)
        self.missing = missing
        self.command = command

    def __str__(self) -> str:
        return f"{self.missing}; try: {self.command}"


class ControlError(Exception):
    """A running system that can't be reached, has the name already, or refuses a command; one sentence says which."""
