"""Attributes of one object that are replaced for a while."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Overlay"]

ATTRIBUTES = 30
"""Attributes of a class that CPython finds fast, those of the overlay included."""
_ABSENT = object()


class Overlay:
    """Replaces attributes, mostly methods, of one object until `remove`.

    The object stays the same, so code that holds it need not know. Calls cost nothing more before and after, if the
    class has at most `ATTRIBUTES` outside of slots: CPython keeps those in an array. With more, or once anything reads
    `vars` of the object, it uses a dictionary from then on, and a frame costs 3 to 11 % more.

    Bound methods that others took before are not replaced.
    """

    def __init__(self, target: object, attributes: Mapping[str, object]) -> None:
        self._target = target
        self._former = {name: _own(target, name) for name in attributes}
        for name, value in attributes.items():
            setattr(target, name, value)

    def remove(self) -> None:
        """Restore the former attributes. Calling it twice is harmless."""
        for name, former in self._former.items():
            if former is _ABSENT:
                try:
                    delattr(self._target, name)
                except AttributeError:
                    pass  # a later overlay took our value for the class's, which equals it, and deleted it
            else:
                setattr(self._target, name, former)
        self._former = {}


def _own(target: object, name: str) -> object:
    """Return an attribute of the object itself; `_ABSENT` if its class has it, or nothing."""
    value, of_class = getattr(target, name, _ABSENT), getattr(type(target), name, _ABSENT)
    return _ABSENT if of_class in (value, getattr(value, "__func__", None)) else value
