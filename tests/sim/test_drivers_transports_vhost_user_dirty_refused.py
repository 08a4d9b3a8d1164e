"""Dirty logs that a back end refuses: too small, missing, or without the feature."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from drivers.devices.net import NetPlug
from drivers.transports.vhost_user.constants import F_LOG_ALL, F_PROTOCOL_FEATURES, ProtocolFeature
from drivers.transports.vhost_user.messages import emit
from drivers.transports.vhost_user.payloads import U64, Log, MemRegion, SingleRegion, VringFd, VringState
from drivers.transports.vhost_user.session import PROTOCOL_FEATURES
from rings.features import RingFeature, mask
from rings.observers.dirty import SPAN, dirty_log_size
from support.rigs.dirty_log import DirtyFile, bench_, files, logging, needed
from support.rigs.vhost_user import NUM, FrontEnd, HungUp, R, begin, request
from vnet.linux.ipc import connect
from vnet.ports.packet.memory import MemoryPort
from vnet.system.exports import DeviceExport, open_exports
from vnet.testing import fds, maps
from vnet.topology import parse_device

__all__ = ["files"]  # a fixture


PAGE = 4096
OFFSET = 2 * PAGE
"""Where the log starts in its file."""
DISK = 1 << 20


async def acknowledged(front: FrontEnd, fd: int, size: int, offset: int = 0) -> bool:
    """Give a log as those do that want an acknowledgement instead of the empty answer."""
    await front.send(emit(R.SET_LOG_BASE, Log(size, offset), need_reply=True), [fd])
    answer, _ = await front.socket.receive(20)
    assert answer[:12] == emit(R.SET_LOG_BASE, U64(0))[:4] + bytes((5, 0, 0, 0, 8, 0, 0, 0))
    return not any(answer[12:])


@pytest.mark.hostile("V10", "V19")
async def test_logs_that_are_too_small_or_not_there_are_refused(files: list[DirtyFile]) -> None:
    async with bench_(files) as bench, bench.front() as front:
        await front.bring_up()
        size = needed(front)
        files.append(file := DirtyFile(2 * size))
        before = fds(), maps()
        end = OFFSET + file.size
        for bad in ((0, 0), (8, 0), (dirty_log_size(front.region.addr + front.region.size) - 1, OFFSET)):
            assert not await acknowledged(front, file.fd, *bad)
        for bad in (
            (size, end - size + 1),
            (size, 1 << 40),
            ((1 << 64) - 1, PAGE),
            (1 << 63, 0),
            (size, (1 << 64) - 8),
        ):
            assert not await acknowledged(front, file.fd, *bad)
        for fd in (front.rings[0].kick_fd, front.rings[0].call_fd):
            assert not await acknowledged(front, fd, size)
        await trio.testing.wait_all_tasks_blocked()
        assert (fds(), maps()) == before
        for _ in range(50):
            assert await acknowledged(front, file.fd, size, OFFSET)
        await front.log(True)
        for _ in range(50):
            assert await acknowledged(front, file.fd, 2 * size, OFFSET)
            assert await acknowledged(front, file.fd, size, OFFSET)
        await trio.testing.wait_all_tasks_blocked()
        assert (fds(), maps()) == (before[0] + 1, before[1] + 1)
        # The used ring beyond its end, by the address for the log.
        addrs = attrs.evolve(front.addrs(front.rings[0], log=True), log=size * SPAN)
        assert not await front.tell(R.SET_VRING_ADDR, addrs)
        assert not await front.tell(R.SET_VRING_ADDR, attrs.evolve(addrs, log=(1 << 64) - 2))
        assert not await front.tell(R.SET_VRING_ADDR, attrs.evolve(addrs, flags=2))
        # Memory beyond its end.
        more = MemRegion(size * SPAN, PAGE, 1 << 46, 0)
        assert not await front.tell(R.ADD_MEM_REG, SingleRegion(more), [front.memory.fd])
        assert (await request(front, front.rings[0], 1, 0, bytes(512)))[-1] == 0
        assert file.take()
    assert bench.errors == []


@pytest.mark.hostile("V10", "V19")
async def test_a_ring_set_before_a_log_that_does_not_cover_it_does_not_start(files: list[DirtyFile]) -> None:
    async with bench_(files) as bench, bench.front() as front:
        await front.negotiate()
        files.append(file := DirtyFile(needed(front)))
        assert await front.share()
        [ring] = front.rings
        assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES | 1 << F_LOG_ALL))
        await front.log_to(file.fd, file.size, OFFSET)
        beyond = attrs.evolve(front.addrs(ring, log=True), log=file.size * SPAN)
        assert await front.tell(R.SET_VRING_NUM, VringState(0, NUM))
        assert await front.tell(R.SET_VRING_ADDR, beyond)
        assert not await front.tell(R.SET_VRING_KICK, VringFd(0), [ring.kick_fd])
        assert await front.start(ring)


@pytest.mark.hostile("V09", "V19")
@pytest.mark.parametrize("allowed", [False, True])
async def test_only_a_log_sealed_against_shrinking_is_taken(allowed: bool, files: list[DirtyFile]) -> None:
    async with bench_(files, allow_unsealed=allowed) as bench, bench.front() as front:
        await front.bring_up()
        files.append(file := DirtyFile(needed(front), sealed=False))
        assert await acknowledged(front, file.fd, file.size, OFFSET) == allowed
        if not allowed:
            with pytest.raises(HungUp):  # an empty answer could not say so
                await front.log_to(file.fd, file.size, OFFSET)


@pytest.mark.hostile("V04", "V19")
@pytest.mark.parametrize("count", [0, 2])
async def test_a_log_comes_with_one_file_descriptor(count: int, files: list[DirtyFile]) -> None:
    async with bench_(files) as bench, bench.front() as front:
        await front.bring_up()
        files.append(file := DirtyFile(needed(front)))
        await front.send(emit(R.SET_LOG_BASE, Log(file.size, OFFSET)), [file.fd] * count)
        assert await front.hung_up()


@pytest.mark.hostile("V10")
async def test_a_front_end_without_the_log_feature_can_not_have_one(files: list[DirtyFile]) -> None:
    async with bench_(files) as bench, bench.front() as front:
        await front.bring_up(PROTOCOL_FEATURES & ~mask((ProtocolFeature.LOG_SHMFD,)))
        assert not await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES | 1 << F_LOG_ALL))
        assert not await front.tell(R.SET_VRING_ADDR, front.addrs(front.rings[0], log=True))
        assert not await front.tell(R.SET_LOG_FD, None, [front.rings[0].call_fd])
        files.append(file := DirtyFile(needed(front)))
        assert not await acknowledged(front, file.fd, file.size, OFFSET)
        assert (await request(front, front.rings[0], 1, 0, bytes(512)))[-1] == 0


@pytest.mark.hostile("V16", "V19")
async def test_a_front_end_that_goes_while_it_logs_leaves_nothing(files: list[DirtyFile]) -> None:
    async with bench_(files) as bench:
        for _ in range(3):
            async with bench.front() as front, logging(front, files):
                begin(front, front.rings[0], 1, 0, bytes(512))
        async with bench.front() as front:
            await front.bring_up()
            assert (await request(front, front.rings[0], 1, 0, bytes(512)))[-1] == 0
    assert bench.errors == []


@pytest.mark.parametrize("mac", ["52:54:00:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"])
async def test_a_network_says_where_a_migrated_station_is_and_a_disk_offers_no_such_thing(
    mac: str, tmp_path: Path
) -> None:
    address = bytes.fromhex(mac.replace(":", ""))
    requests = U64(int.from_bytes(address, "little"))
    export = DeviceExport(parse_device({"type": "net", "device": {"kind": "memory"}}, "test"), tmp_path / "net")
    async with open_exports({"net": export}) as served:
        plug = served["net"].end.settings
        assert isinstance(plug, NetPlug)
        assert isinstance(plug.port, MemoryPort)
        front = FrontEnd(await connect(tmp_path / "net"), mask((RingFeature.VERSION_1,)), rings=2)
        await front.bring_up(PROTOCOL_FEATURES | mask((ProtocolFeature.RARP,)))
        assert await front.tell(R.SEND_RARP, requests) == (not address[0] & 1 and any(address))
        frames = []
        with suppress(trio.WouldBlock):
            while True:
                frames.append(plug.port.receive_nowait()[1])
        if mac.startswith("52"):
            [frame] = frames
            assert len(frame) == 60
            assert frame[:14] == b"\xff" * 6 + address + b"\x80\x35"
            assert frame[14:42] == bytes.fromhex("0001080006040003") + (address + bytes(4)) * 2
        else:
            assert not frames
        front.close()
    async with bench_() as bench, bench.front() as front:
        await front.bring_up()
        assert not await front.tell(R.SEND_RARP, requests)
