"""The post-conditions of tests notice a device that floods the log."""

from __future__ import annotations

import logging

import pytest
import trio

from vnet.system.limited import LINES, PER
from vnet.testing import Options, open_pair, unharmed


@pytest.mark.parametrize("pause", [0.0, PER / LINES])
async def test_a_flood_of_lines_is_harm_and_the_same_lines_over_time_are_not(pause: float) -> None:
    async def attack() -> None:
        async with unharmed(pair):
            for _ in range(3 * LINES):
                logging.getLogger("vnet.net0").warning("a line")
                await trio.sleep(pause)

    async with open_pair(Options(queue_size=16)) as pair:
        if pause:
            await attack()
        else:
            with pytest.raises(AssertionError, match="more than 10 lines in 5 s"):
                await attack()
