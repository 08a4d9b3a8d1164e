"""The device end of a device in another process, of which only the socket is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from vnet.ends.base import Figures
from vnet.views.ends import EndView

__all__ = ["ForeignEnd", "ForeignView"]


@attrs.frozen
class ForeignView(EndView):
    """The device end of a vhost-user back end in another process."""

    socket: str
    """Path of the back end's socket."""


@attrs.frozen(eq=False)
class ForeignEnd:
    """The device end of a vhost-user back end in another process."""

    socket: str
    """Path of the back end's socket."""

    @property
    def settings(self) -> object:
        """None: no driver of this system reads it."""
        return None

    @property
    def live(self) -> bool:
        """True: only the driver's side knows whether the back end is connected."""
        return True

    def figures(self, queue: int) -> Figures:
        """Return zeros: another process counts."""
        return Figures(0, 0, {})

    def drops(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        return iter(())

    def snapshot(self) -> EndView:
        return ForeignView("vhost-user", self.live, self.socket)
