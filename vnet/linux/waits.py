"""Waits for file descriptors that outlast a shortage of the kernel's memory or watches."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable

import trio

__all__ = ["RETRY", "SHORTAGES", "wait_readable", "wait_writable"]

RETRY = 0.5
"""Seconds between attempts while this process, or the kernel, lacks descriptors, memory or watches."""
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC})
"""Errors of calls that succeed later. ENOSPC is that of epoll, if the user has too many watches."""
_Source = int | socket.socket


async def wait_readable(source: _Source) -> None:
    """Wait as `trio.lowlevel.wait_readable` does, but try again while Trio cannot add the descriptor to its set."""
    await _wait(trio.lowlevel.wait_readable, source)


async def wait_writable(source: _Source) -> None:
    """Wait as `trio.lowlevel.wait_writable` does, but try again while Trio cannot add the descriptor to its set."""
    await _wait(trio.lowlevel.wait_writable, source)


async def _wait(wait: Callable[[_Source], Awaitable[None]], source: _Source) -> None:
    while True:
        try:
            await wait(source)
        except OSError as exc:
            if exc.errno not in SHORTAGES:
                raise
        else:
            return
        await trio.sleep(RETRY)
