"""Owns the state file of a system while it runs, and removes what a killed system left."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import attrs

from vnet.errors import ControlError
from vnet.linux.files import close_file, naming
from vnet.linux.netns import NETNS_DIR, remove_netns
from vnet.linux.privileges import rootless
from vnet.linux.privileges.confinement import is_confined
from vnet.linux.unix_socket import remove_stale
from vnet.names import NAME_MAX
from vnet.ports.rpmsg.pty import remove_stale_terminal
from vnet.system.state import State, lock_file, make_run_dir, read_text, socket_path, state_path, uptime
from vnet.topology import Topology

__all__ = ["Claim", "NameTaken", "claim", "claim_free", "clean_up"]

LOCK_TRIES = 20
"""Attempts to lock a file."""
LOCK_PAUSE = 0.01
"""Seconds between two attempts: readers hold the lock for an instant."""


class NameTaken(ControlError):
    """A system of the name is running already."""


class Claim:
    """The file of a system, which this process has locked."""

    def __init__(self, name: str, fd: int) -> None:
        self.state = State(name, os.getpid(), {}, started=uptime(), rootless=rootless.is_entered())
        self._fd = fd
        self._folder = Path.cwd()

    @property
    def name(self) -> str:
        return self.state.name

    def record(self, topology: Topology) -> None:
        """List what the system makes for ``topology``, before it does, or keeps. Raises OSError."""
        name, before = self.name, self.state.netns
        made = tuple(netns for netns in topology.own_netns(name) if netns in before or not (NETNS_DIR / netns).exists())
        hosts = dict.fromkeys(topology.hosts) | {
            netns.host: topology.host_netns(name, netns.host) for netns in topology.namespaces(name)
        }
        paths = tuple(str(self._folder / path) for path in topology.paths())
        state = attrs.evolve(self.state, hosts=hosts, netns=made, paths=paths)
        # One write, which no kill cuts in half, over all of the former text: blanks behind the new one are no text.
        text = json.dumps(attrs.asdict(state)).encode() + b"\n"
        with naming(state_path(name)):
            os.pwrite(self._fd, text.ljust(os.fstat(self._fd).st_size), 0)
        self.state = state


@contextmanager
def claim(name: str, topology: Topology) -> Iterator[Claim]:
    """Reserve the name during the context, with a state file that lists what ``topology`` makes.

    Remains of a killed system of this name are removed first, our own at the end; if that fails, the file stays for
    `vnet down`. Raises NameTaken, ControlError, OSError.
    """
    make_run_dir()
    with _owned(state_path(name), create=True) as fd:
        if fd is None:
            raise NameTaken(f"{name} is running already; try: vnet show --name {name}")
        _remove(State.parse(name, read_text(fd, state_path(name))))
        claimed = Claim(name, fd)
        try:
            _remove_socket(socket_path(name))
            with naming(state_path(name)):
                os.ftruncate(fd, 0)
            claimed.record(topology)
            yield claimed
        finally:
            if not (is_confined() and claimed.state.netns):  # else the keeper of this process removes all
                _remove(claimed.state)
                state_path(name).unlink(missing_ok=True)


@contextmanager
def claim_free(base: str, topology: Topology) -> Iterator[Claim]:
    """Reserve a name that is free during the context: ``base``, else with the first free number behind it.

    Raises as `claim` does.
    """
    for number in count(1):
        suffix = "" if number == 1 else f"-{number}"
        with ExitStack() as stack:
            try:
                claimed = stack.enter_context(claim(base[: NAME_MAX - len(suffix)] + suffix, topology))
            except NameTaken:
                continue
            yield claimed
            return


def clean_up(name: str) -> State | None:
    """Remove the remains of a killed system and return its state; None if there are none.

    Raises ControlError if the system is running, OSError.
    """
    with _owned(state_path(name), create=False) as fd:
        if fd is None:
            if not state_path(name).exists():
                return None
            raise ControlError(f"{name} is running")
        remains = State.parse(name, read_text(fd, state_path(name)))
        _remove(remains)
        _remove_socket(socket_path(name))
        state_path(name).unlink(missing_ok=True)
    return remains


def _remove(remains: State) -> None:
    """Remove the namespaces, sockets and terminals that still exist. Raises OSError."""
    # The namespaces of a rootless system ended with its process; outside, another system may use these names.
    for netns in () if remains.rootless and not rootless.is_entered() else remains.netns:
        remove_netns(netns)
    for path in map(Path, remains.paths):
        try:
            remove_stale_terminal(path)
            remove_stale(path)
        except OSError:
            pass  # it belongs to another process now: an open socket, or a file


def _remove_socket(path: Path) -> None:
    """Remove the socket of a killed process. Raises ControlError if it is no socket, or open in another process."""
    try:
        remove_stale(path)
    except FileExistsError:
        raise ControlError(f"{path}: must be a socket; not removed") from None
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            raise
        raise ControlError(f"{path}: already used by another process") from None


@contextmanager
def _owned(path: Path, *, create: bool) -> Iterator[int | None]:
    """Open and lock the file during the context; None if another process holds it, or it does not exist."""
    fd = None
    for attempt in range(LOCK_TRIES):
        if attempt:
            time.sleep(LOCK_PAUSE)
        fd = lock_file(path, fcntl.LOCK_EX, os.O_CREAT if create else 0)
        if fd is not None or not path.exists():
            break
    try:
        yield fd
    finally:
        if fd is not None:
            close_file(fd, path)
