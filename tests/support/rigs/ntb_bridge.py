"""An NTB function and the drivers at its two ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drivers.carriers.ntb_registers import (
    MW_ALIGN,
)
from rings.memory import Addr, Memory
from support.rigs.ntb import Bridge

AT = Addr(0x1234_5000)
"""A free address: users choose the addresses of windows."""
SIZE = 8 * MW_ALIGN


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    bridge = Bridge()
    yield bridge
    bridge.close()


def share(bridge: Bridge, end: int, window: int = 0, size: int = SIZE) -> Addr:
    """Make memory of one end reachable for the other one; return its address."""
    buffer = bridge.memories[end].alloc(size, MW_ALIGN)
    bridge.ends[end].mw_set_trans(window, buffer.addr, size)
    return buffer.addr


def reach(bridge: Bridge, size: int = SIZE) -> tuple[Memory, Addr]:
    """Return the secondary's memory as the primary reaches it, and its address at the secondary."""
    bridge.joined()
    addr = share(bridge, 1, size=size)
    return bridge.ends[0].peer_mw(0, AT, size), addr
