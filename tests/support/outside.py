"""A device type and a transport from outside: the example's entropy device with every part of a built-in one.

They are registered by a file for ``--load``, or by a package whose entry points name `NOISE` and `CUSTOM`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs

from support.paths import EXAMPLES, MY_DEVICE
from vnet.ends import Demo, DemoSettings, DeviceKind, RunningDevice, Sections, Setting
from vnet.spec import DeviceSpec
from vnet.topology.extensions import load_extension, temporarily
from vnet.traffic.kernel import Plan, TextResult
from vnet.transports import TRANSPORTS

with temporarily():  # without the registration of the examples
    ENTROPY: DeviceKind[DeviceSpec, Any] = load_extension(MY_DEVICE).ENTROPY
    load_extension(EXAMPLES / "my_transport.py")
    CUSTOM = TRANSPORTS["mine"]


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
