"""Configuration space, at the registers of a device."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count

import pytest
import trio
import trio.testing

from drivers.bus.virtio import VirtioDevice
from drivers.devices.net.layout import NetConfigField, NetFeature
from drivers.errors import ProbeError
from drivers.testing import CONFIG, TappedFunction
from drivers.transports.pci.front import VirtioPci
from drivers.transports.pci.registers import CfgType, Common
from rings.features import RingFeature
from rings.status import Status
from rings.testing import Desc
from support.rigs.virtio_pci import SMALL, bind, refused
from vnet.testing import (
    FRAME,
    Options,
    bounded,
    hostile_driver,
    open_pair,
    tapped,
    unharmed,
)

NO_REGISTERS = ("vhost_user",)
"""Transports on which a device shows no status, and no kick reaches a queue that is not set up."""
OK = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK


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
    actual = []
    at = tap.config_read(0x34, 1)
    while at:
        if tap.config_read(at, 1) == 9:
            size = tap.config_read(at + 2, 1)
            actual.append((at, bytes(tap.config_read(at + i, 1) for i in range(2, size))))
        at = tap.config_read(at + 1, 1)
    return actual


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
async def test_a_change_of_configuration_moves_the_generation_and_is_not_a_used_buffer_interrupt() -> None:
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
async def test_a_reader_never_sees_a_mixed_value() -> None:
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
