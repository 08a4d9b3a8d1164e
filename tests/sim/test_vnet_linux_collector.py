"""A running system keeps the garbage collector from imported objects: a collection stops the event loop for 30 ms."""

from __future__ import annotations

import gc

from vnet.testing.blk import open_blk_pair


async def test_imported_objects_are_not_collected_while_a_system_runs() -> None:
    async with open_blk_pair():
        assert gc.get_freeze_count() > 10_000
    assert gc.get_freeze_count() == 0
