"""The random numbers of a run: a stream for each purpose, so that another draw of one changes no other."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

__all__ = ["stream", "streams"]


def stream(seed: int, purpose: str) -> Random:
    """Return the random numbers of a seed for one purpose. They are the same with every version of Python."""
    return Random(f"{seed} {purpose}")  # hashed with SHA-512, unlike other objects


def streams(seed: int, prefix: str) -> Callable[[str], Random]:
    """Return a function that returns the stream of a purpose whose name begins with ``prefix``."""
    return lambda purpose: stream(seed, f"{prefix} {purpose}")
