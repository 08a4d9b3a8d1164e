"""A Linux guest in QEMU whose own drivers use the devices under test: Debian's kernel, busybox, nothing installed."""

from __future__ import annotations

import pytest
from machine import RequireTool, unavailable

from vnet.bench.guest import SHARED, TOOLS, Guest, GuestKernel
from vnet.errors import PrivilegeError

__all__ = ["SHARED", "Guest", "GuestKernel", "guest_kernel"]


@pytest.fixture(scope="session")
def guest_kernel(tmp_path_factory: pytest.TempPathFactory, require_tool: RequireTool) -> GuestKernel:
    """What every guest boots; nothing of it is installed on this machine."""
    require_tool(*TOOLS)
    try:
        return GuestKernel(tmp_path_factory.mktemp("guest"))
    except PrivilegeError as exc:
        unavailable(str(exc))
