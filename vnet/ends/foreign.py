"""The end of a device whose side is in another process, of which only the socket is known."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from vnet.ends.base import CountedEnd
from vnet.views.ends import EndView, ForeignView

__all__ = ["ForeignEnd"]


@attrs.frozen(eq=False)
class ForeignEnd(CountedEnd):
    """The end in another process, which counts its traffic itself."""

    fixed = "belongs to another process"
    socket: str
    """Path of the socket."""
    protocol: str = "vhost-user"
    """Protocol at the socket."""
    connected: Callable[[], bool] = lambda: True
    """Returns whether the other process is connected, if that is known."""
    settings: None = None
    """No driver of this system reads it."""

    @property
    def live(self) -> bool:
        return self.connected()

    def snapshot(self) -> EndView:
        return ForeignView(self.protocol, self.live, self.socket)
