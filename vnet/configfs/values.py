"""Values of attributes as text, with the rules of the kernel's kstrto functions: decimal, 0x, and octal from 0 on."""

from __future__ import annotations

import errno
import os
import re

__all__ = ["TreeError", "parse_bool", "parse_unsigned"]

NUMBER = re.compile(r"\+?(?:0[xX](?P<hex>[0-9a-fA-F]+)|0(?P<octal>[0-7]+)|(?P<decimal>0|[1-9][0-9]*))", re.ASCII)
TRUE = re.compile(r"[yYtT1].*|[oO][nN].*", re.DOTALL)
FALSE = re.compile(r"[nNfF0].*|[oO][fF].*", re.DOTALL)


class TreeError(Exception):
    """A refused operation: the error number that the kernel returns for it, its path, and the reason."""

    def __init__(self, number: int, why: str = "", path: str = "") -> None:
        super().__init__(number, why, path)
        self.number = number
        self.why = why
        self.path = path

    def __str__(self) -> str:
        """Return one line that begins with the symbol of the error, such as EBUSY."""
        symbol = errno.errorcode.get(self.number, str(self.number))
        return ": ".join(filter(None, (symbol, self.path, self.why or os.strerror(self.number))))


def parse_unsigned(text: str, bits: int) -> int:
    """Return an unsigned number of at most ``bits`` bits. Raises TreeError (EINVAL)."""
    match = NUMBER.fullmatch(text)
    if match is None:
        raise TreeError(errno.EINVAL, f"must be a number, such as 16 or 0x10, not {text[:40]!r}")
    digits, base = next((d, b) for d, b in zip(match.groups(), (16, 8, 10), strict=True) if d is not None)
    value = int(digits, base) if len(digits) <= bits else 1 << bits
    if value >> bits:
        raise TreeError(errno.EINVAL, f"must be at most {(1 << bits) - 1:#x}")
    return value


def parse_bool(text: str) -> bool:
    """Return a truth value, which only the start of the text decides. Raises TreeError (EINVAL)."""
    if TRUE.fullmatch(text):
        return True
    if FALSE.fullmatch(text):
        return False
    raise TreeError(errno.EINVAL, f"must be 1 or 0, not {text[:40]!r}")
