"""Rpmsg devices: named channels for messages between both hosts."""

from vnet.ends.kind import DeviceKind
from vnet.ends.rpmsg.demo import DEMO
from vnet.ends.rpmsg.end import Channel, RpmsgEnd, mediate_rpmsg, open_rpmsg
from vnet.ends.rpmsg.exercise import EXERCISE
from vnet.ends.rpmsg.load import LOADS
from vnet.ends.rpmsg.serve import SERVE
from vnet.ends.rpmsg.spec import SURFACES, ChannelSpec, RpmsgEndSpec, RpmsgSpec, surface_problem

__all__ = ["RPMSG", "SURFACES", "Channel", "ChannelSpec", "RpmsgEnd", "RpmsgEndSpec", "RpmsgSpec", "open_rpmsg"]
__all__ += ["surface_problem"]

RPMSG = DeviceKind(
    RpmsgSpec, open_rpmsg, mediator=mediate_rpmsg, serve=SERVE, demo=DEMO, exercise=EXERCISE, loads=LOADS
)
