"""The foreign device: how to reach it, and its process."""

from __future__ import annotations

import shlex
import socket
from pathlib import Path

import trio

from vnet.check.program import Program
from vnet.check.wire import HungUp, PeerError
from vnet.linux import unix_socket

__all__ = ["Peer", "fill"]

START = 20.0
"""Seconds that a spawned device has until its socket takes connections."""


def fill(command: str, path: Path, worker: int) -> list[str]:
    """Return the words of a command with ``{socket}`` and ``{worker}`` replaced. Raises ValueError."""
    words = shlex.split(command)
    if not any("{socket}" in word for word in words):
        raise ValueError("--spawn: the command must contain {socket}, the place of the socket's path")
    return [word.replace("{socket}", str(path)).replace("{worker}", str(worker)) for word in words]


class Peer(Program):
    """A device behind a socket."""

    def __init__(self, path: Path, *, pid: int | None = None, command: list[str] | None = None) -> None:
        super().__init__(pid=pid, command=command)
        self.path = path
        self.busy = False
        """Whether the idle process uses a whole core, as devices that poll do: then it can't be judged by its CPU."""

    async def start(self) -> None:
        """Start the process if it is spawned, and wait for its socket. Raises PeerError."""
        if not self.spawned:
            return
        await self.stop()
        try:
            self.path.unlink(missing_ok=True)
        except OSError as exc:
            raise PeerError(f"{self.path} can't be removed: {exc.strerror}") from None
        self.spawn()
        with trio.move_on_after(START):
            while self.alive():
                try:
                    unix_socket.connect(self.path).close()
                except OSError:
                    await trio.sleep(0.02)
                else:
                    return
        why = f"does not listen at {self.path} after {START:g} s" if self.alive() else self.end()
        raise PeerError(f"the spawned device {why}. Its output: {self.output() or 'none'}")

    async def connect(self, patience: float) -> socket.socket:
        """Return a connection. Raises PeerError."""
        with trio.move_on_after(patience):
            while True:
                try:
                    return unix_socket.connect(self.path)
                except (BlockingIOError, ConnectionRefusedError, FileNotFoundError) as exc:
                    error = exc
                    if not self.alive():
                        break
                except OSError as exc:
                    raise PeerError(f"no connection to {self.path}: {exc.strerror}") from None
                await trio.sleep(0.01)
        raise HungUp(f"takes no connection at {self.path}: {error.strerror}")
