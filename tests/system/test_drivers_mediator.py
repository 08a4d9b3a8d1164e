"""Mediated devices carry real traffic between sides with different features, and leave nothing behind."""

from __future__ import annotations

import itertools
import os

import pytest
import trio

from support.machine import RequireTool
from support.topologies import TWO_HOSTS
from vnet.ends.mediated import MediatorEnd
from vnet.system.parts import LOCAL
from vnet.system.world import World, open_world
from vnet.topology import parse
from vnet.traffic.kernel import iperf3, iperf3_server, ping

CSUM = '["CSUM", "GUEST_CSUM"]'
TSO = '["HOST_TSO4", "HOST_TSO6", "HOST_USO", "GUEST_TSO4", "GUEST_TSO6", "GUEST_USO4", "GUEST_USO6"]'
DIFFERENCES = {
    "mergeable buffers on one side": 'features_off = ["MRG_RXBUF"]\nrx_buffer = 4096',
    "checksums on one side": f"local_features_off = {CSUM}",
    "segments on one side": f"features_off = {TSO}",
    "indirect descriptors on one side": 'features_off = ["INDIRECT_DESC", "EVENT_IDX"]',
}
_serial = itertools.count(1)


def topology(difference: str) -> str:
    return (
        TWO_HOSTS
        + f"""\
[devices.net0]
link = "pcie0"
mode = "mediated"
{difference}
driver = {{ kind = "tun", addresses = ["198.18.0.1/24", "2001:2::1/64"] }}
device = {{ kind = "tun", addresses = ["198.18.0.2/24", "2001:2::2/64"] }}
"""
    )


def check(world: World) -> None:
    """Each byte was copied once, nothing was dropped on the way, and no device was reset."""
    for name in ("net0", f"net0{LOCAL}"):
        device = world.devices[name]
        assert isinstance(device.device_end, MediatorEnd)
        figures = device.device_end.settings.statistics[name]
        assert figures.copied_bytes == figures.payload_bytes > 0
        assert not figures.drops
        assert not device.vhost.failures


SEGMENT = 1 << 16
"""Bytes of the largest segment; a stream whose large segments get lost moves less."""


@pytest.mark.usefixtures("privileged", "no_leaks")
@pytest.mark.parametrize("difference", DIFFERENCES.values(), ids=DIFFERENCES)
def test_real_traffic_crosses_where_one_side_lacks_what_the_other_has(
    difference: str, require_tool: RequireTool
) -> None:
    require_tool("ping", "iperf3", "ip")
    name = f"tm{os.getpid()}-{next(_serial)}"

    async def run() -> None:
        async with open_world(parse(topology(difference), "test.toml"), name) as world:
            await world.wait_up()
            for netns, target, size in (
                (f"{name}-rc", "198.18.0.2", 56),
                (f"{name}-rc", "2001:2::2", 4000),
                (f"{name}-ep", "198.18.0.1", 4000),
                (f"{name}-ep", "2001:2::1", 56),
            ):
                assert (await ping(netns, target, count=3, size=size)).lost == 0
            async with iperf3_server(f"{name}-ep"):
                for reverse in (False, True):
                    flow = await iperf3(f"{name}-rc", "198.18.0.2", seconds=1, reverse=reverse)
                    assert flow.complete
                    assert flow.bytes > SEGMENT
                flow = await iperf3(f"{name}-rc", "2001:2::2", seconds=1, udp=True, bitrate="10M")
                assert flow.packets > 0
            check(world)

    trio.run(run)
