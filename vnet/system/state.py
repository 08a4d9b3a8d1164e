"""State files of the systems on this machine: a locked file per system lists what to remove if it is killed.

The kernel drops the lock when the process ends, so a file without a lock belongs to a killed system.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import signal
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs

from vnet.errors import ControlError
from vnet.linux.files import close_file, naming
from vnet.names import FILE_NAME, NAME

__all__ = ["State", "lock_file", "make_run_dir", "open_owner", "read_state", "read_text", "run_dir"]
__all__ += ["run_dirs", "running", "signal_owner", "socket_path", "state_path", "system_names", "uptime"]

ROOT_DIR = Path("/run/vnet")
"""Directory of the files and sockets of root's systems."""
USERS_DIR = Path("/run/user")
"""Directory of the users' runtime directories, each named after a user id."""
SHARED_DIR = Path("/tmp")  # noqa: S108  what is there is checked
"""Directory for users without a runtime directory; not TMPDIR, which another shell may lack."""
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
    started: float = attrs.field(default=0.0, eq=False)
    """Start of the system in seconds since this machine was booted; 0 if the file does not say."""
    rootless: bool = False
    """Whether its process has a user namespace of its own, in which the names of its namespaces are."""

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return uptime() - self.started

    @classmethod
    def parse(cls, name: str, text: str) -> State:
        """Return the state in ``text``, or an empty state if any of it is invalid: a killed process may leave half.

        Namespaces that a system of this name cannot make are left out.
        """
        nothing = cls(name, 0, {})
        try:
            raw = json.loads(text)
            pid, hosts, netns, paths = raw["pid"], raw["hosts"], raw["netns"], raw.get("paths", [])
            started, rootless = float(raw.get("started", 0.0)), raw.get("rootless", False)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return nothing
        if not (type(pid) is int and 0 < pid <= PID_MAX and isinstance(hosts, dict) and math.isfinite(started)):
            return nothing
        if not (isinstance(netns, list) and isinstance(paths, list) and isinstance(rootless, bool)):
            return nothing
        names = [*netns, *filter(None, hosts.values())]
        if not (all(isinstance(text, str) for text in names) and all(map(_is_path, paths))):
            return nothing
        hosts = {host: made if _is_file_name(made) else None for host, made in hosts.items()}
        made = tuple(each for each in netns if _is_own(name, each))
        return cls(name, pid, hosts, made, tuple(paths), started, rootless)


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
    """Return the directory of the files and sockets of this user's systems.

    Without XDG_RUNTIME_DIR it is in /run/user/UID, or in /tmp if that does not exist. Raises ControlError if the one in
    /tmp, where each user may make it, is not this user's.
    """
    uid = os.geteuid()
    if uid == 0:
        return ROOT_DIR
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR")
    if runtime_dir:
        return Path(runtime_dir) / "vnet"
    if _is_users_own(USERS_DIR / str(uid)):
        return USERS_DIR / str(uid) / "vnet"
    path = SHARED_DIR / f"vnet-{uid}"
    if os.path.lexists(path):
        _require_own(path)
    return path


def _require_own(path: Path) -> None:
    """Raise ControlError if this is no directory of this user, or if other users can write to it."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise ControlError(f"{path}: must be our own directory, without write access for other users")


def run_dirs() -> list[Path]:
    """Return the directories of all systems that this user may see, its own first. Raises ControlError.

    Root sees those of every user, unless a directory is a link or belongs to another user.
    """
    others = sorted(filter(_is_users_own, USERS_DIR.glob("*/vnet"))) if os.geteuid() == 0 else []
    return [run_dir(), *others]


def _is_users_own(path: Path) -> bool:
    """Return whether this is a directory of the user after whom it, or its parent, is named."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and str(status.st_uid) in (path.name, path.parent.name)


def state_path(name: str, directory: Path | None = None) -> Path:
    """Return the path of a system's state file. Default directory: this user's."""
    return (directory or run_dir()) / f"{name}.json"


def system_names(directory: Path | None = None) -> list[str]:
    """Return the names of the systems in a directory (default: this user's), running or killed.

    Raises ControlError.
    """
    return sorted(path.stem for path in (directory or run_dir()).glob("*.json") if NAME.fullmatch(path.stem))


def uptime() -> float:
    """Return the seconds since this machine was booted. Setting its clock changes nothing."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def socket_path(name: str, directory: Path | None = None) -> Path:
    """Return the path of a system's control socket. Default directory: this user's."""
    return (directory or run_dir()) / f"{name}.sock"


def running(name: str, directory: Path | None = None) -> State | None:
    """Return the state of a running system; None if it does not run. Raises ControlError, OSError."""
    fd = lock_file(state_path(name, directory), fcntl.LOCK_SH)  # shared: readers do not exclude each other
    if fd is not None:
        close_file(fd, state_path(name, directory))
        return None
    return read_state(name, directory)


def read_state(name: str, directory: Path | None = None) -> State | None:
    """Return the contents of the file, of a running or a killed system. Raises ControlError, OSError."""
    fd = _open(state_path(name, directory))
    if fd is None:
        return None
    try:
        return State.parse(name, read_text(fd, state_path(name, directory)))
    finally:
        close_file(fd, state_path(name, directory))


@contextmanager
def open_owner(state: State) -> Iterator[int | None]:
    """Open the process of a system as a pidfd; None if the process in ``state`` does not hold the lock of the file.

    The file is not trusted: the process must hold its lock.
    """
    try:
        process = os.pidfd_open(state.pid)  # the checked process is the opened one, even if its id is reused
    except OSError:
        yield None
        return
    try:
        yield process if _holds_lock(state.pid, state_path(state.name)) else None
    finally:
        os.close(process)


def signal_owner(state: State, number: int) -> bool:
    """Send a signal (0: none) to the process in ``state``; return False if it does not hold the lock.

    Raises PermissionError.
    """
    with open_owner(state) as process:
        if process is None:
            return False
        try:
            signal.pidfd_send_signal(process, number)
        except ProcessLookupError:
            return False
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


def make_run_dir() -> None:
    """Make the directory. Raises ControlError if other users can write to it."""
    path = run_dir()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_own(path)


def lock_file(path: Path, kind: int, flags: int = 0) -> int | None:
    """Try once to lock the file; None if another process holds it, or it does not exist or was removed meanwhile."""
    fd = _open(path, flags)
    if fd is None:
        return None
    try:
        with naming(path):
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), path.lstat()):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        close_file(fd, path)
        raise
    close_file(fd, path)
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
        close_file(fd, path)
        raise ControlError(f"{path}: must be a regular file; not opened")
    return fd


def read_text(fd: int, path: Path) -> str:
    """Return the text of an open file. Raises OSError with its path."""
    with naming(path):
        return os.pread(fd, FILE_MAX, 0).decode(errors="replace")
