"""Memory tables of a front end are believed within limits."""

from __future__ import annotations

import pytest

from drivers.contracts.ipc import Handle
from drivers.transports.vhost_user.memory import MAX_BYTES, PeerMemory
from drivers.transports.vhost_user.payloads import MemRegion, MessageRefused

PAGE = 4096


class Shared:
    view = memoryview(bytearray(PAGE))

    def close(self) -> None:
        pass


class Ipc:
    """Maps any region, as a kernel with free addresses does."""

    mapped = 0

    def fence(self) -> None:
        pass

    def map(self, handle: Handle, size: int, offset: int) -> Shared:
        self.mapped += size
        return Shared()


def test_a_front_end_does_not_get_all_addresses_of_the_process() -> None:
    ipc = Ipc()
    memory = PeerMemory(ipc)  # type: ignore[arg-type]
    half = MAX_BYTES // 2
    for region in (MemRegion(0, half, 0, 0), MemRegion(half, half, half, 0)):
        memory.add(region, Shared())
    with pytest.raises(MessageRefused, match="more than"):
        memory.add(MemRegion(MAX_BYTES, PAGE, MAX_BYTES, 0), Shared())
    with pytest.raises(MessageRefused, match="more than"):
        PeerMemory(ipc).map([MemRegion(0, 1 << 46, 0, 0)], [Shared()])  # type: ignore[arg-type]
    assert ipc.mapped == MAX_BYTES
