"""Memory of the checker for one test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vnet.check.memory import Arena

__all__ = ["arena"]


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena(1 << 16)
    yield arena
    arena.close()
