"""Start of ``vnet-extcap``."""

from __future__ import annotations

from vnet.cli.start import start

TYPE_CHECKING = False  # not from typing, which is slow to import
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["start_extcap"]


def start_extcap() -> NoReturn:
    """Run ``vnet-extcap`` and exit."""
    start("vnet.cli.extcap", "command")
