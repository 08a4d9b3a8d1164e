"""The block driver: requirements of the specification, resets, and link flaps."""

from __future__ import annotations

import os

import attrs
import pytest
import trio
import trio.testing

from drivers.contracts.ports import Lifetime, StoreInfo
from drivers.devices.blk import BlkStatus, DiskError, DiskRequest, RequestType
from drivers.devices.blk.layout import SEGMENT, BlkConfigField, BlkFeature
from drivers.storage.submit import PATIENCE
from drivers.transports.pci.registers import CfgType, Common
from rings.features import RingFeature
from rings.status import Status
from support.rigs.blk import exercise
from support.rigs.load import reset_under_load
from vnet.testing.blk import BlkOptions, BlkPair, open_blk_pair
from vnet.testing.checks import until
from vnet.testing.tapped import tapped
from vnet.transports import TRANSPORTS

KIB, MIB = 1 << 10, 1 << 20
SIZE = 8 * MIB
F = BlkFeature

# What the specification asks of a driver


@pytest.mark.virtio("BLK-DRV-3", "BLK-DRV-10")
async def test_the_driver_reads_no_writeback_before_features_ok_and_only_fields_it_has_features_for() -> None:
    async with open_blk_pair(BlkOptions(features_off=("TOPOLOGY", "DISCARD"))) as pair, tapped(pair) as tap:
        pair.rc.pci.register_device(tap)
        await pair.world.wait_up()
        config = tap.structures[CfgType.DEVICE]
        place, status, seen = tap.at(Common.DEVICE_STATUS), Status(0), set()
        for access in tap.log:
            if (access.bar, access.offset) == place and access.write:
                status = Status(access.value)
            elif access.bar == config.bar and config.offset <= access.offset < config.offset + config.length:
                assert status & Status.FEATURES_OK
                seen.add(access.offset - config.offset)
        without = {f.value[0] for f in BlkConfigField if f.feature in (F.TOPOLOGY, F.DISCARD, F.MQ)}
        assert not seen & without
        assert BlkConfigField.CAPACITY.value[0] in seen


@pytest.mark.virtio("BLK-DRV-10", "BLK-DEV-18", "BLK-DEV-19")
async def test_a_read_only_disk_is_read_and_nothing_else() -> None:
    async with open_blk_pair(BlkOptions(read_only=True)) as pair:
        pair.store.data[512:1024] = b"r" * 512
        assert pair.vhost.features >> F.RO & 1
        assert not pair.vhost.device_features >> F.DISCARD & 1
        assert await pair.disk.read(512, 512) == b"r" * 512
        for change in (pair.disk.write(0, b"w" * 512), pair.disk.write_zeroes(0, 512)):
            with pytest.raises(DiskError, match="IOERR"):
                await change
        assert "pwritev" not in pair.store.log
        await pair.transfer()


@pytest.mark.virtio("BLK-DRV-9")
async def test_nothing_beyond_the_end_gets_to_the_device() -> None:
    async with open_blk_pair() as pair:
        for request in (
            pair.disk.read(SIZE, 512),
            pair.disk.write(SIZE - 512, bytes(1024)),
            pair.disk.discard(SIZE, 512),
        ):
            with pytest.raises(DiskError, match="IOERR"):
                await request
        assert pair.plug.figures[0].taken == 0
        assert pair.disk.figures[0].errors == {"beyond_end": 3}


@pytest.mark.virtio(
    "BLK-DRV-1", "BLK-DRV-11", "BLK-DRV-12", "BLK-DRV-13", "BLK-DRV-14", "BLK-DRV-15", "BLK-DRV-16", "BLK-DRV-17"
)
@pytest.mark.virtio("BLK-DRV-18", "BLK-DRV-20", "BLK-DEV-54")
async def test_every_request_has_the_shape_that_its_type_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from drivers.devices.blk.device.request import VhostBlkRequest

    seen: list[tuple[int, int, bytes, int]] = []
    parse_request = VhostBlkRequest.parse

    def spy(chain: tuple[int, list[memoryview], list[memoryview]], limits: object) -> object:
        _, read, write = chain
        data = b"".join(read)
        kind, sector = int.from_bytes(data[:4], "little"), int.from_bytes(data[8:16], "little")
        seen.append((kind, sector, data[16:], sum(map(len, write)) - 1))
        return parse_request(chain, limits)  # type: ignore[arg-type]

    monkeypatch.setattr(VhostBlkRequest, "parse", staticmethod(spy))
    async with open_blk_pair(BlkOptions(secure_erase=True, lifetime=(1, 2, 3))) as pair:
        try:
            await exercise(pair.disk)
            assert await pair.disk.get_id() == b"disk0"
            assert await pair.disk.lifetime() == Lifetime(1, 2, 3)
            await pair.disk.secure_erase(0, SIZE)
        finally:  # before the device's answer to a bad one
            check_requests(seen)
    assert {kind for kind, *_ in seen} == set(RequestType)


def check_requests(seen: list[tuple[int, int, bytes, int]]) -> None:
    for kind, sector, read, write in seen:
        if kind == RequestType.FLUSH:
            assert (sector, read, write) == (0, b"", 0)
        elif kind == RequestType.GET_ID:
            assert (read, write) == (b"", 20)
        elif kind == RequestType.GET_LIFETIME:
            assert (read, write) == (b"", 6)
        elif kind in (RequestType.IN, RequestType.OUT):
            assert len(read) % 512 == write % 512 == 0
        else:
            assert len(read) % SEGMENT.size == 0
            segments = list(SEGMENT.iter_unpack(read))
            assert len(segments) == 1
            flags = segments[0][2]
            assert flags == (1 if kind == RequestType.WRITE_ZEROES else 0)


@pytest.mark.virtio("BLK-DRV-8", "BLK-DEV-17", "BLK-DEV-24")
async def test_a_store_that_grows_or_shrinks_tells_the_driver() -> None:
    async with open_blk_pair() as pair:
        assert (await pair.disk.wait_online()).size == SIZE
        for size in (MIB, 2 * SIZE):
            pair.store.info = attrs.evolve(pair.store.info, size=size)
            pair.plug.resized()
            await until(lambda size=size: pair.disk.geometry.size == size)  # type: ignore[misc, union-attr]
        pair.store.data.extend(bytes(SIZE))
        await pair.disk.write(SIZE, b"new" + bytes(509))
        assert (await pair.disk.read(SIZE, 512))[:3] == b"new"
        pair.store.info = attrs.evolve(pair.store.info, unmaps=False)
        pair.plug.resized()
        await until(lambda: pair.disk.geometry is not None and not pair.disk.geometry.unmaps)


# Resets


@pytest.mark.hostile("S09")
async def test_a_reset_reads_back_as_0_only_when_the_store_is_idle() -> None:
    async with open_blk_pair() as pair:
        store = pair.store
        store.at_once, store.gate = False, trio.Event()
        async with trio.open_nursery() as nursery:
            for i in range(8):
                nursery.start_soon(pair.disk.read, i * 4096, 4096)
            await until(lambda: store.inside == 4)
            pair.vhost.write_status(0)
            await trio.testing.wait_all_tasks_blocked()
            assert pair.vhost.status != 0
            store.gate.set()
            await trio.testing.wait_all_tasks_blocked()
            assert store.inside == 0
            store.gate = None
            # The driver notices, and brings the device up again; what was not answered is done now.
            pair.virtio.interrupt()
        assert pair.disk.figures[0].done == 8
        assert pair.disk.figures[0].queued == 8


@pytest.mark.hostile("S09")
async def test_a_hundred_resets_under_load_lose_nothing() -> None:
    async with open_blk_pair() as pair:
        pair.store.at_once = False

        async def transfer(at: int) -> None:
            data = os.urandom(4096)
            await pair.disk.write(at * 4096, data)
            assert await pair.disk.read(at * 4096, 4096) == data

        assert await reset_under_load(pair, transfer, 100) > 100
        assert pair.disk.figures[0].errors == {}


async def test_a_device_that_asks_for_a_reset_gets_it_and_its_requests_again() -> None:
    async with open_blk_pair() as pair:
        store = pair.store
        store.at_once, store.gate = False, trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.disk.write, 0, b"w" * 4096)
            await until(lambda: store.inside == 1)
            pair.vhost.fail("a test")
            await trio.testing.wait_all_tasks_blocked()
            store.gate.set()
        assert store.data[:4096] == b"w" * 4096
        assert pair.disk.figures[0].queued == 1


# Links that flap


class Loss:
    """The device can't be reached: its link is down, or, without a link, its own driver has left it."""

    def __init__(self, pair: BlkPair) -> None:
        self.pair, self.bus = pair, pair.device.device_host.vhost
        self.linked = TRANSPORTS[pair.device.spec.transport].on != "host"
        self.driver = self.bus.match(pair.vhost)

    async def begin(self) -> None:
        if self.linked:
            self.pair.link.bring_down()
        elif self.driver is not None:
            await self.bus.unregister_driver(self.driver)

    def end(self) -> None:
        if self.linked:
            self.pair.link.bring_up()
        elif self.driver is not None:
            self.bus.register_driver(self.driver)


@pytest.mark.every_transport
@pytest.mark.parametrize("at_once", [True, False])
async def test_over_a_link_flap_every_request_is_kept_and_done(at_once: bool) -> None:
    async with open_blk_pair() as pair:
        loss = Loss(pair)
        pair.store.at_once = at_once
        pair.store.data[:MIB] = os.urandom(MIB)
        wanted = bytes(pair.store.data[:MIB])
        actual: dict[int, bytes] = {}

        async def read(at: int) -> None:
            actual[at] = await pair.disk.read(at * 4096, 4096)

        async with trio.open_nursery() as nursery:
            for at in range(200):
                nursery.start_soon(read, at)
                if at % 50 == 25:
                    await trio.lowlevel.checkpoint()
                    await loss.begin()
                if at % 50 == 49:
                    loss.end()
            await trio.sleep(5)
        assert b"".join(actual[at] for at in range(200)) == wanted[: 200 * 4096]
        assert pair.disk.figures[0].errors == {}


@pytest.mark.every_transport
@pytest.mark.hostile("D11")
async def test_requests_wait_30_seconds_for_a_link_and_then_end_with_an_error_each_once() -> None:
    async with open_blk_pair() as pair:
        loss = Loss(pair)
        pair.store.at_once, pair.store.gate = False, trio.Event()
        ended: list[float] = []

        async def read() -> None:
            with pytest.raises(DiskError, match="IOERR"):
                await pair.disk.read(0, 4096)
            ended.append(trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read)
            await until(lambda: pair.store.inside == 4)
            began = trio.current_time()
            nursery.start_soon(loss.begin)  # which may wait for the store
            await trio.testing.wait_all_tasks_blocked()
            pair.store.gate.set()
            await trio.sleep(10)
            assert not pair.disk.online
            for _ in range(3):
                nursery.start_soon(read)
            await trio.sleep(PATIENCE - 10.1)
            assert not ended
        assert ended == pytest.approx([PATIENCE] * 5 + [PATIENCE + 10] * 3, abs=0.1)
        assert pair.disk.figures[0].errors == {"device_lost": 8}
        pair.store.gate = None
        loss.end()
        await pair.world.wait_up()
        await pair.transfer()


@pytest.mark.every_transport
async def test_a_link_that_is_back_after_29_seconds_was_not_missed() -> None:
    async with open_blk_pair() as pair:
        loss = Loss(pair)
        async with trio.open_nursery() as nursery:
            await loss.begin()
            nursery.start_soon(pair.transfer)
            await trio.sleep(29)
            loss.end()
        assert pair.disk.figures[0].errors == {}


async def test_a_request_beyond_a_disk_shrunk_while_the_link_was_down_fails() -> None:
    async with open_blk_pair() as pair:
        pair.link.bring_down()
        await trio.sleep(0.1)
        ended: list[DiskRequest] = []
        buffer = pair.disk.take(4096)
        pair.disk.submit(DiskRequest(RequestType.IN, ended.append, SIZE - 4096, 4096, buffer))
        pair.store.info = StoreInfo(MIB)
        pair.plug.resized()
        pair.link.bring_up()
        await until(lambda: bool(ended))
        assert ended[0].status is BlkStatus.IOERR
        assert pair.plug.figures[0].taken == 0


async def test_the_rings_features_change_nothing_of_what_is_kept() -> None:
    async with open_blk_pair() as pair:
        settings = pair.device.driver_end.settings
        pair.link.bring_down()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.transfer)
            await trio.sleep(0.1)
            settings.features &= ~(1 << RingFeature.INDIRECT_DESC)  # type: ignore[attr-defined]
            pair.link.bring_up()
        assert not pair.vhost.features >> RingFeature.INDIRECT_DESC & 1
