"""Network devices: a packet port at each end."""

from vnet.ends.kind import DeviceKind
from vnet.ends.net.demo import DEMO
from vnet.ends.net.end import (
    NetEnd,
    mediate_net,
    memory_port,
    open_net,
    open_net_device,
    open_net_driver,
    own_net_config,
)
from vnet.ends.net.exercise import EXERCISE
from vnet.ends.net.load import LOADS
from vnet.ends.net.serve import SERVE
from vnet.ends.net.settings import SETTINGS
from vnet.ends.net.spec import NetSpec, PortKind, PortSpec, net_specs

__all__ = ["NET", "NetEnd", "NetSpec", "PortKind", "PortSpec", "memory_port", "net_specs"]

NET = DeviceKind(
    NetSpec,
    open_net,
    open_driver=open_net_driver,
    open_device=open_net_device,
    mediator=mediate_net,
    own_config=own_net_config,
    settings=SETTINGS,
    serve=SERVE,
    demo=DEMO,
    exercise=EXERCISE,
    loads=LOADS,
)
