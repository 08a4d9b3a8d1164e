"""The configuration spaces of a system's functions, as their endpoint controllers have them.

No access crosses a link.
"""

from __future__ import annotations

from vnet.system.world import World
from vnet.views.pci import ConfigImage, ConfigImages

__all__ = ["take_config_spaces"]

ROOT_PORT = "root port"
"""Owner of a root port."""


def take_config_spaces(world: World) -> ConfigImages:
    """Return every function of every link whose endpoint is ours, also while the link is down, and the root ports."""
    owners = {(device.driver_host.name, device.location): name for name, device in world.devices.items()}
    for name, ntb in world.topology.ntbs.items():
        for link in (ntb.primary, ntb.secondary):
            owners[world.topology.links[link].ends[0], _function_name(world, link, world.ntbs[name].number)] = name
    functions = [
        ConfigImage(root, function, link, world.links[link].up, owner, bars, image)
        for host in world.hosts.values()
        for link, controller in host.controllers.items()
        for root in world.topology.links[link].ends[:1]
        for number, (image, bars) in controller.images().items()
        for function in [_function_name(world, link, number)]
        for owner in [owners.get((root, function)) or _carried(world, link, number)]
    ]
    functions += [
        ConfigImage(root, errors.root_port, link, world.links[link].up, ROOT_PORT, (), errors.root.config.image())
        for link in world.wires
        for root in world.topology.links[link].ends[:1]
        for errors in [world.registers[link].rc.errors(world.links[link])]
        if errors is not None
    ]
    return ConfigImages(tuple(sorted(functions, key=lambda each: (each.host, each.name))))


def _carried(world: World, link: str, number: int) -> str:
    """Return the device that a function carries, if its driver is in another process; else empty."""
    carried = world.topology.carried(link, number)
    return "" if carried is None or carried[1].driven else carried[0]


def _function_name(world: World, link: str, number: int) -> str:
    return world.registers[link].rc.function_name(world.buses[link], number)
