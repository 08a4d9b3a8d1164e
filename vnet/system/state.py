"""Which systems run on this machine: a locked file for each, which says what has to be removed if it is killed.

The lock ends with its process, however that ends, so a file that is not locked is what a killed one left.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs

from vnet.errors import ControlError, PrivilegeError
from vnet.linux.netns import NETNS_DIR, remove_netns
from vnet.linux.unix_socket import remove_stale
from vnet.ports.rpmsg.pty import remove_stale_terminal
from vnet.spec import FILE_NAME
from vnet.topology import Topology

__all__ = ["State", "claim", "clean_up", "read_state", "run_dir", "running"]
__all__ += ["signal_owner", "socket_path", "state_path"]

ROOT_DIR = Path("/run/vnet")
LOCK_TRIES = 20
LOCK_PAUSE = 0.01
"""Seconds between two tries: somebody who only looks has the lock for an instant."""

FILE_MAX = 1 << 20
"""Bytes of the longest file; what is cut off is not believed."""
PID_MAX = 1 << 22
"""The highest process id there can be (PID_MAX_LIMIT)."""


@attrs.frozen
class State:
    """The contents of a system's file."""

    name: str
    pid: int
    """0 if the file does not say."""
    hosts: Mapping[str, str | None]
    """The namespace of each host, None for one that needs none."""
    netns: tuple[str, ...] = ()
    """The namespaces that the system makes."""
    paths: tuple[str, ...] = ()
    """Absolute paths of the sockets and terminals that it makes."""

    @classmethod
    def parse(cls, name: str, text: str) -> State:
        """Read ``text``: a killed process may have left half of it, so that it is believed as a whole or not at all.

        Of the namespaces only those are kept whose names a system of this name can make.
        """
        nothing = cls(name, 0, {})
        try:
            raw = json.loads(text)
            pid, hosts, netns, paths = raw["pid"], raw["hosts"], raw["netns"], raw.get("paths", [])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return nothing
        if not (type(pid) is int and 0 < pid <= PID_MAX and isinstance(hosts, dict)):
            return nothing
        if not (isinstance(netns, list) and isinstance(paths, list)):
            return nothing
        names = [*netns, *filter(None, hosts.values())]
        if not (all(isinstance(text, str) for text in names) and all(map(_is_path, paths))):
            return nothing
        hosts = {host: made if _is_file_name(made) else None for host, made in hosts.items()}
        return cls(name, pid, hosts, tuple(made for made in netns if _is_own(name, made)), tuple(paths))


def _is_file_name(text: str | None) -> bool:
    return text is not None and FILE_NAME.fullmatch(text) is not None


def _is_own(name: str, netns: str) -> bool:
    return re.fullmatch(rf"{re.escape(name)}-[a-z0-9_-]+", netns) is not None


def _is_path(text: object) -> bool:
    """Whether this is an absolute path of a socket or a terminal, as the file system takes it."""
    try:
        return isinstance(text, str) and text.startswith("/") and 0 not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


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
    """Have the name to ourselves, and the file that says what ``topology`` makes, for as long as the context lasts.

    What a killed process of this name left is removed first, and at the end whatever of ours is still there; if that
    fails, the file stays for `vnet down`. Raises ControlError if the name is taken, OSError.
    """
    _make_run_dir()
    with _owned(state_path(name), create=True) as fd:
        if fd is None:
            raise ControlError(f"{name} is running already; try: vnet show --name {name}")
        _remove(State.parse(name, _read(fd)))
        state = State(name, os.getpid(), {})
        try:
            _remove_socket(socket_path(name))
            made = tuple(netns for netns in topology.own_netns(name) if not (NETNS_DIR / netns).exists())
            hosts = dict.fromkeys(topology.hosts) | {
                netns.host: topology.host_netns(name, netns.host) for netns in topology.namespaces(name)
            }
            paths = tuple(str(path.absolute()) for device in topology.devices.values() for path in device.paths())
            state = State(name, os.getpid(), hosts, made, paths)
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(attrs.asdict(state)).encode() + b"\n", 0)
            yield state
        finally:
            _remove(state)
            state_path(name).unlink(missing_ok=True)


def running(name: str) -> State | None:
    """The state of a system that runs, None if none does. Raises PrivilegeError, ControlError, OSError."""
    fd = _lock(state_path(name), fcntl.LOCK_SH)  # which those who only look may have together
    if fd is not None:
        os.close(fd)
        return None
    return read_state(name)


def read_state(name: str) -> State | None:
    """The contents of the file, whether or not its process is alive. Raises ControlError, OSError."""
    fd = _open(state_path(name))
    if fd is None:
        return None
    try:
        return State.parse(name, _read(fd))
    finally:
        os.close(fd)


def signal_owner(state: State, number: int) -> bool:
    """Send a signal (0: none) to the process that ``state`` names; False if that has not locked the file.

    No number in a file is trusted: the process must be the one that holds the lock. Raises PermissionError.
    """
    try:
        process = os.pidfd_open(state.pid)  # what is checked stays the process that is signalled
    except OSError:
        return False
    try:
        if not _holds_lock(state.pid, state_path(state.name)):
            return False
        signal.pidfd_send_signal(process, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(process)
    return True


def _holds_lock(pid: int, path: Path) -> bool:
    """Whether a process has the file open and locked, as far as /proc shows."""
    try:
        wanted, proc = path.stat(), Path(f"/proc/{pid}")
        fds = [entry.name for entry in (proc / "fd").iterdir()]
    except OSError:
        return False
    for fd in fds:
        try:
            same = os.path.samestat((proc / "fd" / fd).stat(), wanted)
            if same and "FLOCK" in (proc / "fdinfo" / fd).read_text(encoding="ascii"):
                return True
        except OSError:
            continue  # closed meanwhile
    return False


def clean_up(name: str) -> State | None:
    """Remove what a killed process of this name left; what that was, None if nothing was left.

    Raises ControlError if it is alive, OSError.
    """
    with _owned(state_path(name), create=False) as fd:
        if fd is None:
            if not state_path(name).exists():
                return None
            raise ControlError(f"{name} is running")
        left = State.parse(name, _read(fd))
        _remove(left)
        _remove_socket(socket_path(name))
        state_path(name).unlink(missing_ok=True)
    return left


def _remove(left: State) -> None:
    """Remove namespaces, sockets and terminals, if they are still there. Raises OSError."""
    for netns in left.netns:
        remove_netns(netns)
    for path in map(Path, left.paths):
        try:
            remove_stale_terminal(path)
            remove_stale(path)
        except OSError:
            pass  # another program's by now: a socket that is alive, a file


def _remove_socket(path: Path) -> None:
    """Raises ControlError for anything but a socket, and for one that is alive."""
    try:
        remove_stale(path)
    except FileExistsError:
        raise ControlError(f"{path} is no socket; it is left alone") from None
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            raise
        raise ControlError(f"another program listens at {path} already") from None


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
    fd = _open(path, flags)
    if fd is None:
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


def _open(path: Path, flags: int = 0) -> int | None:
    """The file, None if it is not there. Raises ControlError for anything but a file, OSError."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o600)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno not in (errno.EISDIR, errno.ELOOP, errno.ENXIO):  # a directory, a link, a socket
            raise
        raise ControlError(f"{path} is no file of a system; it is left alone") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ControlError(f"{path} is no file of a system; it is left alone")
    return fd


def _read(fd: int) -> str:
    return os.pread(fd, FILE_MAX, 0).decode(errors="replace")
