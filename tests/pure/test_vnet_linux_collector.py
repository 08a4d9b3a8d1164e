"""Systems that were opened one after the other do not stay in memory."""

from __future__ import annotations

import weakref

from vnet.linux.collector import COLLECT_EVERY, ignore_existing


class System:
    """A cycle of objects, as a closed system is."""

    def __init__(self) -> None:
        self.itself = self


def test_closed_systems_are_collected() -> None:
    closed: list[weakref.ref[System]] = []
    for _ in range(2 * COLLECT_EVERY):
        with ignore_existing():
            closed.append(weakref.ref(System()))
    assert not any(system() for system in closed[:COLLECT_EVERY])
