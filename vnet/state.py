"""Which systems run on this machine: a locked file for each, which says what has to be removed if it is killed.

The lock ends with its process, however that ends, so a file that is not locked is what a killed one left.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs

from vnet.errors import ControlError, PrivilegeError
from vnet.ports.netns import NETNS_DIR, remove_netns
from vnet.topology import Topology

__all__ = ["State", "claim", "clean_up", "read_state", "run_dir", "running", "socket_path", "state_path"]

ROOT_DIR = Path("/run/vnet")
LOCK_TRIES = 20
LOCK_PAUSE = 0.01
"""Seconds between two tries: somebody who only looks has the lock for an instant."""

PROBE = 1.0
"""Seconds that a socket has to take or refuse a connection."""


@attrs.frozen
class State:
    """What a system's file says."""

    name: str
    pid: int
    hosts: Mapping[str, str | None]
    """The namespace of each host, None for one that needs none."""
    netns: tuple[str, ...] = ()
    """The namespaces it made, and nobody else's."""

    @classmethod
    def parse(cls, name: str, text: str) -> State:
        """What of ``text`` can be believed: all of it, or nothing but the name. A killed process may have left half."""
        try:
            raw = json.loads(text)
            netns = tuple(str(made) for made in raw["netns"])
            hosts = {str(host): made if made is None else str(made) for host, made in raw["hosts"].items()}
            pid = int(raw["pid"])
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls(name, 0, {})
        # Whatever else may stand there, only what a system of this name makes is ever removed.
        own = re.compile(rf"{re.escape(name)}-[a-z0-9_-]+")
        return cls(name, pid, hosts, tuple(made for made in netns if own.fullmatch(made)))


def run_dir() -> Path:
    """Where files and sockets of this user's systems are. Raises PrivilegeError where there is no place."""
    if os.geteuid() == 0:
        return ROOT_DIR
    place = os.environ.get("XDG_RUNTIME_DIR")
    if not place:
        raise PrivilegeError("XDG_RUNTIME_DIR is not set", "export XDG_RUNTIME_DIR=/run/user/$(id -u)")
    return Path(place) / "vnet"


def state_path(name: str) -> Path:
    return run_dir() / f"{name}.json"


def socket_path(name: str) -> Path:
    return run_dir() / f"{name}.sock"


@contextmanager
def claim(name: str, topology: Topology) -> Iterator[State]:
    """Have the name to ourselves, and the file that says what ``topology`` will make, for as long as it lasts.

    What a killed process of this name left is removed first. Raises ControlError where the name is taken.
    """
    _make_run_dir()
    with _owned(state_path(name), create=True) as fd:
        if fd is None:
            raise ControlError(f"{name} is running already; try: vnet show --name {name}")
        _remove_namespaces(State.parse(name, _read(fd)))  # where this fails, the file stays
        try:
            _remove_socket(socket_path(name))
            made = tuple(netns for netns in topology.own_netns(name) if not (NETNS_DIR / netns).exists())
            hosts = dict.fromkeys(topology.hosts) | {
                netns.host: topology.host_netns(name, netns.host) for netns in topology.namespaces(name)
            }
            state = State(name, os.getpid(), hosts, made)
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(attrs.asdict(state)).encode() + b"\n", 0)
            yield state
        finally:
            state_path(name).unlink(missing_ok=True)


def running(name: str) -> State | None:
    """The state of a system that runs, None where none does. Raises PrivilegeError, OSError."""
    fd = _lock(state_path(name), fcntl.LOCK_SH)  # which those who only look may have together
    if fd is not None:
        os.close(fd)
        return None
    return read_state(name)


def read_state(name: str) -> State | None:
    """What the file says, whether or not its process is alive."""
    try:
        return State.parse(name, state_path(name).read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return None


def clean_up(name: str) -> State | None:
    """Remove what a killed process of this name left; what that was, None where nothing was left.

    Raises ControlError where it is alive.
    """
    with _owned(state_path(name), create=False) as fd:
        if fd is None:
            if not state_path(name).exists():
                return None
            raise ControlError(f"{name} is running")
        left = State.parse(name, _read(fd))
        _remove_namespaces(left)
        _remove_socket(socket_path(name))
        state_path(name).unlink(missing_ok=True)
    return left


def _remove_namespaces(left: State) -> None:
    for netns in left.netns:
        remove_netns(netns)


def _remove_socket(path: Path) -> None:
    """Raises ControlError for what is no socket, and for one that is alive."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise ControlError(f"{path} is no socket; it is left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except (TimeoutError, BlockingIOError):
            pass  # its backlog is full: somebody is there
    raise ControlError(f"somebody answers at {path} already")


def _make_run_dir() -> None:
    """Raises ControlError where somebody else could put files into it."""
    path = run_dir()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ControlError(f"{path} has to be a directory that is ours, and that nobody else may write to")


@contextmanager
def _owned(path: Path, *, create: bool) -> Iterator[int | None]:
    """The file, locked for as long as it lasts; None where another process has it, or there is no such file."""
    fd = None
    for attempt in range(LOCK_TRIES):
        if attempt:
            time.sleep(LOCK_PAUSE)
        fd = _lock(path, fcntl.LOCK_EX, os.O_CREAT if create else 0)
        if fd is not None or not path.exists():
            break
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def _lock(path: Path, kind: int, flags: int = 0) -> int | None:
    """One try; None where another process has it, or the file is not there or was removed meanwhile."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), path.lstat()):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _read(fd: int) -> str:
    return os.pread(fd, 1 << 16, 0).decode(errors="replace")
