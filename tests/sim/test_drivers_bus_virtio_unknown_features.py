"""Features that exist and are not implemented: drivers do not accept them, and devices do not offer them."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from drivers.bus.vhost import VhostDevice
from drivers.devices.net.layout import TABLE, NetFeature
from drivers.testing import TappedFunction
from drivers.transports.pci.registers import Common
from rings.features import RingFeature, mask
from rings.status import Status
from support.rigs.virtio_pci import written
from vnet.testing import Options, hostile_driver, open_pair, over, tapped, unharmed, until
from vnet.testing.blk import BlkOptions, open_blk_pair
from vnet.testing.pair import Pair
from vnet.testing.scsi import open_scsi_pair

F, R = NetFeature, RingFeature
CONTROLLED = Options(queue_size=16, control=True)
ZONED = 17
HASH_TUNNEL, HASH_REPORT, RSS, RSC_EXT, RSS_CONTEXT = 51, 57, 60, 61, 64
GUEST_TUNNEL, GUEST_TUNNEL_CSUM, HOST_TUNNEL, HOST_TUNNEL_CSUM = 65, 66, 67, 68


async def accepted(pair: Pair, tap: TappedFunction, more: Iterable[int], less: Iterable[int] = ()) -> int:
    """Return what the driver accepts of a device that offers ``more`` features, or fewer."""

    def lie(value: int) -> int:
        select = tap.read_common(Common.DEVICE_FEATURE_SELECT)
        return (value << 32 * select & ~mask(less) | mask(more)) >> 32 * select

    tap.lies[tap.at(Common.DEVICE_FEATURE)] = lie
    pair.rc.pci.register_device(tap)
    await until(lambda: len(written(tap, Common.DRIVER_FEATURE)) >= 4)
    return sum(value << 32 * select for select, value in enumerate(written(tap, Common.DRIVER_FEATURE)[:4]))


@pytest.mark.parametrize(
    ("more", "less"),
    [
        pytest.param({R.SR_IOV}, {}, id="no VFs", marks=pytest.mark.virtio("RFB-DRV-8")),
        pytest.param({RSC_EXT}, {F.HOST_TSO4, F.HOST_TSO6}, id="no TSO", marks=pytest.mark.virtio("NET-DRV-6")),
        pytest.param({HASH_TUNNEL}, {}, id="no hash", marks=pytest.mark.virtio("NET-DRV-7")),
        pytest.param({RSS_CONTEXT}, {F.CTRL_VQ}, id="no RSS", marks=pytest.mark.virtio("NET-DRV-8")),
        pytest.param({HOST_TUNNEL, GUEST_TUNNEL}, {F.HOST_USO}, id="no USO", marks=pytest.mark.virtio("NET-DRV-9")),
        pytest.param({HOST_TUNNEL_CSUM, GUEST_TUNNEL_CSUM}, {}, id="no tunnel", marks=pytest.mark.virtio("NET-DRV-10")),
        pytest.param({HASH_REPORT, RSS}, {F.CTRL_VQ}, id="no control queue", marks=pytest.mark.virtio("NET-DRV-23")),
    ],
)
async def test_a_net_driver_does_not_accept_a_feature_that_it_does_not_know(more: set[int], less: set[int]) -> None:
    async with open_pair(CONTROLLED) as pair, tapped(pair) as tap:
        assert not await accepted(pair, tap, more, less) & mask(more)


@pytest.mark.virtio("BLK-DRV-4")
async def test_a_blk_driver_does_not_accept_zones() -> None:
    async with open_blk_pair() as pair, tapped(pair) as tap:
        assert not await accepted(pair, tap, {ZONED}) >> ZONED & 1


@pytest.mark.virtio("NET-DEV-14", "RFB-DEV-6")
@pytest.mark.parametrize("off", [(), ("CTRL_VQ",)])
async def test_a_net_device_does_not_offer_what_it_does_not_know(off: tuple[str, ...]) -> None:
    async with open_pair(Options(queue_size=16, control=True, features_off=off)) as pair:
        offered = pair.vhost.device_features
        assert not offered & mask({R.SR_IOV, HASH_REPORT, HASH_TUNNEL, RSS_CONTEXT})


@pytest.mark.virtio("BLK-DEV-6", "RFB-DEV-6")
async def test_storage_devices_offer_neither_zones_nor_vfs() -> None:
    async with open_blk_pair(BlkOptions(secure_erase=True)) as pair:
        assert not pair.vhost.device_features & mask({R.SR_IOV, ZONED})
    async with open_scsi_pair() as host:
        assert not host.vhost.device_features >> R.SR_IOV & 1


@pytest.mark.virtio("RFB-DEV-7")
@pytest.mark.parametrize("transport", ["mmio", "epf_mailbox", "ntb", "vhost_user"], indirect=True)
async def test_there_is_no_administration_queue_without_pci(transport: str) -> None:
    """Not even if a device type asks for it."""
    with over(transport):
        async with open_pair(CONTROLLED) as pair:
            device = VhostDevice(pair.vhost.device_id, pair.vhost.vendor_id, pair.vhost.ops)
            device.offer(TABLE, mask({R.VERSION_1, R.ADMIN_VQ}), (), b"")
            assert device.device_features & ~mask({R.RING_PACKED}) == mask({R.VERSION_1})


@pytest.mark.virtio("LEG-DEV-1")
async def test_a_legacy_driver_is_known_by_version_1_and_gets_no_features() -> None:
    async with open_pair(CONTROLLED) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate(driver.device_features & ~mask({R.VERSION_1}))
        assert driver.status == Status.ACKNOWLEDGE | Status.DRIVER
