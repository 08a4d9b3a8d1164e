"""Options of transports: keys of a topology's device that one transport alone has."""

from __future__ import annotations

import attrs

from drivers.fields import PATH_RULE, FieldError, fits_socket, must

__all__ = ["ANY_UID", "BackEndSocket", "SocketOptions", "TransportOptions"]

ANY_UID = (1 << 32) - 1
"""The user id that no user has."""


@attrs.frozen
class BackEndSocket:
    """The socket of a device in another process."""

    path: str
    uid: int | None
    """User id, besides our own and root, whose process may listen there."""


@attrs.frozen
class TransportOptions:
    """The options of a device for its transport; this record itself has none.

    A subclass has a field for each, with a default, a docstring, and `drivers.fields.must` for its rule.
    """

    @property
    def peer(self) -> BackEndSocket | None:
        """Socket of the process that has the device; None: this system has it."""
        return None


@attrs.frozen
class SocketOptions(TransportOptions):
    """A device whose back end may be in another process."""

    socket: str | None = attrs.field(default=None, validator=must(fits_socket, PATH_RULE))
    """Unix socket of a back end in another process. Default: the device belongs to this system."""
    peer_uid: int | None = attrs.field(
        default=None, validator=must(lambda v: 0 <= v < ANY_UID, f"a user id between 0 and {ANY_UID - 1}")
    )
    """User id, besides our own and root, whose process may be the back end at ``socket``: all of the host's memory is
    shared with it. Default: no other user."""

    def __attrs_post_init__(self) -> None:
        if self.peer_uid is not None and self.socket is None:
            raise FieldError(("peer_uid",), self.peer_uid, "must be absent without socket")

    @property
    def peer(self) -> BackEndSocket | None:
        return None if self.socket is None else BackEndSocket(self.socket, self.peer_uid)
