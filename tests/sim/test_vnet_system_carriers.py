"""Places of devices on their carriers: a device is shown to its driver's host, hidden, and shown again."""

from __future__ import annotations

import pytest
from trio.testing import wait_all_tasks_blocked

from vnet.testing import FRAME, NetPair, open_pair, until


async def carry(pair: NetPair) -> None:
    pair.driver_port.inject(FRAME)
    _, frame = await pair.device_port.receive()
    assert frame == FRAME


@pytest.mark.every_transport
async def test_a_device_that_was_hidden_is_gone_until_it_is_shown_again(transport: str) -> None:
    async with open_pair() as pair:
        await carry(pair)
        carrier = pair.device.carrier
        assert carrier is not None
        for _ in range(2):
            await carrier.hide()
            assert pair.device.virtio is None
            assert not pair.device.up
            await carrier.hide()  # harmless
            await wait_all_tasks_blocked()
            assert pair.device.virtio is None
            carrier.show()
            await until(lambda: pair.device.up)
            await carry(pair)


@pytest.mark.every_transport
async def test_a_device_that_is_hidden_leaves_no_place_of_its_own_taken(transport: str) -> None:
    async with open_pair() as pair:
        device = pair.device
        carrier = device.carrier
        assert carrier is not None
        await carrier.hide()
        carrier.free()
        names = [binding.device.name for bus in pair.rc.carriers for binding in bus.bindings]
        assert (device.location in names) == (transport == "ntb"), "the NTB is not part of the device"
        assert not pair.rc.sockets
