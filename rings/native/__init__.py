"""The plain path in C (`_rings.c`), if it was built and is not switched off by the environment variable VNET_PURE."""

from __future__ import annotations

__all__ = ["NATIVE", "WHY_NOT"]

WHY_NOT = ""
"""Reason why the plain path is Python's; empty if it is native."""
try:
    from rings.native import _rings  # noqa: F401  `rings.split.native` and `rings.packed.native` call it
except ImportError as error:
    WHY_NOT = str(error) if "VNET_PURE" in str(error) else "not built"
NATIVE = not WHY_NOT
"""Whether rings take the plain path in C."""
