"""Records by name: the built-in ones, those that a file of the user adds, and those of installed packages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

from vnet.names import NAME, NAME_RULE

__all__ = ["FAILURES", "Registry", "reason"]

T = TypeVar("T")
LOG = logging.getLogger(__name__)
FAILURES = (Exception, SystemExit)
"""Errors of code that is not ours; SystemExit would end the command without a word."""


def reason(error: BaseException) -> str:
    """Return the message of an error as one line."""
    if isinstance(error, SystemExit):
        return f"it ends the program (SystemExit: {error.code})"
    return " ".join(str(error).split()) or type(error).__name__


class Registry(Mapping[str, T], Generic[T]):
    """A table of records of one class.

    An installed package adds a record by an entry point: its group is that of the registry, its name that of the
    record. Entry points are looked for when a name is missing, or when all names are asked for. One that fails is
    reported in one line and left out.
    """

    def __init__(
        self,
        group: str,
        record: type,
        built_in: Mapping[str, T],
        check: Callable[[str, T], None] = lambda name, record: None,
    ) -> None:
        """``check`` raises ValueError if a record cannot be added under a name."""
        self._group, self._record, self._check = group, record, check
        self._records = dict(built_in)
        self._complete = False

    def add(self, name: str, record: T) -> None:
        """Add a record. Raises ValueError if the name is invalid or taken, or the record is invalid."""
        if not NAME.fullmatch(name):
            raise ValueError(f"name {name!r}: {NAME_RULE}")
        if name in self._records:
            raise ValueError(f"name {name!r}: already used")
        if not isinstance(record, self._record):
            raise ValueError(f"{name} = {record!r}: must be a {self._record.__name__}")
        self._check(name, record)
        self._records[name] = record

    @contextmanager
    def temporarily(self) -> Iterator[None]:
        """Remove the records added in the context when it ends, and look for entry points again."""
        before = dict(self._records), self._complete
        try:
            yield
        finally:
            self._records, self._complete = before

    def __getitem__(self, name: str) -> T:
        return (self._records if name in self._records else self._all())[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> Mapping[str, T]:
        """Return all records, with those of installed packages."""
        if not self._complete:
            self._complete = True  # before the packages are imported, which may ask for names
            from importlib.metadata import entry_points  # slow to import

            try:
                points = entry_points(group=self._group)
            except OSError as exc:
                exc.filename = exc.filename or "the metadata of installed packages"
                raise
            for point in points:
                try:
                    self.add(point.name, point.load())
                except FAILURES as exc:
                    package = point.dist.name if point.dist is not None else point.value
                    LOG.warning("%s: %s of package %s is left out: %s", self._group, point.name, package, reason(exc))
        return self._records
