"""The end of a device whose side is in another process, of which only the socket is known."""

from __future__ import annotations

import attrs

from vnet.ends.base import CountedEnd
from vnet.views.ends import EndView, ForeignView

__all__ = ["ForeignEnd"]


@attrs.frozen(eq=False)
class ForeignEnd(CountedEnd):
    """The end in another process: nothing counts there, and it is taken for live."""

    fixed = "belongs to another process"
    socket: str
    """Path of the socket."""
    protocol: str = "vhost-user"
    """Protocol at the socket."""
    settings: None = None
    """No driver of this system reads it."""

    def snapshot(self) -> EndView:
        return ForeignView(self.protocol, self.live, self.socket)
