"""The virtio bus and the vhost bus of a running device: drivers come, go and fail."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing

from drivers.bus.binding import BindState
from drivers.bus.vhost import VhostDevice, VhostDriver
from drivers.bus.virtio import VirtioDriver
from drivers.contracts.hw import DmaBuffer
from drivers.virtio_type import SideDriver
from vnet.testing import FRAME, NetPair, Options, open_pair, unharmed

settled = trio.testing.wait_all_tasks_blocked


def drivers_of(pair: NetPair) -> tuple[VirtioDriver, VhostDriver]:
    virtio, vhost = pair.rc.virtio.match(pair.virtio), pair.device.device_host.vhost.match(pair.vhost)
    assert virtio is not None
    assert vhost is not None
    return virtio, vhost


async def test_a_virtio_driver_that_comes_after_its_device_binds_it() -> None:
    async with open_pair() as pair, unharmed(pair):
        driver, _ = drivers_of(pair)
        await pair.rc.virtio.unregister_driver(driver)
        assert not pair.device.up
        assert pair.rc.virtio.binding(pair.virtio).state is BindState.UNBOUND
        assert pair.vhost.status == 0
        pair.rc.virtio.register_driver(driver)
        await pair.world.wait_up()


@pytest.mark.every_transport
async def test_a_vhost_driver_that_leaves_makes_the_other_side_wait_until_it_comes_back(transport: str) -> None:
    async with open_pair() as pair, unharmed(pair):
        _, driver = drivers_of(pair)
        virtio, bus = pair.virtio, pair.device.device_host.vhost
        await bus.unregister_driver(driver)
        for pause in (0.1, 10):
            await trio.sleep(pause)
            assert pair.vhost.device_features == 0
            assert not pair.driver_port.live
            assert not pair.device_port.live
            assert pair.rc.memory.statistics().buffers <= 1, "nothing but the window of an NTB"
            assert pair.vhost.status == 0
            if transport != "ntb":  # which shows no device at all
                binding = pair.rc.virtio.binding(virtio)
                assert binding.state is BindState.PROBING
                assert "nothing is offered" in binding.error
                assert virtio.restarts == 1
        bus.register_driver(driver)
        await pair.world.wait_up()


async def test_a_driver_that_has_no_port_yet_is_deferred_on_either_bus() -> None:
    async with open_pair() as pair, unharmed(pair):
        driver, _ = drivers_of(pair)
        assert isinstance(driver, SideDriver)
        ports: dict[str, object] = {}
        await pair.rc.virtio.unregister_driver(driver)
        pair.rc.virtio.register_driver(attrs.evolve(driver, settings_for=lambda device: ports.get(device.location)))
        await trio.sleep(0.1)
        binding = pair.rc.virtio.binding(pair.virtio)
        assert (binding.state, binding.error) == (BindState.DEFERRED, f"{pair.virtio.name}: no port to plug into yet")
        assert pair.vhost.status == 0, "a device without a driver is left reset"
        late = VhostDevice(1, 0x1AF4, pair.vhost.ops)
        pair.ep.vhost.register_device(late)
        await settled()
        assert pair.ep.vhost.binding(late).state is BindState.DEFERRED
        await pair.ep.vhost.unregister_device(late)
        ports[pair.virtio.location] = pair.device.driver_end.settings
        pair.rc.virtio.poke()
        await pair.world.wait_up()


@pytest.mark.virtio("CLEANUP-DRV-2")
async def test_unbinding_releases_in_reverse_what_probe_acquired(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is reset before a buffer is freed, and buffers are freed last allocated first."""
    async with open_pair() as pair, unharmed(pair):
        log: list[tuple[str, DmaBuffer | int]] = []
        memory, status = pair.rc.memory, pair.vhost.write_status
        alloc, free = memory.alloc, memory.free

        def noted_alloc(size: int, align: int = 64) -> DmaBuffer:
            log.append(("alloc", buffer := alloc(size, align)))
            return buffer

        def noted_free(buffer: DmaBuffer) -> None:
            log.append(("free", buffer))
            free(buffer)

        def noted_status(value: int) -> None:
            log.append(("status", value))
            status(value)

        monkeypatch.setattr(memory, "alloc", noted_alloc)
        monkeypatch.setattr(memory, "free", noted_free)
        monkeypatch.setattr(pair.vhost, "write_status", noted_status)
        await pair.reset()
        acquired = [b for what, b in log if what == "alloc" and isinstance(b, DmaBuffer)]
        log.clear()
        await pair.reset()
        down = log[: next(at for at, (what, _) in enumerate(log) if what == "alloc")]
        released = [b for _, b in down if isinstance(b, DmaBuffer)]
        assert down[0] == ("status", 0)
        assert sorted(b.addr for b in released) == sorted(b.addr for b in acquired)
        rings = acquired[:6]
        assert [b for b in released if b in rings] == rings[::-1]
        monkeypatch.undo()


async def test_twenty_starts_and_stops_leave_nothing_behind() -> None:
    async with open_pair(Options(queue_size=16)) as pair:
        await settled()
        before = pair.footprint()
        for _ in range(20):
            pair.ep.controllers["link0"].stop()
            await trio.sleep(0.01)
            assert pair.rc.virtio.bindings == ()
            pair.ep.controllers["link0"].start()
            await pair.world.wait_up()
            pair.driver_port.inject(FRAME)
            assert (await pair.device_port.receive())[1] == FRAME
        await settled()
        assert pair.footprint().within(before)


async def test_twenty_worlds_leave_nothing_behind() -> None:
    counts = set()
    for _ in range(20):
        async with open_pair(Options(queue_size=16)) as pair:
            counts.add(pair.footprint())
        memories = pair.rc.memory, pair.ep.memory
        assert [memory.pinned for memory in memories] == [0, 0]
        assert [memory.statistics().buffers for memory in memories] == [0, 0]
        assert pair.rc.rc.interrupts.requested == 0
        assert pair.link.statistics().windows == 0
    assert len(counts) == 1
