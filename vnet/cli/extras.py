"""Packages that only some commands need: they are extras of the distribution."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vnet.errors import PrivilegeError

__all__ = ["extra"]


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Report a package that is missing in the block with the command that installs the extra ``name``.

    Raises PrivilegeError.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        if package in {"vnet", "drivers", "rings"}:
            raise
        raise PrivilegeError(f"not installed: {package}", f"pip install 'vnet-virtio[{name}]'") from None
