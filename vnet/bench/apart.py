"""Half of the stack as a process of its own: the device of the default topology, or its driver.

``python -m vnet.bench.apart SIDE SOCKET NETNS`` plugs that side into a namespace that exists, over vhost-user, with
``--link`` over a link by vfio-user, or with ``--function`` as a PCI function for a vfio-user client. It writes an empty
line when it is up, and ends when its standard input does.
"""

from __future__ import annotations

import argparse
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import attrs
import trio

from drivers.carriers.options import SocketOptions
from vnet.bench.processes import answer_lines
from vnet.demo import default_topology
from vnet.ends.base import SideName
from vnet.ends.net import PortSpec, net_specs
from vnet.spec import DeviceSpec
from vnet.system.exports import DeviceExport, open_exports
from vnet.system.world import open_world
from vnet.topology import Topology, check, part_of

__all__ = ["driver_topology", "export", "half_topology", "serve"]


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


def export(socket: Path, netns: str, *, function: bool = False) -> dict[str, DeviceExport]:
    """The device alone; with ``function``, as a PCI function."""
    specs = net_specs(default_topology("tun", "pci" if function else "vhost_user", "direct").devices)
    return {
        name: DeviceExport(
            attrs.evolve(spec, device=attrs.evolve(spec.device, netns=netns)), socket, vfio_user=function
        )
        for name, spec in specs.items()
    }


def half_topology(side: SideName, socket: Path, netns: str) -> Topology:
    """The half of a side, whose link leads to the other half's process."""
    default = default_topology("tun", "pci", "direct")
    links = {name: attrs.evolve(link, vfio_user=str(socket)) for name, link in default.links.items()}
    devices: dict[str, DeviceSpec] = {
        name: attrs.evolve(
            spec,
            driver=attrs.evolve(spec.driver, netns=netns),
            device=attrs.evolve(spec.device, netns=netns),
        )
        for name, spec in net_specs(default.devices).items()
    }
    [link] = links.values()
    whole = attrs.evolve(default, links=links, devices=devices)
    return part_of(whole, link.ends[side == "device"], "benchmark")


async def serve(side: SideName, socket: Path, netns: str, *, link: bool, function: bool) -> None:
    async with AsyncExitStack() as stack:
        if link:
            world = await stack.enter_async_context(open_world(half_topology(side, socket, netns)))
            await world.wait_up()
        elif side == "device":
            await stack.enter_async_context(open_exports(export(socket, netns, function=function)))
        else:
            world = await stack.enter_async_context(open_world(driver_topology(socket, netns)))
            await world.wait_up()
        await answer_lines()


def main() -> None:
    parser = argparse.ArgumentParser(description="Run half of the default topology until standard input ends.")
    parser.add_argument("side", choices=("driver", "device"))
    parser.add_argument("socket", type=Path)
    parser.add_argument("netns")
    parser.add_argument("--link", action="store_true")
    parser.add_argument("--function", action="store_true")
    args = parser.parse_args()
    trio.run(partial(serve, args.side, args.socket, args.netns, link=args.link, function=args.function))


if __name__ == "__main__":
    main()
