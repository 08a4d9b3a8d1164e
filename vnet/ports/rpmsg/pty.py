"""An rpmsg channel as a terminal: `screen`, `cat` and `echo` use it as a serial line."""

from __future__ import annotations

import os
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import trio

from drivers.contracts.ports import RpmsgEndpoint
from vnet.linux.waits import wait_readable, wait_writable
from vnet.ports.rpmsg.surface import Surface, deliver_patiently

__all__ = ["PtySurface", "remove_stale_terminal"]

DEVICES = Path("/dev/pts")


class PtySurface(Surface):
    """A raw pseudo-terminal behind a symbolic link.

    Bytes pass unchanged, without echo. Written bytes become messages of at most the channel's maximum size, with
    boundaries chosen by the terminal; message boundaries are not visible to readers. While no program reads, the
    terminal keeps some kilobytes, and the endpoint's inbox keeps messages until it is full; later ones are dropped.
    """

    kind = "pty"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._rest = memoryview(b"")

    async def serve(
        self, endpoint: RpmsgEndpoint, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with _terminal(self.path) as master:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._show, master, endpoint)
                task_status.started()
                await self._listen(master, endpoint)

    async def _listen(self, master: int, endpoint: RpmsgEndpoint) -> None:
        while True:
            await wait_readable(master)
            try:
                data = os.read(master, endpoint.max_payload)
            except BlockingIOError:
                continue
            await self.send(endpoint, data)

    async def _show(self, master: int, endpoint: RpmsgEndpoint) -> None:
        async for message in endpoint:
            self._rest = memoryview(message)
            if not self._write(master):
                await deliver_patiently(endpoint, partial(self._write_all, master))

    async def _write_all(self, master: int) -> None:
        while not self._write(master):
            await wait_writable(master)

    def _write(self, master: int) -> bool:
        """Write the rest of the message; return False if the terminal is full."""
        try:
            while self._rest:
                self._rest = self._rest[os.write(master, self._rest) :]
        except BlockingIOError:
            return False
        return True


def remove_stale_terminal(path: Path) -> None:
    """Remove the terminal link that a killed process left at ``path``; other files stay."""
    if path.is_symlink() and path.readlink().is_relative_to(DEVICES):
        path.unlink(missing_ok=True)


@contextmanager
def _terminal(path: Path) -> Iterator[int]:
    """Make a terminal linked at ``path``, and yield its non-blocking master end. Raises OSError if ``path`` exists.

    The slave end stays open: otherwise the terminal would hang up with the last program, and reads would fail until
    the next program opens it.
    """
    master, slave = os.openpty()
    try:
        tty.setraw(slave)
        os.set_blocking(master, False)
        name = os.ttyname(slave)
        remove_stale_terminal(path)
        path.symlink_to(name)
        try:
            yield master
        finally:
            if path.is_symlink() and path.readlink() == Path(name):
                path.unlink()
    finally:
        os.close(master)
        os.close(slave)
