"""Two hosts, a link and an rpmsg device over it, in memory."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Literal

import attrs
import trio

from drivers.devices.rpmsg import RpmsgBus, RpmsgPlug, RpmsgSettings
from vnet.ends.rpmsg import ChannelSpec, RpmsgEndSpec, RpmsgSpec
from vnet.ends.rpmsg.exercise import bound_pair, send_and_compare
from vnet.spec import LinkSpec
from vnet.system.device import Device
from vnet.testing.checks import until
from vnet.testing.pair import IDEAL, MEGABYTE, Pair, carried, open_up
from vnet.topology import Topology

__all__ = ["RpmsgOptions", "RpmsgPair", "bound_pair", "open_rpmsg_pair"]

DEVICE = "rpmsg0"


@attrs.frozen
class RpmsgOptions:
    """Options of an rpmsg pair."""

    features_off: tuple[str, ...] = ()
    address_service: bool = True
    queue_size: int = 256
    to_driver: int = 512
    """Bytes of a buffer, header included."""
    to_device: int = 512
    transport: str | None = None
    """See `vnet.testing.pair.carried`."""
    link: LinkSpec = IDEAL
    mode: Literal["direct", "mediated"] = "direct"
    local_features_off: tuple[str, ...] = ()
    local_to_driver: int | None = None
    local_to_device: int | None = None
    driver: tuple[ChannelSpec, ...] = ()
    device: tuple[ChannelSpec, ...] = ()

    def topology(self) -> Topology:
        spec = RpmsgSpec(
            type="rpmsg",
            mode=self.mode,
            local_features_off=self.local_features_off,
            local_to_driver=self.local_to_driver,
            local_to_device=self.local_to_device,
            queue_size=self.queue_size,
            features_off=self.features_off,
            address_service=self.address_service,
            to_driver=self.to_driver,
            to_device=self.to_device,
            driver=RpmsgEndSpec(self.driver),
            device=RpmsgEndSpec(self.device),
        )
        return carried({DEVICE: spec}, self.transport, self.link)


class RpmsgPair(Pair):
    """The pair, and the bus at each end."""

    settings: RpmsgSettings
    plug: RpmsgPlug

    @property
    def local(self) -> Device:
        """In mediated mode: the device of the endpoint's own driver."""
        assert self.device.local is not None
        return self.device.local

    @property
    def buses(self) -> tuple[RpmsgBus, RpmsgBus]:
        """The driver's and the device's."""
        return self.settings.bus, self.plug.bus

    async def transfer(self, size: int = MEGABYTE, device: str = DEVICE) -> None:
        """``size`` random bytes in each direction, compared by hash. Raises AssertionError, trio.TooSlowError."""
        ends = await bound_pair(*self.buses, "transfer")
        async with trio.open_nursery() as nursery:
            for source, sink in (ends, ends[::-1]):
                nursery.start_soon(send_and_compare, source, sink, size)
        for end in ends:
            end.close()
        await until(lambda: not any("transfer" in bus.services.values() for bus in self.buses))


def open_rpmsg_pair(options: RpmsgOptions = RpmsgOptions()) -> AbstractAsyncContextManager[RpmsgPair]:
    """A pair that is up, and taken down at the end."""
    return open_up(options.topology(), RpmsgPair)
