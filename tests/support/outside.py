"""A device type from outside with every part that a built-in one has: the example's entropy device as type ``noise``.

For ``--load``, and for a package whose entry point names `NOISE`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs

from support.paths import MY_DEVICE
from vnet.ends import Demo, DemoSettings, DeviceKind, RunningDevice, Sections, Setting
from vnet.spec import DeviceSpec
from vnet.topology.extensions import load_extension, temporarily
from vnet.traffic.kernel import Plan, TextResult

with temporarily():  # without the example's own registration
    ENTROPY: DeviceKind[DeviceSpec, Any] = load_extension(MY_DEVICE).ENTROPY


async def _set_limit(plug: Any, value: str, spec: DeviceSpec) -> None:
    if not value.isdigit():
        raise ValueError("must be a number")
    plug.limit = int(value)


@asynccontextmanager
async def _plan(running: RunningDevice[DeviceSpec, Any], settings: DemoSettings) -> AsyncIterator[Sections]:
    entropy = running.ends[0].settings

    async def read() -> TextResult:
        return TextResult(f"{len(await entropy.read(1000))} bytes")

    driver, device = running.hosts
    yield {"noise": [Plan("1000 bytes", device, driver, read)]}


NOISE = attrs.evolve(
    ENTROPY,
    settings={"limit": Setting("device", "BYTES", "most bytes per request", _set_limit)},
    demo=Demo("random bytes read by the Python API", "requests", _plan, lambda settings: "limit = 100"),
)
