"""State files of the systems on this machine: a locked file per system lists what to remove if it is killed.

The kernel drops the lock when the process ends, so a file without a lock belongs to a killed system.
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
"""Directory of the files and sockets of root's systems."""
LOCK_TRIES = 20
"""Attempts to lock a file."""
LOCK_PAUSE = 0.01
"""Seconds between two attempts: readers hold the lock for an instant."""

FILE_MAX = 1 << 20
"""Bytes of the longest file; a longer file is ignored."""
PID_MAX = 1 << 22
"""Highest possible process id (PID_MAX_LIMIT)."""


@attrs.frozen
class State:
    """Contents of a system's file."""

    name: str
    """Name of the system."""
    pid: int
    """Process id; 0 if the file is damaged."""
    hosts: Mapping[str, str | None]
    """Namespace by host; None for a host without one."""
    netns: tuple[str, ...] = ()
    """Names of namespaces that the system makes."""
    paths: tuple[str, ...] = ()
    """Absolute paths of sockets and terminals that the system makes."""

    @classmethod
    def parse(cls, name: str, text: str) -> State:
        """Return the state in ``text``, or an empty state if any of it is invalid: a killed process may leave half.

        Namespaces that a system of this name cannot make are left out.
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
    """Return whether this is an absolute path that the file system accepts."""
    try:
        return isinstance(text, str) and text.startswith("/") and 0 not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def run_dir() -> Path:
    """Return the directory of the files and sockets of this user's systems. Raises PrivilegeError if there is none."""
    if os.geteuid() == 0:
        return ROOT_DIR
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime_dir:
        raise PrivilegeError("XDG_RUNTIME_DIR is not set", "export XDG_RUNTIME_DIR=/run/user/$(id -u)")
    return Path(runtime_dir) / "vnet"


def state_path(name: str) -> Path:
    """Return the path of a system's state file."""
    return run_dir() / f"{name}.json"


def socket_path(name: str) -> Path:
    """Return the path of a system's control socket."""
    return run_dir() / f"{name}.sock"


@contextmanager
def claim(name: str, topology: Topology) -> Iterator[State]:
    """Reserve the name during the context, with a state file that lists what ``topology`` makes.

    Remains of a killed system of this name are removed first, our own at the end; if that fails, the file stays for
    `vnet down`. Raises ControlError if the name is taken, OSError.
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
    """Return the state of a running system; None if it does not run. Raises PrivilegeError, ControlError, OSError."""
    fd = _lock(state_path(name), fcntl.LOCK_SH)  # shared: readers do not exclude each other
    if fd is not None:
        os.close(fd)
        return None
    return read_state(name)


def read_state(name: str) -> State | None:
    """Return the contents of the file, of a running or a killed system. Raises ControlError, OSError."""
    fd = _open(state_path(name))
    if fd is None:
        return None
    try:
        return State.parse(name, _read(fd))
    finally:
        os.close(fd)


def signal_owner(state: State, number: int) -> bool:
    """Send a signal (0: none) to the process in ``state``; return False if it does not hold the lock.

    The file is not trusted: the process must hold its lock. Raises PermissionError.
    """
    try:
        process = os.pidfd_open(state.pid)  # the checked process is the signalled one, even if its id is reused
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
    """Return whether a process has the file open and locked, according to /proc."""
    try:
        expected, proc = path.stat(), Path(f"/proc/{pid}")
        fds = [entry.name for entry in (proc / "fd").iterdir()]
    except OSError:
        return False
    for fd in fds:
        try:
            same = os.path.samestat((proc / "fd" / fd).stat(), expected)
            if same and "FLOCK" in (proc / "fdinfo" / fd).read_text(encoding="ascii"):
                return True
        except OSError:
            continue  # closed meanwhile
    return False


def clean_up(name: str) -> State | None:
    """Remove the remains of a killed system and return its state; None if there are none.

    Raises ControlError if the system is running, OSError.
    """
    with _owned(state_path(name), create=False) as fd:
        if fd is None:
            if not state_path(name).exists():
                return None
            raise ControlError(f"{name} is running")
        remains = State.parse(name, _read(fd))
        _remove(remains)
        _remove_socket(socket_path(name))
        state_path(name).unlink(missing_ok=True)
    return remains


def _remove(remains: State) -> None:
    """Remove the namespaces, sockets and terminals that still exist. Raises OSError."""
    for netns in remains.netns:
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


def _make_run_dir() -> None:
    """Make the directory. Raises ControlError if other users can write to it."""
    path = run_dir()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise ControlError(f"{path}: must be our own directory, without write access for other users")


@contextmanager
def _owned(path: Path, *, create: bool) -> Iterator[int | None]:
    """Open and lock the file during the context; None if another process holds it, or it does not exist."""
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
    """Try once to lock the file; None if another process holds it, or it does not exist or was removed meanwhile."""
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
    """Open the file; None if it does not exist. Raises ControlError if it is no regular file, OSError."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o600)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno not in (errno.EISDIR, errno.ELOOP, errno.ENXIO):  # a directory, a link, a socket
            raise
        raise ControlError(f"{path}: must be a regular file; not opened") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ControlError(f"{path}: must be a regular file; not opened")
    return fd


def _read(fd: int) -> str:
    return os.pread(fd, FILE_MAX, 0).decode(errors="replace")
