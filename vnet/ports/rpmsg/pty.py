"""A channel as a terminal: `screen`, `cat` and `echo` talk to it as to a serial line."""

from __future__ import annotations

import os
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import trio

from drivers.contracts.ports import RpmsgEndpoint
from vnet.ports.rpmsg.surface import Surface, patiently

__all__ = ["PtySurface", "remove_stale_terminal"]

DEVICES = Path("/dev/pts")


class PtySurface(Surface):
    """A pseudo-terminal, found through a symbolic link.

    It is raw: bytes pass as they are, and nothing is echoed. What a program writes becomes messages of at most the
    size that the device has, cut wherever the terminal cuts; of messages that come in, only the bytes are shown.
    While no program reads, the terminal keeps some kilobytes and the inbox as many messages as it holds; what comes
    then is dropped.
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
            await trio.lowlevel.wait_readable(master)
            try:
                data = os.read(master, endpoint.max_payload)
            except BlockingIOError:
                continue
            await self.send(endpoint, data)

    async def _show(self, master: int, endpoint: RpmsgEndpoint) -> None:
        async for message in endpoint:
            self._rest = memoryview(message)
            if not self._write(master):
                await patiently(endpoint, partial(self._write_all, master))

    async def _write_all(self, master: int) -> None:
        while not self._write(master):
            await trio.lowlevel.wait_writable(master)

    def _write(self, master: int) -> bool:
        """Whether all of it was taken."""
        try:
            while self._rest:
                self._rest = self._rest[os.write(master, self._rest) :]
        except BlockingIOError:
            return False
        return True


def remove_stale_terminal(path: Path) -> None:
    """Remove the link to a terminal that a killed process left at ``path``; anything else is left alone."""
    if path.is_symlink() and path.readlink().is_relative_to(DEVICES):
        path.unlink(missing_ok=True)


@contextmanager
def _terminal(path: Path) -> Iterator[int]:
    """A terminal at ``path``; its master end, which never blocks. Raises OSError where something else is there.

    Its other end stays open here as well: else it would hang up with the last program, and read as broken until the
    next one comes.
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
