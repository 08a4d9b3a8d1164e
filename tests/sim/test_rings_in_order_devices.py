"""Devices whose buffers are used in order, over every transport (VIRTIO_F_IN_ORDER)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import attrs
import pytest

from rings.features import RingFeature
from rings.in_order import InOrderVringh
from rings.observers.observed import ObservedVringh
from support.rigs.mediated import Mediated
from vnet.spec import LinkSpec
from vnet.testing import Options, open_pair, over
from vnet.testing.blk import BlkOptions, open_blk_pair
from vnet.testing.rpmsg import open_rpmsg_pair
from vnet.testing.scsi import open_scsi_pair

IN_ORDER = 1 << RingFeature.IN_ORDER
RINGS = pytest.mark.parametrize("ring", ["split", "packed"])
Ring = Literal["split", "packed"]


@RINGS
@pytest.mark.every_transport
async def test_data_cross_queues_that_are_used_in_order_also_after_resets(transport: str, ring: Ring) -> None:
    await carries(open_pair, transport, ring)


@RINGS
@pytest.mark.parametrize("open_some", [open_blk_pair, open_scsi_pair, open_rpmsg_pair])
async def test_each_device_type_can_use_buffers_in_order(open_some: Callable[..., Any], ring: Ring) -> None:
    await carries(open_some, "vhost_user", ring)


async def carries(open_some: Callable[..., Any], transport: str, ring: Ring) -> None:
    with over(transport, ring, ("IN_ORDER",)):
        async with open_some() as pair:
            assert pair.virtio.features & IN_ORDER
            assert all(isinstance(queue.ring, InOrderVringh) for queue in pair.vhost.queues)
            await pair.transfer(1 << 17)
            await pair.reset()
            await pair.transfer(1 << 15)


@pytest.mark.parametrize("off", ["EVENT_IDX", "INDIRECT_DESC", "MRG_RXBUF"])
@RINGS
async def test_frames_cross_in_order_without_other_features(ring: Ring, off: str) -> None:
    with over("pci", ring, ("IN_ORDER",)):
        async with open_pair(Options(features_off=(off,))) as pair:
            await pair.transfer(1 << 17)


async def test_without_the_request_a_device_uses_buffers_in_any_order() -> None:
    async with open_pair() as pair:
        assert not pair.vhost.device_features & IN_ORDER
        assert all(not isinstance(queue.ring, InOrderVringh) for queue in pair.vhost.queues)


@RINGS
async def test_a_mediator_uses_the_buffers_of_both_drivers_in_order(ring: Ring) -> None:
    with over("pci", ring, ("IN_ORDER",)):
        async with open_pair(attrs.evolve(Mediated(), rings=(ring, ring))) as pair:
            local = pair.device.local
            assert local is not None
            assert local.vhost.features & pair.virtio.features & IN_ORDER
            await pair.transfer(1 << 17)


@RINGS
async def test_requests_that_end_in_any_order_come_back_in_theirs(ring: Ring) -> None:
    with over("pci", ring, ("IN_ORDER",)):
        async with open_blk_pair(BlkOptions(workers=4)) as pair:
            pair.store.at_once = False
            await pair.transfer(1 << 18)


async def test_a_link_that_takes_time_bills_a_batch_as_one_used_element() -> None:
    link = LinkSpec(root="rc", endpoint="ep", generation=3, lanes=4)
    with over("pci", "split", ("IN_ORDER",)):
        async with open_pair(Options(link=link)) as pair:
            await pair.transfer(1 << 16)
            ring = pair.vhost.queues[1].ring
            assert isinstance(ring, InOrderVringh)
            assert isinstance(ring.ring, ObservedVringh)
            timing = pair.link.statistics().timing
            assert timing is not None
            assert timing.slept > 0
