"""Where devices are: each transport puts its device on the carrier that it asks for."""

from __future__ import annotations

import pytest

from vnet.testing import open_pair


@pytest.mark.every_transport
async def test_a_device_is_on_a_carrier_of_its_drivers_host(transport: str) -> None:
    async with open_pair() as pair:
        device, topology = pair.device, pair.world.topology
        driver_host, device_host = topology.ends(device.spec)
        assert device.driver_host.name == driver_host
        assert device.device_host.name == device_host.removesuffix("-dev")
        bus, carrier = pair.carrier
        assert carrier.name == device.location
        assert bus.binding(carrier).error == ""
        assert len(pair.rc.sockets) == (transport == "vhost_user")
