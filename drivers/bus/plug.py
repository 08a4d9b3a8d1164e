"""The base class of plugs: records of a device's settings that outlive the devices bound to them."""

from __future__ import annotations

from typing import Generic, TypeVar

import attrs

__all__ = ["Plug"]

B = TypeVar("B")


@attrs.define(eq=False)
class Plug(Generic[B]):
    """Settings of a device, whose owner's changes are forwarded to the bound device."""

    bound: B | None = attrs.field(init=False, default=None)
    """The bound device, or None."""

    def attach(self, bound: B) -> None:
        """Forward changes to ``bound`` from now on."""
        self.bound = bound

    def detach(self) -> None:
        """Forward changes to no device any more."""
        self.bound = None
