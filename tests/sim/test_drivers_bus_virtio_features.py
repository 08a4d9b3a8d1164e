"""Feature negotiation, at the registers of a device."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from drivers.bus.vhost import VhostDevice
from drivers.devices.net import NET
from drivers.devices.net.layout import TABLE, NetFeature
from drivers.testing import TappedFunction
from drivers.transports.pci.registers import Common
from rings.features import RingFeature, bits, mask
from rings.status import Status
from support.rigs.virtio_pci import bind, written
from vnet.ends.net import NetSpec
from vnet.system.world import open_world
from vnet.testing import (
    AGREED,
    OFFERED,
    Options,
    hostile_driver,
    open_pair,
    tapped,
    unharmed,
)
from vnet.testing.hostile import EXTRA
from vnet.topology import check

CONTROLLED = Options(queue_size=16, control=True)
OVER_PCI = AGREED | 1 << RingFeature.RING_RESET
NO_REGISTERS = ("vhost_user",)
"""Transports on which a device shows no status, and no kick reaches a queue that is not set up."""
UNKNOWN = {
    "undefined": mask({48, 58, 100, 127}),
    "reserved": mask(range(44, 50)),
    "legacy": mask({24, 27, 30}),
    "of another transport": mask({37, 41, 43}),
    "of another device type or later": mask({4, 6, 10, 14, 42, 51, 60, 62, 66}),
    "all at once": ((1 << 128) - 1) & ~OFFERED & ~mask({RingFeature.RING_PACKED}) & ~EXTRA,
}


def offer(tap: TappedFunction, change: Callable[[int], int]) -> None:
    """Let the driver read other features than the device offers."""

    def lie(value: int) -> int:
        select = tap.read_common(Common.DEVICE_FEATURE_SELECT)
        return change(value << 32 * select) >> 32 * select

    tap.lies[tap.at(Common.DEVICE_FEATURE)] = lie


def accepted(tap: TappedFunction) -> int:
    values = written(tap, Common.DRIVER_FEATURE)
    assert len(values) == 4
    return sum(value << 32 * select for select, value in enumerate(values))


@pytest.mark.virtio("FEAT-DRV-1", "FEAT-DRV-4", "FEAT-DRV-5", "FEAT-DRV-6", "FEAT-DRV-7", "FEAT-DRV-10")
@pytest.mark.parametrize("more", UNKNOWN.values(), ids=UNKNOWN)
async def test_offered_bits_that_mean_nothing_here_are_never_accepted_and_no_reason_to_refuse(more: int) -> None:
    async with open_pair(CONTROLLED) as pair, unharmed(pair), tapped(pair) as tap:
        offer(tap, lambda value: value | more)
        await bind(pair, tap)
        assert accepted(tap) == OVER_PCI == pair.virtio.features


@pytest.mark.virtio("FEAT-DRV-1", "FEAT-DRV-8")
@pytest.mark.parametrize("bit", [b for b in bits(AGREED) if b != RingFeature.VERSION_1], ids=TABLE.name)
async def test_a_feature_that_is_not_offered_is_not_accepted_and_the_device_works_without(bit: int) -> None:
    async with open_pair(CONTROLLED) as pair, unharmed(pair), tapped(pair) as tap:
        offer(tap, lambda value: value & ~(1 << bit))
        await bind(pair, tap)
        assert accepted(tap) == TABLE.prune(OVER_PCI & ~(1 << bit))
        await pair.transfer(1 << 14)


@pytest.mark.virtio("FEAT-DRV-2", "NET-DRV-1", "NET-DRV-3")
@pytest.mark.parametrize("bit", [NetFeature.CSUM, NetFeature.GUEST_CSUM], ids=lambda bit: bit.name)
async def test_features_whose_prerequisite_is_not_offered_are_not_accepted(bit: NetFeature) -> None:
    async with open_pair(CONTROLLED) as pair, unharmed(pair), tapped(pair) as tap:
        offer(tap, lambda value: value & ~(1 << bit))
        await bind(pair, tap)
        needing = mask(feature for feature, groups in TABLE.needs.items() if {bit} in groups)
        assert needing
        assert not accepted(tap) & needing


@pytest.mark.every_transport
@pytest.mark.parametrize("given", [{}, {"queue_size": 32}, {"features_off": ("MRG_RXBUF",)}], ids=str)
async def test_features_and_buffers_are_the_table_s_unless_the_topology_overrides_them(
    transport: str, given: dict[str, Any]
) -> None:
    """The device publishes what its driver then has."""
    topology = Options().topology()
    spec = attrs.evolve(topology.devices["net0"], **{"queue_size": NetSpec().queue_size, **given})
    async with open_world(check(attrs.evolve(topology, devices={"net0": spec}), "test"), "test") as world:
        await world.wait_up()
        device = world.devices["net0"]
        assert device.virtio is not None
        num = given.get("queue_size", 256)
        assert [queue.max_num for queue in device.vhost.queues[:2]] == [num, num]
        assert [queue.ring.num for queue in device.virtio.queues[:2]] == [num, num]
        for features in (device.vhost.device_features, device.virtio.features):
            assert not features & ~NET.supported
            assert bool(features >> NetFeature.MRG_RXBUF & 1) == ("features_off" not in given)


@pytest.mark.every_transport
@pytest.mark.virtio("FEAT-DEV-1", "FEAT-DEV-4")
@pytest.mark.parametrize("bit", [b for b in bits(AGREED) if b != RingFeature.VERSION_1], ids=TABLE.name)
async def test_a_device_offers_only_what_it_knows_and_nothing_without_its_prerequisite(bit: int) -> None:
    async with open_pair(Options(queue_size=16, control=True, features_off=(TABLE.name(bit),))) as pair:
        offered = pair.vhost.device_features
        assert offered & ~(OFFERED | OVER_PCI) == 0
        assert not offered >> bit & 1
        assert not TABLE.unmet(offered)
        await pair.transfer(1 << 14)


@pytest.mark.virtio("FEAT-DEV-1", "NET-DEV-15")
@pytest.mark.parametrize("bit", [NetFeature.CSUM, NetFeature.GUEST_CSUM, NetFeature.CTRL_VQ], ids=lambda bit: bit.name)
async def test_a_device_type_that_forgets_a_prerequisite_offers_nothing_that_needs_it(bit: NetFeature) -> None:
    async with open_pair(CONTROLLED) as pair:
        device = VhostDevice(pair.vhost.device_id, pair.vhost.vendor_id, pair.vhost.ops)
        device.offer(TABLE, OFFERED & ~(1 << bit), (), b"")
        needing = mask(feature for feature, groups in TABLE.needs.items() if {bit} in groups)
        assert OFFERED & needing
        assert not device.device_features & needing


@pytest.mark.every_transport(but=NO_REGISTERS)
@pytest.mark.virtio("FEAT-DEV-2", "FEAT-DEV-3", "FEAT-DEV-5")
async def test_a_device_accepts_every_valid_subset_again_and_again_and_no_other() -> None:
    rng = random.Random(1)
    async with open_pair(CONTROLLED) as pair, unharmed(pair), hostile_driver(pair) as driver:
        valid = {TABLE.prune(rng.getrandbits(64) & OFFERED | 1 << RingFeature.VERSION_1) for _ in range(40)}
        for features in [*valid, *sorted(valid), OFFERED, 1 << RingFeature.VERSION_1]:
            await driver.negotiate(features)
            assert driver.status & Status.FEATURES_OK
            assert pair.vhost.features == features
        for features in [f & ~(1 << RingFeature.VERSION_1) for f in valid]:
            await driver.negotiate(features)
            assert not driver.status & Status.FEATURES_OK


BAD_SELECTIONS = {
    "none": 0,
    "no VERSION_1": OFFERED & ~(1 << RingFeature.VERSION_1),
    "TSO4 without CSUM": OFFERED & ~(1 << NetFeature.CSUM),
    "USO without GUEST_CSUM": OFFERED & ~(1 << NetFeature.GUEST_CSUM),
    "packed": OFFERED | 1 << RingFeature.RING_PACKED,
    "unoffered": OFFERED | 1 << NetFeature.MQ,
    "reserved": OFFERED | 1 << 44,
    "beyond 64 bits": OFFERED | 1 << 127,
    "everything": (1 << 128) - 1,
}


@pytest.mark.every_transport(but=NO_REGISTERS)
@pytest.mark.virtio("FEAT-DEV-3")
@pytest.mark.hostile("S04")
@pytest.mark.parametrize("features", BAD_SELECTIONS.values(), ids=BAD_SELECTIONS)
async def test_features_ok_stays_clear_on_a_selection_that_does_not_work(features: int) -> None:
    async with open_pair(CONTROLLED) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate(features)
        assert driver.status == Status.ACKNOWLEDGE | Status.DRIVER
        driver.status |= Status.DRIVER_OK
        assert driver.status == Status.ACKNOWLEDGE | Status.DRIVER
        driver.driver_features = OFFERED  # it may still change its mind
        driver.status |= Status.FEATURES_OK
        assert driver.status & Status.FEATURES_OK


@pytest.mark.every_transport(but=NO_REGISTERS)
@pytest.mark.hostile("S04")
async def test_features_written_after_features_ok_change_nothing() -> None:
    async with open_pair(CONTROLLED) as pair, unharmed(pair), hostile_driver(pair) as driver:
        chosen = OFFERED & ~(1 << NetFeature.MRG_RXBUF)
        await driver.start(chosen)
        driver.driver_features = OFFERED
        assert driver.driver_features == chosen == pair.vhost.features
