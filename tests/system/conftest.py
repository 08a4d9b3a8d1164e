"""System tests see no namespace and no running system of others, nor do workers of `pytest -n 3 --dist loadfile`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from support.guest import guest_kernel, guest_kernel_package
from support.linux_drivers import driver_kernel
from support.machine import own_machine
from support.new_qemu import new_qemu

__all__ = ["driver_kernel", "guest_kernel", "guest_kernel_package", "new_qemu"]
"""Fixtures that all files share: what they make is made once."""


@pytest.fixture(scope="session", autouse=True)
def machine_of_its_own(request: pytest.FixtureRequest) -> None:
    """Workers of pytest-xdist do not see each other either."""
    own_machine(network=_is_worker(request.config))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let workers begin with the files that take longest, so that none waits for another at the end."""
    if _is_worker(config):
        limits: defaultdict[Path, float] = defaultdict(float)
        for item in items:
            for mark in item.iter_markers("timeout"):
                limits[item.path] = max(limits[item.path], mark.args[0])
        items.sort(key=lambda item: -limits[item.path])


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")
