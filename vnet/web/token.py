"""The token of the page, without which no request is answered: any user of this machine reaches 127.0.0.1."""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

from vnet.errors import ControlError

__all__ = ["TOKEN", "file_token", "is_token", "new_token"]

TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}")
"""Tokens that need no quoting in URLs, cookies and headers, and that cannot be guessed."""
SIZE = 16
"""Random bytes of a new token."""


def new_token() -> str:
    """Return a random token."""
    return secrets.token_hex(SIZE)


def is_token(token: str, given: str) -> bool:
    """Return whether ``given`` is ``token``, in a time that tells nothing of how much of it is right."""
    return secrets.compare_digest(token.encode(), given.encode("utf-8", "replace"))


def file_token(path: Path) -> str:
    """Return the token in a file; make the file with a new token if it does not exist.

    Raises ControlError if other users can read or write the file, or if its content is no token; OSError.
    """
    token = new_token()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return _read(path)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(f"{token}\n")
    return token


def _read(path: Path) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, encoding="utf-8", errors="replace") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise ControlError(f"{path}: must be our own file, without access for other users; try: chmod 600 {path}")
        text = file.read(1024).strip()
    if not TOKEN.fullmatch(text):
        raise ControlError(f"{path}: must be a token of 16 to 128 letters, digits, '-' and '_'")
    return text
