"""Secure erase and wear: what a device offers, and what its driver asks for."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from drivers.contracts.ports import Lifetime
from drivers.devices.blk import DiskError
from drivers.devices.blk.layout import BlkFeature as F
from drivers.devices.blk.layout import BlkStatus
from vnet.ports.disk.store import open_file_store, read_lifetime
from vnet.testing.blk import BlkOptions, BlkPair, open_blk_pair

MIB = 1 << 20
WORN = Lifetime(2, 9, 11)


async def refused(pair: BlkPair) -> None:
    for request in (pair.disk.secure_erase(0, 512), pair.disk.lifetime()):
        with pytest.raises(DiskError) as caught:
            await request
        assert caught.value.status is BlkStatus.UNSUPP
    assert pair.plug.figures[0].taken == 0, "the device was not asked"


@pytest.mark.every_transport
async def test_erased_sectors_are_overwritten_and_the_others_are_not() -> None:
    async with open_blk_pair(BlkOptions(secure_erase=True)) as pair:
        await pair.disk.write(0, b"x" * (2 * MIB))
        await pair.disk.secure_erase(4096, MIB)
        assert pair.store.data[: 2 * MIB] == b"x" * 4096 + bytes(MIB) + b"x" * (MIB - 4096)
        assert pair.store.log.count("erase") == 1
        pair.store.errors["erase"] = OSError(5, "worn out")
        with pytest.raises(DiskError, match="SECURE_ERASE of 512 bytes at 0: IOERR"):
            await pair.disk.secure_erase(0, 512)
        with pytest.raises(ValueError, match="not whole blocks"):
            await pair.disk.secure_erase(1, 512)


async def test_a_long_erasure_is_several_requests_of_one_segment() -> None:
    async with open_blk_pair(BlkOptions(secure_erase=True)) as pair:
        assert pair.disk.geometry is not None
        pair.disk.set_geometry(attrs.evolve(pair.disk.geometry, erase_max=MIB))
        await pair.disk.secure_erase(0, 3 * MIB + 512)
        assert pair.store.log.count("erase") == 4


@pytest.mark.every_transport
async def test_wear_is_that_of_the_topology() -> None:
    async with open_blk_pair(BlkOptions(lifetime=(2, 9, 11))) as pair:
        assert await pair.disk.lifetime() == WORN


@pytest.mark.virtio("BLK-DEV-28", "BLK-DEV-30")
async def test_wear_is_that_of_the_store_else_and_never_a_reserved_value() -> None:
    async with open_blk_pair() as pair:
        for lifetime in (WORN, Lifetime(4, 0, 0), Lifetime(0, 12, 0), Lifetime(0, 0, 0xFFFF)):
            pair.store.info = attrs.evolve(pair.store.info, lifetime=lifetime)
            await pair.ep.vhost.rebind(pair.vhost)
            await pair.world.wait_up()
            assert pair.vhost.device_features >> F.LIFETIME & 1 == (lifetime is WORN)
            if lifetime is WORN:
                assert await pair.disk.lifetime() == WORN


@pytest.mark.every_transport
async def test_neither_is_offered_unless_the_user_says_so() -> None:
    async with open_blk_pair() as pair:
        assert not pair.vhost.device_features & (1 << F.SECURE_ERASE | 1 << F.LIFETIME)
        await refused(pair)
    options = BlkOptions(secure_erase=True, lifetime=(1, 1, 1), features_off=("SECURE_ERASE", "LIFETIME"))
    async with open_blk_pair(options) as pair:
        await refused(pair)
    async with open_blk_pair(BlkOptions(secure_erase=True, read_only=True)) as pair:
        assert not pair.vhost.device_features >> F.SECURE_ERASE & 1


async def test_a_file_is_overwritten_before_its_blocks_are_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"x" * (3 * MIB))
    async with open_file_store(path) as store:
        written: list[bytes] = []
        inner = store._discard

        def discard(offset: int, size: int) -> None:
            written.append(path.read_bytes())
            inner(offset, size)

        monkeypatch.setattr(store, "_discard", discard)
        await store.erase(512, 2 * MIB)
    erased = b"x" * 512 + bytes(2 * MIB) + b"x" * (MIB - 512)
    assert written == [erased]
    assert path.read_bytes() == erased


def test_the_wear_of_an_emmc_is_read_from_its_attributes(tmp_path: Path) -> None:
    place = tmp_path / "179:0" / "device"
    place.mkdir(parents=True)
    device = 179 << 8
    assert read_lifetime(device, tmp_path) is None
    (place / "pre_eol_info").write_text("0x02\n")
    (place / "life_time").write_text("0x09 0x0b\n")
    assert read_lifetime(device, tmp_path) == WORN
    for text in ("0x0c 0x01\n", "0x01\n", "", "none at all\n"):
        (place / "life_time").write_text(text)
        assert read_lifetime(device, tmp_path) is None
