"""Bring-up and reset of a device: the order of register accesses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
import trio.testing

from drivers.testing import TappedAccess, TappedFunction
from drivers.transports.pci.registers import CfgType, Common
from rings.layout import WRITE
from rings.status import Status
from rings.testing import Desc
from support.rigs.virtio_pci import SMALL, bind, written
from vnet.testing import (
    FRAME,
    Options,
    hostile_driver,
    open_pair,
    tapped,
    unharmed,
)

SHORT = Options(queue_size=16, features_off=("SPEED_DUPLEX",))
"""Without speed and duplex, whose "unknown" is the value of a read that is not answered."""
QUEUE_FIELDS = {
    Common.QUEUE_SIZE,
    Common.QUEUE_MSIX_VECTOR,
    Common.QUEUE_DESC,
    Common.QUEUE_DRIVER,
    Common.QUEUE_DEVICE,
}
READ_ONLY = {Common.DEVICE_FEATURE, Common.NUM_QUEUES, Common.CONFIG_GENERATION, Common.QUEUE_NOTIFY_OFF}
OK = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK


def stages(tap: TappedFunction) -> Iterator[tuple[Status, TappedAccess]]:
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


@pytest.mark.virtio("INIT-DRV-4", "INIT-DRV-5", "INIT-DRV-7", "INIT-DRV-9", "INIT-DRV-10", "INIT-DRV-13")
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


@pytest.mark.virtio("RFB-DRV-4")
async def test_the_device_gets_the_addresses_of_the_host_s_memory() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        await bind(pair, tap)
        rings = pair.rc.memory.base, pair.rc.memory.base + pair.rc.memory.size
        for field in (Common.QUEUE_DESC, Common.QUEUE_DRIVER, Common.QUEUE_DEVICE):
            common = tap.structures[CfgType.COMMON]
            low = [a.value for a in tap.within(CfgType.COMMON) if a.write and a.offset == common.offset + field]
            high = [a.value for a in tap.within(CfgType.COMMON) if a.write and a.offset == common.offset + field + 4]
            assert len(low) == len(high) == 2
            for address in (a | b << 32 for a, b in zip(low, high, strict=True)):
                assert rings[0] <= address < rings[1]


@pytest.mark.virtio("SPLIT-DRV-1", "SPLIT-DRV-20")
async def test_rings_are_aligned_and_their_used_flags_start_at_zero() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        zero = []

        def look(access: TappedAccess) -> None:
            if (access.bar, access.offset) == tap.at(Common.QUEUE_ENABLE):
                used = [queue.addrs.device for queue in pair.vhost.queues]
                zero.append([pair.rc.memory.view(addr, 2).tobytes() for addr in used if addr])

        tap.call_on_write(look)
        await bind(pair, tap)
        assert zero == [[bytes(2)] * 2] * 2
        for queue in pair.vhost.queues:
            assert (queue.addrs.desc % 16, queue.addrs.driver % 2, queue.addrs.device % 4) == (0, 0, 0)


# Reset


@pytest.mark.virtio("RESET-DEV-1", "RESET-DEV-2", "RESET-DEV-3", "PCI-DEV-15", "PCI-DEV-16", "PCI-DEV-57")
@pytest.mark.hostile("S02")
async def test_after_reset_nothing_is_touched_or_notified_until_it_is_set_up_again() -> None:
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
        received = pair.plug.figures.pairs[0].received.packets
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
        assert pair.plug.figures.pairs[0].received.packets == received
        pair.vhost.set_config(pair.vhost.config[:-2] + (1500).to_bytes(2, "little"))
        while pair.device_port._inbound:
            pair.device_port._inbound.pop()
