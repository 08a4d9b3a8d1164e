"""Tests that need the native plain path."""

from __future__ import annotations

import os

import pytest

from rings.native import NATIVE, WHY_NOT

__all__ = ["NEEDS_NATIVE"]

# In CI it has to be there, unless it was switched off on purpose.
NEEDS_NATIVE = pytest.mark.skipif(
    not NATIVE and ("CI" not in os.environ or "VNET_PURE" in os.environ), reason=f"the native plain path is {WHY_NOT}"
)
