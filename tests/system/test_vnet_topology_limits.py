"""Values at the limits of a topology, or unusual ones, on real interfaces: both families get through, both ways."""

from __future__ import annotations

import os

import pytest

from support.machine import RequireTool
from vnet.system.world import open_world
from vnet.topology import parse
from vnet.topology.samples import built_in_text
from vnet.traffic.kernel import ping

pytestmark = pytest.mark.usefixtures("privileged")

PORTS = (
    'driver = { addresses = ["198.18.0.1/24", "2001:2::1/64"] }\n'
    'device = { addresses = ["198.18.0.2/24", "2001:2::2/64"] }\n'
)


@pytest.mark.parametrize(
    ("host", "keys"),
    [
        ("memory = 61440", "queue_size = 2\nrx_buffer = 763"),
        ("memory = 34", "mtu = 65521"),
        ("", "queue_pairs = 64\nqueue_size = 16\nmtu = 1280"),
        ("", "features_off = ['MAC']"),
        ("", "mac = '02:00:00:00:00:02'"),
    ],
)
async def test_traffic_passes(require_tool: RequireTool, host: str, keys: str) -> None:
    require_tool("ping")
    text = built_in_text("net", keys=PORTS + keys).replace("[hosts.rc]", f"[hosts.rc]\n{host}")
    async with open_world(parse(text), f"t{os.getpid()}-limits") as world:
        await world.wait_up()
        for netns, number in ((world.netns("rc"), 2), (world.netns("ep"), 1)):
            for target in (f"198.18.0.{number}", f"2001:2::{number}"):
                assert (await ping(netns, target, count=2)).lost == 0
