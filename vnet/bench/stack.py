"""The stack as a process of its own, so that its CPU time and memory are its own.

``python -m vnet.bench.stack KIND TRANSPORT MODE NETNS NETNS`` builds the default topology for that transport, with its
ports in two namespaces that exist. It answers each line on its standard input with one line of JSON, and ends when its
input does.
"""

from __future__ import annotations

import argparse
import json

import attrs
import trio

from vnet.bench.figures import queue_figures
from vnet.bench.processes import answer_lines
from vnet.demo import default_topology
from vnet.ends.net import PortKind, net_specs
from vnet.system.snapshot import queue_rows
from vnet.system.world import open_world
from vnet.topology import Topology
from vnet.transports import TRANSPORTS

__all__ = ["serve"]


def topology(kind: PortKind, transport: str, mode: str, driver_netns: str, device_netns: str) -> Topology:
    """The default one, its ports in these namespaces."""
    default = default_topology(kind, transport, mode)
    devices = {
        name: attrs.evolve(
            device,
            driver=attrs.evolve(device.driver, netns=driver_netns),
            device=attrs.evolve(device.device, netns=device_netns),
        )
        for name, device in net_specs(default.devices).items()
    }
    return attrs.evolve(default, devices=devices)


async def serve(kind: PortKind, transport: str, mode: str, driver_netns: str, device_netns: str) -> None:
    """Print figures once it is up, then for each line received."""
    async with open_world(topology(kind, transport, mode, driver_netns, device_netns)) as world:
        await world.wait_up()
        await answer_lines(
            lambda: json.dumps([attrs.asdict(queue) for queue in queue_figures(queue_rows(world))]).encode()
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the default topology until standard input ends.")
    parser.add_argument("kind", choices=("tun", "tap"))
    parser.add_argument("transport", choices=tuple(TRANSPORTS))
    parser.add_argument("mode", choices=("direct", "mediated"))
    parser.add_argument("netns", nargs=2)
    args = parser.parse_args()
    trio.run(serve, args.kind, args.transport, args.mode, *args.netns)


if __name__ == "__main__":
    main()
