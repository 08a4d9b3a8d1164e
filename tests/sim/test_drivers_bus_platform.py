"""Devices whose accesses the driver's platform translates and orders (ACCESS_PLATFORM, ORDER_PLATFORM)."""

from __future__ import annotations

from typing import Literal

import pytest

from rings.features import PLATFORM, bits
from vnet.testing import Options, open_pair, over

BOTH = "ACCESS_PLATFORM", "ORDER_PLATFORM"


@pytest.mark.parametrize("ring", ["split", "packed"])
@pytest.mark.parametrize("transport", ["pci", "epf_mailbox", "ntb"], indirect=True)
@pytest.mark.virtio("RFB-DRV-2", "RFB-DRV-6")
async def test_both_are_accepted_if_they_are_offered_and_frames_cross(
    transport: str, ring: Literal["split", "packed"]
) -> None:
    for offered in ((), BOTH[:1], BOTH[1:], BOTH):
        with over(transport, ring, offered):
            async with open_pair(Options(queue_size=16)) as pair:
                wanted = {bit for bit, name in zip(bits(PLATFORM), BOTH, strict=True) if name in offered}
                assert {*bits(pair.virtio.features & PLATFORM)} == wanted
                assert pair.vhost.features & PLATFORM == pair.virtio.features & PLATFORM
                await pair.transfer(1 << 14)


@pytest.mark.parametrize("transport", ["pci", "epf_mailbox", "ntb"], indirect=True)
async def test_the_rings_of_such_a_device_are_in_memory_that_it_reaches(transport: str) -> None:
    with over(transport, "split", BOTH):
        async with open_pair(Options(queue_size=16)) as pair:
            memory = pair.vhost.ops.memory()
            for queue in pair.vhost.queues:
                for addr in (queue.addrs.desc, queue.addrs.driver, queue.addrs.device):
                    assert len(memory.view(addr, 4)) == 4
