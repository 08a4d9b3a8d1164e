"""The device end of a device in another process, of which only the socket is known."""

from __future__ import annotations

import attrs

from vnet.ends.base import CountedEnd
from vnet.views.ends import EndView, ForeignView

__all__ = ["ForeignEnd"]


@attrs.frozen(eq=False)
class ForeignEnd(CountedEnd):
    """The device end of a vhost-user back end in another process: it counts, and knows whether the end is live."""

    fixed = "belongs to the back end, which is another process"
    socket: str
    """Path of the back end's socket."""
    settings: None = None
    """No driver of this system reads it."""

    def snapshot(self) -> EndView:
        return ForeignView("vhost-user", self.live, self.socket)
