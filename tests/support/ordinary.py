"""`python ordinary.py UID CMD...`, as root: run a program as an ordinary user, in a mount namespace of its own.

An interpreter or a clone below a folder that is closed to others, such as /root, is made visible there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

MINE = Path(__file__).resolve().parents[2]


def closed(path: Path) -> Path | None:
    """Return the first folder on the way to ``path`` that others cannot enter; None if they can enter all."""
    return next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001), None)


def show(paths: Iterable[Path]) -> None:
    """Cover each folder that hides one of ``paths`` by a folder with nothing but these paths."""
    from vnet.linux.syscalls import MS_BIND, MS_REC, mount

    hidden = {path: (folder, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in paths if (folder := closed(path))}
    for folder in {folder for folder, _ in hidden.values()}:
        mount(Path("tmpfs"), folder, "tmpfs")
        folder.chmod(0o755)
    for path, (_, fd) in hidden.items():
        path.mkdir(parents=True, exist_ok=True)
        mount(Path(f"/proc/self/fd/{fd}"), path, flags=MS_BIND | MS_REC)
        os.close(fd)


def main() -> None:
    from vnet.linux.syscalls import CLONE_NEWNS, MS_REC, MS_SLAVE, mount, unshare

    uid = int(sys.argv[1])
    unshare(CLONE_NEWNS)
    mount(None, Path("/"), flags=MS_SLAVE | MS_REC)
    show({Path(each).resolve() for each in (sys.base_prefix, sys.prefix, MINE)})
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
