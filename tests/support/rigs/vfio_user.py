"""A vfio-user client by hand: every command as a test wants it, its own memory and eventfds, a driver on one ring."""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import trio
import trio.lowlevel
import trio.testing

from drivers.bus.back import Identity
from drivers.bus.vhost import VhostBus, VhostDriver
from drivers.carriers.framing import ProtocolError
from drivers.contracts.ipc import Handle
from drivers.devices.blk import BLK, BlkPlug
from drivers.transports.pci import VirtioEpf
from drivers.transports.pci.back import BAR, COMMON_AT, NOTIFY_AT
from drivers.transports.pci.registers import SIZES, Common
from rings.features import RingFeature, mask
from rings.formats import FORMATS
from rings.ids import DeviceId
from rings.layout import RingAddrs
from rings.status import Status
from support.rigs.ring import get
from vnet.link.base import Link
from vnet.link.ideal import IdealLink
from vnet.linux.ipc import FileHandle, LocalIpc, UnixSocket, socket_pair
from vnet.linux.memory import HostMemory
from vnet.linux.poller import Poller
from vnet.pcie.config_space import COMMAND, PciCommand
from vnet.pcie.epc import EndpointController
from vnet.testing import fds, maps
from vnet.testing.blk import StubbornStore
from vnet.vfio_user.accesses import RegionRead, RegionWrite
from vnet.vfio_user.constants import Command, HeaderFlag, IrqSet, IrqType, Region
from vnet.vfio_user.messages import HEADER_SIZE, emit
from vnet.vfio_user.payloads import DmaMap, DmaUnmap, Payload, SetIrqs, Version
from vnet.vfio_user.server import FunctionServer, VfioUserRoot
from vnet.vfio_user.session import Doorbell

__all__ = ["Answer", "Bench", "C", "Client", "open_bench", "open_function", "plug"]

C = Command
RING_FIELDS = Common.QUEUE_DESC, Common.QUEUE_DRIVER, Common.QUEUE_DEVICE
NUM = 8
MIB = 1 << 20
FEATURES = mask((RingFeature.VERSION_1,))
COMMAND_BITS = PciCommand.MEMORY | PciCommand.BUS_MASTER


@attrs.frozen
class Answer:
    """A reply: its errno, 0 if it is none, its body, and its file descriptors."""

    error: int
    body: bytes
    handles: list[Handle]


class Client:
    """One connection, with a driver of the disk once `bring_up` is done."""

    def __init__(self, socket: UnixSocket) -> None:
        self.socket = socket
        self.memory = HostMemory(MIB, name="client")
        self.call_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        form = FORMATS["split"]
        self.addrs = RingAddrs(*(self.memory.alloc(size, 4096).addr for size in form.sizes(NUM)))
        self.ring = form.driver(self.memory, NUM, self.addrs, event_idx=False)
        self._number = 0

    async def send(self, data: bytes, given: Sequence[int] = ()) -> None:
        await self.socket.send(data, [FileHandle(fd) for fd in given])

    async def receive(self) -> Answer:
        """Return the next reply. Raises EOFError if the server hung up."""
        data, handles = b"", list[Handle]()
        size = HEADER_SIZE
        while len(data) < size:
            part, got = await self.socket.receive(size - len(data))
            if not part:
                raise EOFError
            data += part
            handles += got
            if len(data) == HEADER_SIZE:
                _, _, size, flags, error = struct.unpack("<HHIII", data)
                assert flags & HeaderFlag.REPLY
                assert bool(flags & HeaderFlag.ERROR) == bool(error)
        return Answer(error, data[HEADER_SIZE:], handles)

    async def ask(self, command: int, payload: Payload | bytes | None = None, given: Sequence[int] = ()) -> Answer:
        self._number += 1
        if isinstance(payload, bytes):
            head = struct.pack("<HHIII", self._number, command, HEADER_SIZE + len(payload), 0, 0)
            await self.send(head + payload, given)
        else:
            await self.send(emit(self._number, command, payload), given)
        return await self.receive()

    async def do(self, command: int, payload: Payload | bytes | None = None, given: Sequence[int] = ()) -> bytes:
        """Return the body of a reply without an error."""
        answer = await self.ask(command, payload, given)
        assert not answer.error, os.strerror(answer.error)
        return answer.body

    async def agree(self) -> None:
        await self.do(C.VERSION, Version(0, 1, {"max_msg_fds": 8, "write_multiple": True}))

    def mapping(self, start: int = 0, size: int = MIB, flags: int = 3) -> DmaMap:
        return DmaMap(32, flags, start, self.memory.base + start, size)

    async def share(self, start: int = 0, size: int = MIB) -> None:
        await self.do(C.DMA_MAP, self.mapping(start, size), [self.memory.fd])

    async def unshare(self, start: int = 0, size: int = MIB) -> None:
        await self.do(C.DMA_UNMAP, DmaUnmap(24, 0, self.memory.base + start, size))

    async def read(self, region: int, offset: int, size: int) -> bytes:
        return (await self.do(C.REGION_READ, RegionRead(offset, region, size)))[16:]

    async def write(self, region: int, offset: int, data: bytes) -> None:
        await self.do(C.REGION_WRITE, RegionWrite(offset, region, data))

    async def get(self, field: Common) -> int:
        return int.from_bytes(await self.read(BAR, COMMON_AT + field, SIZES[field]), "little")

    async def set(self, field: Common, value: int) -> None:
        await self.write(BAR, COMMON_AT + field, value.to_bytes(SIZES[field], "little"))

    async def set_irqs(self, flags: IrqSet, index: int, start: int, count: int, given: Sequence[int] = ()) -> Answer:
        return await self.ask(C.DEVICE_SET_IRQS, SetIrqs(20, flags, index, start, count), given)

    async def bring_up(self, *, msix: bool = True) -> None:
        """Everything up to a disk that runs, as a guest's driver does it."""
        for area, size in zip(attrs.astuple(self.addrs), FORMATS["split"].sizes(NUM), strict=True):
            self.memory.view(area, size, True)[:] = bytes(size)
        self.ring = FORMATS["split"].driver(self.memory, NUM, self.addrs, event_idx=False)
        await self.write(Region.CONFIG, COMMAND, COMMAND_BITS.to_bytes(2, "little"))
        await self.set(Common.DEVICE_STATUS, 0)
        while await self.get(Common.DEVICE_STATUS):  # as drivers do: a reset takes time
            await trio.lowlevel.checkpoint()
        await self.set(Common.DEVICE_STATUS, Status.ACKNOWLEDGE | Status.DRIVER)
        for select in range(2):
            await self.set(Common.DRIVER_FEATURE_SELECT, select)
            await self.set(Common.DRIVER_FEATURE, FEATURES >> 32 * select & 0xFFFF_FFFF)
        status = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK
        await self.set(Common.DEVICE_STATUS, status)
        assert await self.get(Common.DEVICE_STATUS) == status
        index, vector = (IrqType.MSIX, 1) if msix else (IrqType.INTX, 0)
        assert not (await self.set_irqs(IrqSet.EVENTFD | IrqSet.TRIGGER, index, vector, 1, [self.call_fd])).error
        await self.set(Common.QUEUE_SELECT, 0)
        await self.set(Common.QUEUE_SIZE, NUM)
        if msix:
            await self.set(Common.QUEUE_MSIX_VECTOR, vector)
            assert await self.get(Common.QUEUE_MSIX_VECTOR) == vector
        for field, address in zip(RING_FIELDS, attrs.astuple(self.addrs), strict=True):
            await self.write(BAR, COMMON_AT + field, address.to_bytes(8, "little"))
        await self.set(Common.QUEUE_ENABLE, 1)
        await self.set(Common.DEVICE_STATUS, status | Status.DRIVER_OK)

    async def ring_doorbell(self) -> None:
        await self.write(BAR, NOTIFY_AT, bytes(2))

    async def request(self, data: bytes | int, kick: Callable[[], object] | None = None) -> bytes:
        """Write ``data`` at sector 8, or read as many bytes; return what came back, the status last."""
        writes = isinstance(data, bytes)
        size = len(data) if isinstance(data, bytes) else data
        header, body, status = self.memory.alloc(16), self.memory.alloc(size), self.memory.alloc(1)
        self.memory.view(header.addr, 16, True)[:] = struct.pack("<IIQ", int(writes), 0, 8)
        self.memory.view(status.addr, 1, True)[:] = b"\xff"
        if isinstance(data, bytes):
            self.memory.view(body.addr, size, True)[:] = data
        readable, writable = [(header.addr, 16)], [(status.addr, 1)]
        (readable if writes else writable).insert(int(writes), (body.addr, size))
        self.ring.enable_cb()
        self.ring.add(readable, writable, 0)
        if self.ring.publish():
            if kick is None:
                await self.ring_doorbell()
            else:
                kick()
        with trio.fail_after(5):
            while get(self.ring) is None:  # noqa: ASYNC110  as a driver that polls
                await trio.sleep(0.01)
        answer = bytes(self.memory.view(body.addr, size)) + bytes(self.memory.view(status.addr, 1))
        for buffer in (header, body, status):
            self.memory.free(buffer)
        return answer

    async def works(self) -> None:
        data = os.urandom(64 << 10)
        assert (await self.request(data))[-1] == 0
        assert await self.request(len(data)) == data + b"\0"

    def called(self) -> int:
        """Interrupts since the last look."""
        try:
            return os.eventfd_read(self.call_fd)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        self.socket.close()
        os.close(self.call_fd)
        self.memory.close()


def plug() -> BlkPlug:
    """A disk of 1 MiB."""
    return BlkPlug(StubbornStore(MIB))


@attrs.define(eq=False)
class Report:
    """Notes what the server tells its owner."""

    troubles: list[str] = attrs.field(factory=list)

    def trouble(self, text: str) -> None:
        self.troubles.append(text)

    def agreed(self) -> None:
        pass


@attrs.define(eq=False)
class Bench:
    """A device as a PCI function, and clients as a test needs them."""

    nursery: trio.Nursery
    server: FunctionServer
    link: Link
    back: VirtioEpf
    troubles: list[str]
    errors: list[Exception] = attrs.field(factory=list)

    async def converse(self, socket: UnixSocket) -> None:
        try:
            await self.server.serve_connection(socket)
        except Exception as exc:  # noqa: BLE001  a test inspects any error
            self.errors.append(exc)

    @asynccontextmanager
    async def client(self, *, agree: bool = True) -> AsyncIterator[Client]:
        ours, theirs = socket_pair()
        self.nursery.start_soon(self.converse, theirs)
        client = Client(ours)
        try:
            if agree:
                await client.agree()
            yield client
        finally:
            client.close()
            while self.server.connected:  # noqa: ASYNC110  there is nothing else to wait for
                await trio.sleep(0.01)

    @asynccontextmanager
    async def another(self) -> AsyncIterator[Client]:
        """A connection besides the one that is served."""
        ours, theirs = socket_pair()
        self.nursery.start_soon(self.converse, theirs)
        client = Client(ours)
        try:
            yield client
        finally:
            client.close()

    async def serves_another(self) -> None:
        """The next client finds everything as it should be."""
        async with self.client() as client:
            await client.share()
            await client.bring_up()
            await client.works()


@asynccontextmanager
async def open_function(
    driver: VhostDriver, identity: Identity, wrap: Callable[[Link], Link] = lambda link: link
) -> AsyncIterator[Bench]:
    """Serve a device as a PCI function."""
    poller = Poller()
    link = wrap(IdealLink("l0"))
    controller = EndpointController(link, name="ep.l0")
    back = VirtioEpf(controller, 0, identity)
    bus = VhostBus()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poller.run)
        bus.register_driver(driver)
        await nursery.start(bus.serve)
        bus.register_device(back.device)
        await back.device.ready.wait()
        back.bind()
        report = Report()
        root = VfioUserRoot(LocalIpc(poller), {0: report})
        server = root.servers[0]
        server.doorbells = [Doorbell(BAR, NOTIFY_AT)]
        root.attach(link)
        controller.start()
        yield Bench(nursery, server, link, back, report.troubles)
        controller.stop()
        nursery.cancel_scope.cancel()
    poller.close()


@asynccontextmanager
async def open_bench(plug: BlkPlug, wrap: Callable[[Link], Link] = lambda link: link) -> AsyncIterator[Bench]:
    """Serve a disk. Nothing is left afterwards: neither descriptors nor mappings."""
    before = fds(), maps()
    driver = BLK.vhost_driver(lambda device: plug)
    async with open_function(driver, Identity(DeviceId.BLOCK, "disk0"), wrap) as bench:
        yield bench
    assert fds() <= before[0]
    assert maps() <= before[1]
    for error in bench.errors:
        assert isinstance(error, ProtocolError) or type(error).__name__ == "TransportLost", error
