"""Where a stream connects or listens: a unix socket, or a host and a port."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import attrs
import trio

from drivers.errors import TransportLost
from drivers.fields import fits_socket
from vnet.linux import unix_socket

__all__ = ["Address", "connect", "open_listeners", "parse_address"]

BACKLOG = 8
PORTS = range(1, 1 << 16)
STARTED = "is the other process started, with --listen?"
RULE = "must be HOST:PORT, or the path of a unix socket, with a / in it"


@attrs.frozen
class Address:
    """A place of one end of a stream."""

    host: str
    """Name or number of a host; the path of a unix socket."""
    port: int | None
    """TCP port; None: it is a unix socket."""

    def __str__(self) -> str:
        if self.port is None:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def prepare(self, connected: socket.socket) -> None:
        """Have each packet leave at once: a small one does not wait for an acknowledgement."""
        if self.port is not None:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def stays_here(self, connected: socket.socket) -> bool:
        """Return whether a connection does not leave the machine."""
        if self.port is None:
            return True
        try:
            ends = connected.getpeername(), connected.getsockname()
        except OSError:
            return False
        return all(_loopback(end[0]) for end in ends)


def _loopback(host: str) -> bool:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def parse_address(text: str) -> Address:
    """Return the address that the user wrote. Raises ValueError, with what it must be."""
    if "/" in text:
        if not fits_socket(text):
            raise ValueError("must be a shorter path: a unix socket has at most 107 bytes")
        return Address(text, None)
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) not in PORTS:
        raise ValueError(RULE)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("must have brackets around an IPv6 address, as in [::1]:7000")
    return Address(host, int(port))


async def connect(address: Address) -> socket.socket:
    """Return a non-blocking connection. Raises TransportLost, with what the user can do."""
    if address.port is None:
        try:
            return unix_socket.connect(Path(address.host))
        except OSError as exc:
            raise TransportLost(f"{address}: {exc.strerror}; {STARTED}") from None
    try:
        stream = await trio.open_tcp_stream(address.host, address.port)
    except OSError as exc:
        why = _why(exc)
        raise TransportLost(f"{address}: {why}; {STARTED}") from None
    return _detached(stream.socket)


def _why(error: BaseException) -> str:
    """Return the reason of an error of `trio.open_tcp_stream`, which has those of all tried addresses as its cause."""
    cause: BaseException | None = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    error = cause or error
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _detached(connected: trio.socket.SocketType) -> socket.socket:
    plain = socket.socket(fileno=connected.detach())
    plain.setblocking(False)
    return plain


@asynccontextmanager
async def open_listeners(address: Address) -> AsyncIterator[list[socket.socket]]:
    """Listen at all addresses of the host, or at the path, in the context. Raises OSError."""
    with ExitStack() as stack:
        if address.port is None:
            yield [stack.enter_context(unix_socket.listen(Path(address.host), socket.SOCK_STREAM, BACKLOG))]
        else:
            listeners = await trio.open_tcp_listeners(address.port, host=address.host, backlog=BACKLOG)
            plain = [_detached(each.socket) for each in listeners]
            for each in plain:
                stack.callback(each.close)
            yield plain
