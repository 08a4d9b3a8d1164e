"""Every protocol feature that a device offers works for that device, with rings of either format."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import trio

from drivers.transports.vhost_user.constants import F_LOG_ALL, F_PROTOCOL_FEATURES, ProtocolFeature
from drivers.transports.vhost_user.payloads import U64, Config, Inflight, MemTable, SingleRegion, VringState
from drivers.transports.vhost_user.session import PROTOCOL_FEATURES
from rings.features import RingFeature, mask
from rings.memory import Addr
from rings.observers.dirty import dirty_log_size
from support.rigs.ring import get
from support.rigs.vhost_user import FrontEnd, R
from vnet.linux.ipc import FileHandle, connect
from vnet.system.exports import DeviceExport, Served, open_exports
from vnet.testing import until
from vnet.topology import parse_device

F = ProtocolFeature
NUM = 8
Segments = list[tuple[Addr, int]]


def segment(front: FrontEnd, data: bytes | int) -> tuple[Addr, int]:
    buffer = front.buffer(data)
    return buffer.addr, buffer.size


def blk(front: FrontEnd) -> tuple[int, Segments, Segments]:
    return 0, [segment(front, bytes(16))], [segment(front, 512), segment(front, 1)]


def net(front: FrontEnd) -> tuple[int, Segments, Segments]:
    return 1, [segment(front, bytes(12) + bytes.fromhex("ffffffffffff 020000000001 88b5") + bytes(46))], []


def scsi(front: FrontEnd) -> tuple[int, Segments, Segments]:
    inquiry = bytes((1, 0, 0x40, 0, 0, 0, 0, 0)) + bytes(11) + bytes((0x12, 0, 0, 0, 36)) + bytes(27)
    return 2, [segment(front, inquiry)], [segment(front, 108), segment(front, 36)]


def rpmsg(front: FrontEnd) -> tuple[int, Segments, Segments]:
    header = struct.pack("<IIIHH", 1024, 1025, 0, 4, 0)
    return 1, [segment(front, header + b"text")], []


Request = Callable[[FrontEnd], tuple[int, Segments, Segments]]
TYPES: Mapping[str, tuple[Request, dict[str, object], int]] = {
    "blk": (blk, {"size": 1}, 1),
    "net": (net, {"kind": "memory"}, 2),
    "scsi": (scsi, {"luns": [{"store": "memory", "size": 1}]}, 3),
    "rpmsg": (rpmsg, {}, 2),
}
"""For each device type: one request and its ring, options of the device, and the number of rings."""


class Peer:
    """A front end of one device that agreed on some protocol features."""

    def __init__(self, front: FrontEnd, kind: str, agreed: int) -> None:
        self.front, self.request, self.agreed = front, TYPES[kind][0], agreed
        self.area: tuple[Inflight, FileHandle] | None = None

    def has(self, feature: ProtocolFeature) -> bool:
        return bool(self.agreed >> feature & 1)

    async def bring_up(self) -> None:
        """Use everything that was agreed on before rings start, and start them."""
        front, count = self.front, len(self.front.rings)
        await front.negotiate(self.agreed)
        assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
        if self.has(F.MQ):
            assert (await front.ask(R.GET_QUEUE_NUM)).value >= 1
        if self.has(F.CONFIG):
            assert len((await front.ask(R.GET_CONFIG, Config(0, 0, bytes(8)))).data) == 8
        if self.has(F.CONFIGURE_MEM_SLOTS):
            assert (await front.ask(R.GET_MAX_MEM_SLOTS)).value >= 1
            assert await front.tell(R.ADD_MEM_REG, SingleRegion(front.region), [front.memory.fd])
        else:
            assert await front.tell(R.SET_MEM_TABLE, MemTable((front.region,)), [front.memory.fd])
        if self.has(F.INFLIGHT_SHMFD):
            if self.area is None:
                given = await front.ask(R.GET_INFLIGHT_FD, Inflight(0, 0, count, 2 * NUM))
                [handle] = front.passed
                assert isinstance(handle, FileHandle)
                self.area = given, handle
            assert await front.tell(R.SET_INFLIGHT_FD, self.area[0], [self.area[1].fileno()])
        for ring in front.rings:
            assert await front.start(ring)
        if self.has(F.STATUS):
            assert await front.tell(R.SET_STATUS, U64(15))
            assert (await front.ask(R.GET_STATUS)).value == 15

    async def exchange(self) -> None:
        """One request is answered."""
        index, readable, writable = self.request(self.front)
        ring = self.front.rings[index]
        ring.queue.enable_cb()
        ring.queue.add(readable, writable, 0)
        if ring.queue.publish():
            ring.kick()
        with trio.fail_after(5):
            while get(ring.queue) is None:  # noqa: ASYNC110
                await trio.sleep(0.01)

    async def use_the_rest(self) -> None:
        """Messages allowed while rings run, or for stopped rings."""
        front = self.front
        if self.has(F.LOG_SHMFD):
            size = dirty_log_size(front.region.addr + front.region.size)
            log = front.buffer(size)
            await front.log_to(front.memory.fd, size, log.addr - front.region.addr)
            assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES | 1 << F_LOG_ALL))
            await self.exchange()
            assert any(front.memory.view(log.addr, size)) or self.request in (net, rpmsg)
            assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
            await self.exchange()
        if self.has(F.RARP):
            assert await front.tell(R.SEND_RARP, U64(2))
        for ring in front.rings:
            base = await front.ask(R.GET_VRING_BASE, VringState(ring.index, 0))
            assert await front.start(ring, base.num)
        if self.has(F.STATUS):
            assert await front.tell(R.SET_STATUS, U64(15))
        await self.exchange()

    async def come_back(self, path: Path, served: Served) -> None:
        """The connection is lost; the rings and the area stay."""
        self.front.socket.close()
        await until(lambda: not served.server.connected)
        self.front.socket = await connect(path)
        await self.bring_up()
        await self.exchange()

    async def reset(self) -> None:
        """The device is reset by the message, and a driver begins anew."""
        front = self.front
        assert await front.tell(R.RESET_DEVICE)
        for ring in front.rings:
            ring.queue = ring.driver()
        if self.area is not None:
            self.area[1].close()
            self.area = None
        assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
        for ring in front.rings:
            assert await front.start(ring)
        await self.exchange()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.virtio("RFB-DEV-1")
async def test_every_device_offers_version_1(kind: str, tmp_path: Path) -> None:
    _, options, rings = TYPES[kind]
    path = tmp_path / "socket"
    async with open_exports({kind: DeviceExport(parse_device({"type": kind, "device": options}, "test"), path)}):
        front = FrontEnd(await connect(path), 0, rings=rings, num=NUM)
        assert (await front.ask(R.GET_FEATURES)).value >> RingFeature.VERSION_1 & 1
        front.close()


SINGLE = [feature for feature in F if PROTOCOL_FEATURES >> feature & 1 or feature is F.RARP]


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("feature", [*SINGLE, None], ids=lambda feature: feature.name if feature else "all")
async def test_offered_features_can_be_used(
    kind: str, packed: bool, feature: ProtocolFeature | None, tmp_path: Path
) -> None:
    _, options, rings = TYPES[kind]
    spec = parse_device({"type": kind, "ring": "packed" if packed else "split", "device": options}, "test")
    path = tmp_path / "socket"
    features = mask((RingFeature.VERSION_1, RingFeature.EVENT_IDX, RingFeature.INDIRECT_DESC))
    features |= packed << RingFeature.RING_PACKED
    async with open_exports({kind: DeviceExport(spec, path)}) as served:
        front = FrontEnd(await connect(path), features, rings=rings, num=NUM)
        offered = (await front.ask(R.GET_PROTOCOL_FEATURES)).value
        agreed = offered if feature is None else mask((F.REPLY_ACK, feature)) & offered
        peer = Peer(front, kind, agreed)
        await peer.bring_up()
        await peer.exchange()
        await peer.use_the_rest()
        await peer.come_back(path, served[kind])
        if peer.has(F.RESET_DEVICE) and feature is not None:
            await peer.reset()
        assert not any(queue.ring is not None and queue.ring.broken for queue in served[kind].back.device.queues)
        if peer.area is not None:
            peer.area[1].close()
        front.close()
