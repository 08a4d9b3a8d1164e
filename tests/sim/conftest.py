"""Everything here runs on a clock that jumps to the next deadline as soon as nothing else is left to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from trio.abc import Clock, Instrument
from trio.testing import MockClock

HERE = Path(__file__).parent
T = TypeVar("T")


def simulate(
    function: Callable[[], Awaitable[T]], clock: Clock | None = None, instruments: tuple[Instrument, ...] = ()
) -> T:
    """`trio.run` for a test: on a clock of its own unless it asked for one."""
    return trio.run(function, clock=clock or MockClock(autojump_threshold=0), instruments=instruments)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and item.get_closest_marker("trio"):
            item.add_marker(pytest.mark.trio(run=simulate), append=False)
