"""Rpmsg devices: named channels for messages between both hosts."""

from vnet.ends.rpmsg.end import Channel, RpmsgEnd, mediate_rpmsg, open_rpmsg
from vnet.ends.rpmsg.spec import SURFACES, ChannelSpec, RpmsgEndSpec, RpmsgSpec

__all__ = ["SURFACES", "Channel", "ChannelSpec", "RpmsgEnd", "RpmsgEndSpec", "RpmsgSpec", "mediate_rpmsg", "open_rpmsg"]
