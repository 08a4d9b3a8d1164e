"""Bring-up, features, configuration and reset, as they show at the registers of a device."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from drivers.bus.model import BindState
from drivers.bus.virtio import VirtioDevice
from drivers.devices.net.layout import TABLE, NetConfigField, NetFeature
from drivers.errors import ProbeError
from drivers.registry import DEVICES
from drivers.testing import CONFIG, RegisterAccess, TappedFunction
from drivers.transports.pci.front import VirtioPci
from drivers.transports.pci.registers import CfgType, Common
from rings.features import RingFeature, bits, mask
from rings.layout import WRITE
from rings.memory import Addr
from rings.status import MOVES, Status
from rings.testing import Desc
from vnet.ends.net.end import NetSpec
from vnet.system.world import open_world
from vnet.testing import (
    AGREED,
    FRAME,
    OFFERED,
    Options,
    Pair,
    bounded,
    hostile_driver,
    open_pair,
    tapped,
    unharmed,
    until,
)

SMALL = Options(queue_size=16)
CONTROLLED = Options(queue_size=16, control=True)
SHORT = Options(queue_size=16, features_off=("SPEED_DUPLEX",))
"""Without speed and duplex, whose "unknown" is what reads back where nobody answers."""
NO_REGISTERS = ("vhost_user",)
"""Transports on which a device shows no status, and no kick reaches a queue that is not set up."""
QUEUE_FIELDS = {
    Common.QUEUE_SIZE,
    Common.QUEUE_MSIX_VECTOR,
    Common.QUEUE_DESC,
    Common.QUEUE_DRIVER,
    Common.QUEUE_DEVICE,
}
READ_ONLY = {Common.DEVICE_FEATURE, Common.NUM_QUEUES, Common.CONFIG_GENERATION, Common.QUEUE_NOTIFY_OFF}
OK = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK


async def bind(pair: Pair, tap: TappedFunction) -> None:
    pair.rc.pci.register_device(tap)
    await pair.world.wait_up()


async def refused(pair: Pair, tap: TappedFunction) -> str:
    """Bind it, and why the driver gave the device up, at once."""
    pair.rc.pci.register_device(tap)
    await until(lambda: pair.device.virtio and pair.rc.virtio.binding(pair.virtio).state is BindState.FAILED)
    assert not pair.device.up
    return pair.rc.virtio.binding(pair.virtio).error


def written(tap: TappedFunction, field: Common) -> list[int]:
    return [value for which, value, write in tap.common() if write and which is field]


def stages(tap: TappedFunction) -> Iterator[tuple[Status, RegisterAccess]]:
    """Every access, with the status as the driver wrote it last before."""
    status = Status(0xFF)
    place = tap.at(Common.DEVICE_STATUS)
    for access in tap.log:
        yield status, access
        if (access.bar, access.offset) == place and access.write:
            status = Status(access.value)


# Order


@pytest.mark.virtio("INIT-DRV-1", "INIT-DRV-2", "INIT-DRV-3", "INIT-DRV-6", "INIT-DRV-8", "INIT-DRV-10")
@pytest.mark.virtio("STATUS-DRV-1", "STATUS-DRV-2", "RESET-DRV-1", "PCI-DRV-16")
async def test_status_goes_from_reset_to_driver_ok_bit_by_bit_and_is_read_back_where_it_matters() -> None:
    async with open_pair(SHORT) as pair, unharmed(pair), tapped(pair) as tap:
        await bind(pair, tap)
        common = tap.common()
        assert common[0] == (Common.DEVICE_STATUS, 0, True)
        assert [(value, write) for field, value, write in common if field is Common.DEVICE_STATUS] == [
            (0, True),
            (0, False),
            (1, True),
            (3, True),
            (11, True),
            (11, False),
            (15, True),
        ]


@pytest.mark.virtio("INIT-DRV-4", "INIT-DRV-5", "INIT-DRV-7", "INIT-DRV-9", "INIT-DRV-13", "NET-DRV-11")
async def test_each_stage_of_bring_up_touches_only_what_belongs_to_it() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        for _ in range(8):
            pair.driver_port.inject(FRAME)  # a driver with something to send waits with its kick, too
        await bind(pair, tap)
        await pair.device_port.receive()
        negotiating = Status.ACKNOWLEDGE | Status.DRIVER
        fields = {tap.at(field): field for field in Common}
        seen: dict[Common, set[Status]] = {}
        for status, access in stages(tap):
            field = fields.get((access.bar, access.offset))
            if field is not None and access.write:
                seen.setdefault(field, set()).add(status)
        features_ok = negotiating | Status.FEATURES_OK
        assert seen[Common.DRIVER_FEATURE] == {negotiating}
        assert {status for f in (*QUEUE_FIELDS, Common.QUEUE_ENABLE) for status in seen[f]} == {features_ok}
        config = tap.structures[CfgType.DEVICE]
        at_config = [a for a in tap.log if a.bar == config.bar and 0 <= a.offset - config.offset < config.length]
        assert at_config
        assert not [a for a in at_config if a.write]
        kicks = [status for status, a in stages(tap) if a in tap.within(CfgType.NOTIFY)]
        assert set(kicks) == {OK}


@pytest.mark.virtio("PCI-DRV-12", "PCI-DRV-14", "PCI-DRV-15", "PCI-DRV-17", "PCI-DRV-27", "PCI-DRV-4", "SPLIT-DRV-2")
async def test_a_queue_is_enabled_last_and_read_only_fields_are_never_written() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        await bind(pair, tap)
        enabled: set[int] = set()
        selected = -1
        for field, value, write in tap.common():
            if write and field is Common.QUEUE_SELECT:
                selected = value
            elif write and field is Common.QUEUE_ENABLE:
                assert value == 1
                enabled.add(selected)
            assert not (write and field in QUEUE_FIELDS and selected in enabled)
            assert not (write and field in READ_ONLY)
        assert enabled == {0, 1}
        assert all(size and not size & (size - 1) for size in written(tap, Common.QUEUE_SIZE))
        accesses = [
            (field, write, value)
            for field, value, write in tap.common()
            if field in {Common.CONFIG_MSIX_VECTOR, Common.QUEUE_MSIX_VECTOR}
        ]
        assert accesses[::2] == [(field, True, value) for field, _, value in accesses[1::2]], "each one is read back"
        # Natural width and alignment; 64-bit fields in halves.
        common = tap.structures[CfgType.COMMON]
        ends = [*Common, common.length]
        for access in tap.within(CfgType.COMMON):
            at = access.offset - common.offset
            start = max(field for field in Common if field <= at)
            width = ends[ends.index(start) + 1] - start
            assert access.size == min(width, 4)
            assert at % access.size == 0


@pytest.mark.virtio("SPLIT-DRV-1", "SPLIT-DRV-20")
async def test_rings_are_aligned_and_their_used_flags_start_at_zero() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        zero = []

        def look(access: RegisterAccess) -> None:
            if (access.bar, access.offset) == tap.at(Common.QUEUE_ENABLE):
                zero.append([pair.rc.memory.view(Addr(q.used), 2).tobytes() for q in pair.vhost.queues if q.used])

        tap.on_write = look
        await bind(pair, tap)
        assert zero == [[bytes(2)] * 2] * 2
        for queue in pair.vhost.queues:
            assert (queue.desc % 16, queue.driver % 2, queue.used % 4) == (0, 0, 0)


# Status, at the device


@pytest.mark.virtio("INIT-DRV-11", "INIT-DRV-12", "FEAT-DRV-9", "FEAT-DRV-3", "STATUS-DRV-3")
@pytest.mark.parametrize(
    ("field", "lie", "why"),
    [
        (Common.DEVICE_FEATURE, lambda value: value & ~1, "does not offer VERSION_1"),
        (Common.DEVICE_STATUS, lambda v: v & ~Status.FEATURES_OK, "refused"),
        (Common.NUM_QUEUES, lambda _: 1, "1 queues, 2 needed"),
        (Common.QUEUE_SIZE, lambda _: 0, "queue size of 0"),
        (Common.QUEUE_SIZE, lambda _: 24, "queue size of 24"),
        (Common.QUEUE_ENABLE, lambda _: 0, "can't be enabled"),
        (Common.QUEUE_MSIX_VECTOR, lambda _: 0xFFFF, "could not map MSI-X vector 1"),
        (Common.CONFIG_MSIX_VECTOR, lambda _: 0xFFFF, "could not map MSI-X vector 0"),
        (Common.QUEUE_NOTIFY_OFF, lambda _: 0x7000, "address outside the structure"),
    ],
)
async def test_a_step_that_fails_for_good_ends_in_failed_and_the_next_attempt_starts_with_a_reset(
    field: Common, lie: Callable[[int], int], why: str
) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        tap.lies[tap.at(field)] = lie
        assert why in await refused(pair, tap)
        assert pair.vhost.status == Status.FAILED
        assert written(tap, Common.DEVICE_STATUS)[-1] == Status.FAILED
        assert all(not value & Status.DRIVER_OK for value in written(tap, Common.DEVICE_STATUS))
        tap.lies.clear()
        tap.log.clear()
        await pair.reset()
        assert tap.common()[0] == (Common.DEVICE_STATUS, 0, True)


async def test_a_device_that_asks_for_more_memory_than_there_is_is_refused() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        tap.lies[tap.at(Common.QUEUE_SIZE)] = lambda _: 32768
        assert "no room for" in await refused(pair, tap)


@pytest.mark.every_transport(but=NO_REGISTERS)
@pytest.mark.hostile("S03")
@pytest.mark.parametrize("bit", MOVES, ids=lambda bit: bit.name)
async def test_a_status_bit_out_of_turn_reads_back_unset(bit: Status) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.reset()
        driver.status = bit
        assert driver.status == (bit if not MOVES[bit] else 0)


@pytest.mark.every_transport
@pytest.mark.hostile("S03")
@pytest.mark.virtio("STATUS-DRV-2")
@pytest.mark.parametrize("value", [0x01, 0x03, 0x0B, 0x07, 0x40, 0xF0, 0x30, 0x10])
async def test_a_write_that_clears_a_status_bit_changes_nothing(value: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        driver.status = value
        assert driver.status == OK


@pytest.mark.every_transport(but=NO_REGISTERS)
@pytest.mark.hostile("S03")
async def test_driver_ok_without_features_ok_is_refused_and_after_failed_only_a_reset_helps() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.reset()
        driver.status = Status(0x0F)  # all at once: features 0 lack VERSION_1
        assert driver.status == Status.ACKNOWLEDGE | Status.DRIVER
        assert not pair.vhost.running
        driver.status |= Status.FAILED
        driver.status = Status(0xFF)
        assert driver.status == Status.ACKNOWLEDGE | Status.DRIVER | Status.FAILED
        await driver.start()
        assert driver.status == OK


@pytest.mark.every_transport(but=NO_REGISTERS)
@pytest.mark.virtio("STATUS-DEV-1", "STATUS-DEV-2")
@pytest.mark.hostile("S01")
async def test_buffers_before_driver_ok_are_not_consumed_and_not_answered() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        driver.map_vectors()
        driver.rings = [driver.set_up(queue) for queue in range(2)]
        kicks = [queue.kicks for queue in pair.vhost.queues]
        frame = driver.put(bytes(12) + FRAME)
        pair.device_port.inject(FRAME)
        for _ in range(10):
            driver.send(Desc(frame, 12 + len(FRAME)))
            driver.send(Desc(frame, 2000, WRITE), queue=0)
        await trio.sleep(1)
        assert [ring.used_idx for ring in driver.rings] == [0, 0]
        assert [queue.kicks for queue in pair.vhost.queues] == kicks
        assert driver.calls == []
        assert pair.plug.received.packets == pair.plug.sent.packets == 0


@pytest.mark.virtio("STATUS-DEV-3", "STATUS-DEV-4")
async def test_a_broken_ring_sets_needs_reset_and_then_tells_the_driver() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        driver.rings[1].set_entry(0, 999)
        driver.rings[1].avail_idx = 1
        told: list[Status] = []
        driver.function.request_irq(0, lambda: told.append(driver.status))
        driver.kick(1)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert told == [OK | Status.NEEDS_RESET]


@pytest.mark.every_transport
@pytest.mark.virtio("STATUS-DRV-4")
async def test_a_driver_that_is_told_to_reset_does_not_wait_for_what_is_outstanding() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair):
        pair.vhost.queues[1].close()  # the device serves its transmit queue no more
        for _ in range(16):
            pair.driver_port.inject(FRAME)
        await trio.testing.wait_all_tasks_blocked()
        assert pair.virtio.queues[1].ring.state().in_flight == 16
        pair.vhost.fail("of its own accord")
        await until(lambda: pair.virtio.restarts == 1 and pair.device.up)
        assert list(pair.virtio.failures) == ["the device asked for a reset"]


# Features


UNKNOWN = {
    "undefined": mask({48, 58, 100, 127}),
    "reserved": mask(range(44, 50)),
    "legacy": mask({24, 27, 30}),
    "of another transport": mask({35, 36, 37, 38, 39, 40, 41, 43}),
    "of another device type or later": mask({4, 6, 10, 14, 42, 51, 60, 62, 66}),
    "all at once": ((1 << 128) - 1) & ~OFFERED & ~mask({RingFeature.RING_PACKED}),
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
        assert accepted(tap) == AGREED == pair.virtio.features


@pytest.mark.virtio("FEAT-DRV-1", "FEAT-DRV-8")
@pytest.mark.parametrize("bit", [b for b in bits(AGREED) if b != RingFeature.VERSION_1], ids=TABLE.name)
async def test_a_feature_that_is_not_offered_is_not_accepted_and_the_device_works_without(bit: int) -> None:
    async with open_pair(CONTROLLED) as pair, unharmed(pair), tapped(pair) as tap:
        offer(tap, lambda value: value & ~(1 << bit))
        await bind(pair, tap)
        assert accepted(tap) == TABLE.prune(AGREED & ~(1 << bit))
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
    async with open_world(attrs.evolve(topology, devices={"net0": spec}).check("test"), "test") as world:
        await world.wait_up()
        device = world.devices["net0"]
        assert device.virtio is not None
        num = given.get("queue_size", 256)
        assert [queue.max_num for queue in device.vhost.queues[:2]] == [num, num]
        assert [queue.ring.num for queue in device.virtio.queues[:2]] == [num, num]
        for features in (device.vhost.device_features, device.virtio.features):
            assert not features & ~DEVICES["net"].supported
            assert bool(features >> NetFeature.MRG_RXBUF & 1) == ("features_off" not in given)


@pytest.mark.every_transport
@pytest.mark.virtio("FEAT-DEV-1", "FEAT-DEV-4")
@pytest.mark.parametrize("bit", [b for b in bits(AGREED) if b != RingFeature.VERSION_1], ids=TABLE.name)
async def test_a_device_offers_only_what_it_knows_and_nothing_without_its_prerequisite(bit: int) -> None:
    async with open_pair(Options(queue_size=16, control=True, features_off=(TABLE.name(bit),))) as pair:
        offered = pair.vhost.device_features
        assert offered & ~OFFERED == 0
        assert not offered >> bit & 1
        assert not TABLE.unmet(offered)
        await pair.transfer(1 << 14)


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


# Configuration


def config_reads(tap: TappedFunction) -> list[int]:
    """Offsets of the configuration fields that were read."""
    at = tap.structures[CfgType.DEVICE]
    return [a.offset - at.offset for a in tap.within(CfgType.DEVICE)]


@pytest.mark.virtio("CFG-DRV-4")
@pytest.mark.parametrize(
    ("feature", "field"),
    [
        (NetFeature.MAC, NetConfigField.MAC),
        (NetFeature.STATUS, NetConfigField.STATUS),
        (NetFeature.MTU, NetConfigField.MTU),
        (NetFeature.SPEED_DUPLEX, NetConfigField.SPEED),
    ],
    ids=lambda value: value.name,
)
async def test_a_field_is_read_only_where_its_feature_is_there(feature: NetFeature, field: NetConfigField) -> None:
    start, size = field.value
    for off in (False, True):
        options = Options(queue_size=16, features_off=(feature.name,) if off else ())
        async with open_pair(options) as pair, tapped(pair) as tap:
            await bind(pair, tap)
            assert off != any(start <= offset < start + size for offset in config_reads(tap))


@pytest.mark.virtio("CFG-DRV-1", "CFG-DRV-2", "CFG-DRV-3")
@pytest.mark.hostile("D08")
async def test_configuration_is_read_again_until_its_generation_stands_still() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        config = tap.structures[CfgType.DEVICE]
        old, new = bytes([2, 0, 0, 0, 1, 1]), bytes([2, 0, 0, 0, 2, 2])
        reads, generations = count(), count()

        def torn(offset: int) -> Callable[[int], int]:
            return lambda _: (old if next(reads) < 5 else new)[offset]  # it changes before the last byte

        for offset in range(6):
            tap.lies[config.bar, config.offset + offset] = torn(offset)
        # Read twice around the MTU, once before the MAC address; then the change shows.
        tap.lies[tap.at(Common.CONFIG_GENERATION)] = lambda _: int(next(generations) > 2)
        await bind(pair, tap)
        assert pair.driver_port.mac == new
        assert next(reads) == 12


@pytest.mark.hostile("D08")
@pytest.mark.parametrize("late", [False, True])
async def test_a_generation_that_never_stands_still_is_refused_after_a_bounded_number_of_reads(late: bool) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        generations = count()

        def lie(value: int) -> int:
            live = tap.read_common(Common.DEVICE_STATUS) & Status.DRIVER_OK
            return next(generations) if live or not late else value

        tap.lies[tap.at(Common.CONFIG_GENERATION)] = lie
        if late:  # while the device runs: it is reset and tried again, with growing pauses
            pair.rc.pci.register_device(tap)
            with bounded(seconds=3):
                await trio.sleep(2)
            assert 3 < pair.virtio.restarts < 20
            assert "configuration changed during each" in pair.virtio.failures[-1]
        else:
            assert "configuration changed during each" in await refused(pair, tap)
            assert next(generations) == 20
        tap.lies.clear()


def constant(value: int) -> Callable[[int], int]:
    return lambda _: value


def length_lie(tap: TappedFunction, kind: CfgType, length: int) -> None:
    """Another length in the capability of one structure, and nothing else of that kind."""
    at = next(at for at, body in vendor_capabilities(tap) if body[1] == kind)
    for i in range(4):
        tap.lies[CONFIG, at + 12 + i] = constant(length >> 8 * i & 0xFF)


def vendor_capabilities(tap: TappedFunction) -> list[tuple[int, bytes]]:
    found = []
    at = tap.config_read(0x34, 1)
    while at:
        if tap.config_read(at, 1) == 9:
            size = tap.config_read(at + 2, 1)
            found.append((at, bytes(tap.config_read(at + i, 1) for i in range(2, size))))
        at = tap.config_read(at + 1, 1)
    return found


@pytest.mark.virtio("CFG-DRV-5", "CFG-DRV-6", "PCI-DRV-10")
@pytest.mark.parametrize("length", [12, 13, 64, 0x1000, 0x2000])
async def test_configuration_space_may_be_of_any_size_that_holds_what_is_needed(length: int) -> None:
    async with (
        open_pair(Options(queue_size=16, features_off=("SPEED_DUPLEX",))) as pair,
        unharmed(pair),
        tapped(pair) as tap,
    ):
        length_lie(tap, CfgType.DEVICE, length)
        await bind(pair, tap)
        assert pair.driver_port.mtu == 1500


@pytest.mark.virtio("CFG-DRV-6")
async def test_configuration_space_that_ends_before_a_field_is_refused() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        length_lie(tap, CfgType.DEVICE, 11)
        assert "no device configuration of 12 bytes" in await refused(pair, tap)


@pytest.mark.every_transport(but=NO_REGISTERS)
@pytest.mark.virtio("CFG-DEV-1", "CFG-TRN-2")
async def test_configuration_is_readable_before_features_ok_and_little_endian() -> None:
    async with open_pair(Options(queue_size=16, mtu=0x1234)) as pair, unharmed(pair), hostile_driver(pair) as driver:
        mac = int.from_bytes(pair.plug.mac, "little")
        for status in (0, 1, 3):
            driver.status = Status(status)
            assert driver.status == status
            assert [driver.config(i, 1) for i in range(6)] == list(pair.plug.mac)
            assert driver.config(0, 4) == mac & 0xFFFF_FFFF
            assert (driver.config(10, 1), driver.config(11, 1), driver.config(10, 2)) == (0x34, 0x12, 0x1234)
            assert driver.config(6, 2) == 1


@pytest.mark.virtio("CFG-TRN-1", "CFGCHG-DEV-1", "PCI-DEV-14", "NOTIF-DEV-1")
async def test_a_change_of_configuration_moves_the_generation_and_is_told_apart_from_used_buffers() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        before = driver.read(Common.CONFIG_GENERATION), driver.config(6, 2)
        assert driver.read(Common.CONFIG_GENERATION) == before[0]
        config = bytearray(pair.vhost.config)
        config[6] = 0
        pair.vhost.set_config(bytes(config))
        assert driver.calls == [0]
        assert driver.read(Common.CONFIG_GENERATION) != before[0]
        assert driver.config(6, 2) == 0
        pair.vhost.set_config(bytes(config))
        assert driver.calls == [0], "what is no change is not told"
        driver.send(Desc(driver.put(bytes(12) + FRAME), 12 + len(FRAME)))
        await pair.device_port.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert driver.calls == [0, 2]
        config[6] = 1
        pair.vhost.set_config(bytes(config))


@pytest.mark.hostile("S12")
async def test_a_reader_never_sees_a_mixed_value_whatever_the_writer_does() -> None:
    """A million changes of the whole configuration, between any two accesses of the reader.

    In bursts up to 256 and more: the generation that virtio-pci shows has 8 bits only.
    """
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        rng = random.Random(12)
        honest, changes = pair.vhost.config, 0
        tap = TappedFunction(pair.function)
        config = tap.structures[CfgType.DEVICE]

        def meddle(value: int) -> int:
            nonlocal changes
            for _ in range(rng.choice([0] * 30 + [1, 255, 256, 257])):
                changes += 1
                pair.vhost.set_config(bytes([changes % 251]) * 6 + honest[6:])
            return value

        for offset in range(6):
            tap.lies[config.bar, config.offset + offset] = meddle
        tap.lies[tap.at(Common.CONFIG_GENERATION)] = meddle
        reader = VirtioDevice(1, 0x1AF4, VirtioPci(tap), "reader")
        good = 0
        while changes < 1_000_000:
            try:
                mac = await reader.read_config(0, 6)
            except ProbeError:
                continue
            finally:
                tap.log.clear()
            good += 1
            assert len(set(mac)) == 1
        assert good > 1000
        pair.vhost.set_config(honest)


@pytest.mark.virtio("VQ-DEV-1", "VQ-DEV-2", "PCI-DEV-22", "PCI-DEV-23")
async def test_queues_have_numbers_of_sixteen_bits_and_those_that_are_not_there_a_size_of_zero() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        assert driver.read(Common.NUM_QUEUES) == 2
        sizes = []
        for queue in (0, 1, 2, 3, 255, 256, 0x7FFF, 0xFFFF):
            driver.write(Common.QUEUE_SELECT, queue)
            assert driver.read(Common.QUEUE_SELECT) == queue
            sizes.append(driver.read(Common.QUEUE_SIZE))
        assert sizes == [16, 16, 0, 0, 0, 0, 0, 0]
        assert not driver.device_features >> RingFeature.RING_PACKED & 1
        await driver.start(1 << RingFeature.VERSION_1)
        assert driver.status == OK


# Reset


@pytest.mark.virtio("RESET-DEV-1", "RESET-DEV-2", "RESET-DEV-3", "PCI-DEV-15", "PCI-DEV-16", "PCI-DEV-57")
@pytest.mark.hostile("S02")
async def test_after_reset_nothing_is_touched_or_told_until_it_is_set_up_again() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        frame = driver.put(bytes(12) + FRAME)
        room = driver.put(b"\xee" * 2000)
        await driver.reset()
        assert driver.read(Common.CONFIG_MSIX_VECTOR) == 0xFFFF
        for queue in range(2):
            driver.write(Common.QUEUE_SELECT, queue)
            assert driver.read(Common.QUEUE_ENABLE) == 0
            assert driver.read(Common.QUEUE_MSIX_VECTOR) == 0xFFFF
            assert driver.read(Common.QUEUE_DESC) == 0
        received = pair.plug.received.packets
        for _ in range(10):
            pair.device_port.inject(FRAME)
            driver.send(Desc(frame, 12 + len(FRAME)))
            driver.send(Desc(room, 2000, WRITE), queue=0)
        pair.vhost.set_config(pair.vhost.config[:-2] + b"\1\1")
        before = [bytes(ring._used) + bytes(ring._desc) for ring in driver.rings]
        await trio.sleep(1)
        assert driver.calls == []
        assert driver.status == 0
        assert [bytes(ring._used) + bytes(ring._desc) for ring in driver.rings] == before
        assert driver.get(room, 2000) == b"\xee" * 2000
        assert pair.plug.received.packets == received
        pair.vhost.set_config(pair.vhost.config[:-2] + (1500).to_bytes(2, "little"))
        while pair.device_port._inbound:
            pair.device_port._inbound.pop()
