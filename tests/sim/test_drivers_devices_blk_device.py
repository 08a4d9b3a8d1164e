"""vhost-blk: what it leaves behind, and how much of the event loop's time one driver gets."""

from __future__ import annotations

import attrs

from vnet.testing.blk import open_blk_pair


async def test_a_plug_does_not_reach_a_device_that_it_was_taken_from() -> None:
    async with open_blk_pair() as pair:
        vhost, bus = pair.vhost, pair.ep.vhost
        driver = bus.match(vhost)
        assert driver is not None
        await bus.unregister_driver(driver)
        before = vhost.generation, vhost.config
        pair.store.info = attrs.evolve(pair.store.info, size=1 << 20)
        pair.plug.resized()
        assert (vhost.generation, vhost.config) == before
