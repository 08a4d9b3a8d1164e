"""The option --listen: an address and a TCP port."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs
import click

__all__ = ["Address", "listen_option"]

ADDRESS = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:]+)):(\d{1,5})")


@attrs.frozen
class Address:
    """An address and a TCP port."""

    host: str
    port: int
    """0: any free port."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _parse(_context: click.Context, _option: click.Parameter, text: str | None) -> Address | None:
    match = ADDRESS.fullmatch(text or "")
    if text is not None and (match is None or int(match[3]) > 65535):
        raise click.BadParameter(f"{text!r}: must be ADDRESS:PORT, such as 127.0.0.1:9100 or [::1]:9100")
    return None if match is None else Address(match[1] or match[2], int(match[3]))


def listen_option(text: str, default: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option --listen with this help; its value is an `Address`, or None without a default."""
    return click.option(
        "--listen",
        metavar="ADDRESS:PORT",
        default=default,
        show_default=default is not None,
        callback=_parse,
        help=text,
    )
