"""Claims in the header of a frame, read from the ring, because the other side clears those that it must not see."""

from __future__ import annotations

import attrs
import pytest
import trio.testing

from drivers.contracts.ports import PortState
from drivers.devices.net.driver.station import NetRequest
from drivers.devices.net.filter import Reception
from drivers.devices.net.layout import LINK_UP, TABLE, NetFeature
from drivers.transports.pci.registers import CfgType
from rings.features import mask
from support.rigs.net import PLAIN, SMALL, start, virtio_net_hdr
from support.rigs.net_control import OTHER, WITH
from support.rigs.virtio_pci import bind
from vnet.testing import FRAME, TWO_QUEUES, hostile_device, hostile_driver, open_pair, tapped, unharmed, until


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-27", "NET-DRV-46", "NET-DRV-55")
@pytest.mark.parametrize("off", [(), ("CSUM",)], ids=["with CSUM", "without CSUM"])
async def test_the_driver_claims_nothing_of_a_plain_frame(off: tuple[str, ...]) -> None:
    async with (
        open_pair(attrs.evolve(SMALL, features_off=off)) as pair,
        unharmed(pair),
        hostile_device(pair) as device,
    ):
        pair.driver_port.inject(FRAME, virtio_net_hdr(flags=0xFE))
        await trio.testing.wait_all_tasks_blocked()
        ring = device.rings[1]
        desc = ring.read(ring.entry(0))
        assert bytes(device.memory.view(desc.addr, desc.size)) == PLAIN + FRAME  # type: ignore[arg-type]


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-32", "NET-DEV-51", "NET-DEV-55", "NET-DEV-57")
@pytest.mark.parametrize("off", [0, mask({NetFeature.GUEST_CSUM})], ids=["with GUEST_CSUM", "without GUEST_CSUM"])
async def test_the_device_claims_nothing_of_a_plain_frame(off: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, TABLE.prune(TWO_QUEUES & ~off))
        pair.device_port.inject(FRAME, virtio_net_hdr(flags=0xFE))
        await trio.testing.wait_all_tasks_blocked()
        head, size = driver.rings[0].elem(0)
        actual = bytes(driver.memory.view(driver.rings[0].read(head).addr, size))  # type: ignore[arg-type]
        assert actual == virtio_net_hdr(count=1) + FRAME


@pytest.mark.virtio("NET-DRV-11")
async def test_a_running_driver_writes_no_configuration() -> None:
    async with open_pair(WITH) as pair, unharmed(pair), tapped(pair) as tap:
        await bind(pair, tap)
        pair.driver_port.want(PortState())
        await pair.settings.change(NetRequest(mac=OTHER, reception=Reception(allmulti=True)))
        assert pair.plug.announce()
        await until(lambda: pair.vhost.config[6] == LINK_UP)
        assert pair.vhost.config[:6] == OTHER
        accesses = tap.within(CfgType.DEVICE)
        assert accesses
        assert not [access for access in accesses if access.write]
        pair.driver_port.want(PortState(promisc=True))
        await pair.settings.change(NetRequest())
