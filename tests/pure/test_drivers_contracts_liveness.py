"""Liveness: changes are announced once each, in either direction."""

from __future__ import annotations

from drivers.contracts.liveness import Liveness


def test_each_change_is_announced_once_to_every_watcher() -> None:
    liveness, seen = Liveness(), list[tuple[str, bool]]()
    for name in "ab":
        liveness.watch(lambda name=name: seen.append((name, liveness.live)))  # type: ignore[misc]
    for state in (False, True, True, False, False):
        liveness.set(state)
    assert seen == [("a", True), ("b", True), ("a", False), ("b", False)]
