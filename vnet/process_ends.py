"""Ends of a link in other processes, as records of a topology."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from drivers.carriers.options import ANY_UID
from drivers.contracts.hw import MAX_FUNCTIONS
from drivers.fields import PATH_RULE, fits_socket, must
from vnet.stream.address import Address
from vnet.stream.handshake import StreamIdentity

__all__ = [
    "IN_FILES",
    "SOCKETS_RULE",
    "ProcessEnd",
    "RemoteEnd",
    "StreamProcess",
    "StreamSpec",
    "fit_sockets",
    "function_socket",
]

KEY_MIN, KEY_MAX = 16, 200
KEY_RULE = f"{KEY_MIN} to {KEY_MAX} characters"


def function_socket(path: str, function: int) -> str:
    """Return the path of a function's vfio-user socket: each function behind the first has a number at its end."""
    return f"{path}.{function}" if function else path


def fit_sockets(path: str) -> bool:
    """Return whether the paths of all functions fit into socket addresses."""
    return fits_socket(function_socket(path, MAX_FUNCTIONS - 1))


SOCKETS_RULE = f"{PATH_RULE}, with room for the number of a function behind it"
"""Reason given for a bad path of a link's sockets, after "must be"."""


class ProcessEnd:
    """The end of a link in another process."""

    def location(self, function: int) -> str:
        """Return the name of the place of a function's device at this end."""
        raise NotImplementedError


@attrs.frozen
class RemoteEnd(ProcessEnd):
    """The end of a link in another process, by vfio-user. Each function of the link has a socket."""

    vfio_user: str = attrs.field(validator=must(fit_sockets, SOCKETS_RULE))
    """Unix socket of function 0; that of function N is called PATH.N. At ``root`` this system listens there for a
    client, such as QEMU; at ``endpoint`` a server listens there."""
    peer_uid: int | None = attrs.field(
        default=None, validator=must(lambda v: 0 <= v < ANY_UID, f"a user id between 0 and {ANY_UID - 1}")
    )
    """At ``endpoint``, user id, besides our own and root, whose process may be the server: all of the host's memory is
    shared with it. Default: no other user."""

    def __str__(self) -> str:
        """Return the name of the end beside those of hosts."""
        return f"vfio-user {self.vfio_user}"

    def location(self, function: int) -> str:
        return function_socket(self.vfio_user, function)


@attrs.frozen
class StreamSpec:
    """A stream that joins the two hosts, each in a process of its own, on one machine or on two."""

    key: str = attrs.field(validator=must(lambda v: KEY_MIN <= len(v) <= KEY_MAX, KEY_RULE))
    """Secret of both sides, without which no connection is accepted; `openssl rand -hex 32` makes one."""


@attrs.frozen
class StreamProcess(ProcessEnd):
    """The end of a link behind a stream, which `vnet up --connect` or `--listen` gave an address."""

    address: Address
    listens: bool
    """Whether this process listens."""
    key: str = attrs.field(repr=False)
    identity: StreamIdentity
    """The part of the topology that both sides must have."""

    def __str__(self) -> str:
        """Return the name of the end beside those of hosts."""
        return f"stream {self.address}"

    def location(self, function: int) -> str:
        return f"{self.address} function {function}"


IN_FILES: Mapping[str, Any] = {"form": str | RemoteEnd}
"""Metadata of an end of a link: what a file has for it."""
