"""Half of the stack as a process of its own: the device of the default topology, or its driver, over vhost-user.

``python -m vnet.bench.apart SIDE SOCKET NETNS`` plugs that side into a namespace that exists. It writes an empty line
when it is up, and ends when its standard input does.
"""

from __future__ import annotations

import argparse
from contextlib import AsyncExitStack
from pathlib import Path

import attrs
import trio

from drivers.carriers.options import SocketOptions
from vnet.bench.processes import answer_lines
from vnet.demo import default_topology
from vnet.ends.net import PortSpec, net_specs
from vnet.system.exports import DeviceExport, open_exports
from vnet.system.world import open_world
from vnet.topology import Topology, check

__all__ = ["driver_topology", "export", "serve"]


def driver_topology(socket: Path, netns: str) -> Topology:
    """The driver alone."""
    default = default_topology("tun", "vhost_user", "direct")
    devices = {
        name: attrs.evolve(
            spec,
            options=SocketOptions(str(socket)),
            driver=attrs.evolve(spec.driver, netns=netns),
            device=PortSpec(),
        )
        for name, spec in net_specs(default.devices).items()
    }
    return check(attrs.evolve(default, devices=devices), "benchmark")


def export(socket: Path, netns: str) -> dict[str, DeviceExport]:
    """The device alone."""
    specs = net_specs(default_topology("tun", "vhost_user", "direct").devices)
    return {
        name: DeviceExport(attrs.evolve(spec, device=attrs.evolve(spec.device, netns=netns)), socket)
        for name, spec in specs.items()
    }


async def serve(side: str, socket: Path, netns: str) -> None:
    async with AsyncExitStack() as stack:
        if side == "device":
            await stack.enter_async_context(open_exports(export(socket, netns)))
        else:
            world = await stack.enter_async_context(open_world(driver_topology(socket, netns)))
            await world.wait_up()
        await answer_lines()


def main() -> None:
    parser = argparse.ArgumentParser(description="Run half of the default topology until standard input ends.")
    parser.add_argument("side", choices=("driver", "device"))
    parser.add_argument("socket", type=Path)
    parser.add_argument("netns")
    args = parser.parse_args()
    trio.run(serve, args.side, args.socket, args.netns)


if __name__ == "__main__":
    main()
