"""The world around virtqueues: hosts, memory, PCI Express, links, ports, and the command line.

The names below are the package's public interface; each is imported when it is used, so that a command which needs none
of them starts fast.

```python
async with open_world(load(Path("topology.toml")), "lab") as world:
    await world.wait_up()
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rings.lazy import lazy_names
from vnet.version import __version__

if TYPE_CHECKING:
    from vnet.system.exports import DeviceExport, open_exports
    from vnet.system.world import World, open_world
    from vnet.topology import DEFAULT, Topology, load, parse
    from vnet.topology.extensions import add_device_type, add_transport
    from vnet.traffic.kernel import ping

__all__ = [
    "DEFAULT",
    "DeviceExport",
    "Topology",
    "World",
    "__version__",
    "add_device_type",
    "add_transport",
    "load",
    "open_exports",
    "open_world",
    "parse",
    "ping",
]

_NAMES: Mapping[str, Sequence[str]] = {
    "vnet.system.exports": ("DeviceExport", "open_exports"),
    "vnet.system.world": ("World", "open_world"),
    "vnet.topology": ("DEFAULT", "Topology", "load", "parse"),
    "vnet.topology.extensions": ("add_device_type", "add_transport"),
    "vnet.traffic.kernel": ("ping",),
}

__getattr__ = lazy_names(__name__, _NAMES)
