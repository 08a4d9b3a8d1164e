"""System tests see no namespace and no running system of others."""

from __future__ import annotations

import pytest

from support.machine import own_run


@pytest.fixture(scope="session", autouse=True)
def own_run_directories() -> None:
    own_run()
