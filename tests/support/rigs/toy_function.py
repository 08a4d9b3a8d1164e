"""A vfio-user server of a disk as a virtio-pci function, whose faults a test chooses: the peer of a checker."""

from __future__ import annotations

import errno
import mmap
import os
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import trio

from support.rigs.checked import check_peer, open_served, receive
from vnet.check.kinds.blk import SECTOR
from vnet.check.pci import F, PciFront
from vnet.check.peer import Peer
from vnet.check.trial import Options
from vnet.check.verdicts import FAILURES, Level, Result, Verdict

__all__ = [
    "CAPS",
    "CONFIG",
    "NOTIFY_AT",
    "Access",
    "Fault",
    "ToyFunction",
    "check_catches",
    "check_function_with",
    "patch",
]

HEADER = struct.Struct("<HHIII")
CONFIG, BAR, TABLE = 7, 0, 2
ISR_AT, DEVICE_AT, NOTIFY_AT, SIZE = 0x100, 0x200, 0x300, 0x1000
CAPS = {"express": 0x40, "msix": 0x54, "common": 0x60, "notify": 0x70, "isr": 0x84, "device": 0x94, "access": 0xA4,
        "shared": 0xB8, "shared2": 0xD0, "vendor": 0xE8}  # fmt: skip
"""Capabilities in the order of their list."""
FEATURES = 1 << 32 | 1 << 38 | 1 << 40
VECTORS, NO_VECTOR, QUEUE = 3, 0xFFFF, 16
FIELDS = {field.value[0]: field for field in F}


@attrs.frozen
class Access:
    """An access to a region; ``value`` is None for a read."""

    region: int
    offset: int
    size: int
    value: int | None


@attrs.frozen
class Fault:
    """Faults of a function."""

    word: str = ""
    """A word that the parts compare."""
    space: Mapping[int, bytes] = attrs.field(factory=dict)
    """Bytes of the configuration space, by offset."""
    lies: Mapping[F, int] = attrs.field(factory=dict)
    """Values of fields of the common configuration."""
    wedges: Callable[[Access, ToyFunction], bool] = lambda access, toy: False
    """Whether an access stops the whole server for ever."""


def patch(name: str, offset: int, data: bytes) -> Fault:
    """Return a fault: a capability with other bytes."""
    return Fault(space={CAPS[name] + offset: data})


def _space() -> bytearray:
    space = bytearray(256)
    space[0:4], space[6], space[8], space[0x2C:0x30] = struct.pack("<HH", 0x1AF4, 0x1042), 0x10, 1, b"\xf4\x1a\x42\0"
    space[0x18], space[0x34], space[0x3D] = 4, CAPS["express"], 1
    bodies = {
        "express": b"\x10\0" + struct.pack("<HIHHII", 2, 1 << 28, 0, 0, 0, 0)[:18],
        "msix": b"\x11\0" + struct.pack("<HII", VECTORS - 1, TABLE, 0x800 | TABLE),
        "common": _vendor(16, 1, 0, 0x3C),
        "notify": _vendor(20, 2, NOTIFY_AT, 0x100) + struct.pack("<I", 4),
        "isr": _vendor(16, 3, ISR_AT, 1),
        "device": _vendor(16, 4, DEVICE_AT, 0x80),
        "access": _vendor(20, 5, 0, 0) + bytes(4),
        "shared": _vendor(24, 8, 0, 0x100, 1) + bytes(8),
        "shared2": _vendor(24, 8, 0x100, 0x100, 2) + bytes(8),
        "vendor": b"\x09\0" + struct.pack("<BBH", 8, 9, 0x1234) + bytes(2),
    }
    names = list(CAPS)
    for name, after in zip(names, [*names[1:], None], strict=True):
        at = CAPS[name]
        space[at : at + len(bodies[name])] = bodies[name]
        space[at + 1] = CAPS[after] if after else 0
    return space


def _vendor(size: int, kind: int, offset: int, length: int, ident: int = 0) -> bytes:
    return struct.pack("<BBBBBBxxII", 9, 0, size, kind, BAR, ident, offset, length)


class ToyFunction:
    """One connection."""

    def __init__(self, connected: socket.socket, peer: ToyFunctionPeer, fault: Fault) -> None:
        self.socket, self.peer, self.fault = connected, peer, fault
        self.maps: list[tuple[int, int, memoryview]] = []
        self.fds: dict[tuple[int, int], int] = {}
        self.power_up()

    def power_up(self) -> None:
        self.space = _space()
        for at, data in self.fault.space.items():
            self.space[at : at + len(data)] = data
        self.bars = [0, 0, 0]
        self.table = bytearray(SIZE)
        if self.fault.word != "unmasked":
            for vector in range(VECTORS):
                self.table[16 * vector + 12] = 1
        self.reset()

    def reset(self) -> None:
        kept = self.fault.word
        enabled = self.queue[F.QUEUE_ENABLE] if kept == "keeps enable" else 0
        vectors = (self.config_vector, self.queue[F.QUEUE_MSIX_VECTOR]) if kept == "keeps vectors" else (NO_VECTOR,) * 2
        self.fields = dict.fromkeys(F, 0)
        self.config_vector = vectors[0]
        self.driver = [0] * 4
        self.isr = self.last = 0
        self.queue = {field: 0 for field in F if field.name.startswith("QUEUE_")}
        self.queue |= {F.QUEUE_SIZE: QUEUE, F.QUEUE_ENABLE: enabled, F.QUEUE_MSIX_VECTOR: vectors[1]}

    queue: dict[F, int] = dict.fromkeys(F, 0)
    config_vector = NO_VECTOR

    # Messages

    async def serve(self) -> None:
        try:
            while True:
                head, fds = await receive(self.socket, HEADER.size)
                if len(head) < HEADER.size:
                    return
                number, command, size, flags, _ = HEADER.unpack(head)
                body, more = await receive(self.socket, size - HEADER.size)
                if len(body) < size - HEADER.size:
                    return
                error, reply = self.handle(command, body, fds + more)
                if self.peer.wedged:
                    await trio.sleep_forever()
                if not flags & 16:
                    kind = 1 | (32 if error else 0)
                    self.socket.send(HEADER.pack(number, command, 16 + len(reply), kind, error) + reply)
        except OSError:
            pass
        finally:
            self.socket.close()
            for fd in self.fds.values():
                os.close(fd)

    def handle(self, command: int, body: bytes, fds: list[int]) -> tuple[int, bytes]:
        match command:
            case 1:
                return 0, struct.pack("<HH", 0, 0) + b"{}\0"
            case 2:
                _, _, offset, addr, size = struct.unpack("<IIQQQ", body)
                view = memoryview(mmap.mmap(fds[0], offset + size))[offset:]
                os.close(fds[0])
                self.maps.append((addr, size, view))
            case 4:
                return 0, struct.pack("<IIII", 16, 3, 9, 5)
            case 5:
                [index] = struct.unpack_from("<I", body, 8)
                size = {BAR: SIZE, TABLE: SIZE, CONFIG: 256}.get(index, 0)
                return 0, struct.pack("<IIIIQQ", 32, 3, index, 0, size, 0)
            case 7:
                [index] = struct.unpack_from("<I", body, 8)
                return 0, struct.pack("<IIII", 16, 1, index, {0: 1, 2: VECTORS}.get(index, 0))
            case 8:
                _, _, kind, start, _ = struct.unpack_from("<IIIII", body)
                for at, fd in enumerate(fds):
                    former = self.fds.pop((kind, start + at), None)
                    if former is not None:
                        os.close(former)
                    self.fds[kind, start + at] = fd
            case 9:
                offset, region, size = struct.unpack("<QII", body)
                value = self.access(Access(region, offset, size, None))
                return (
                    (errno.EINVAL, b"")
                    if value is None
                    else (0, body + (value & (1 << 8 * size) - 1).to_bytes(size, "little"))
                )
            case 10:
                offset, region, size = struct.unpack_from("<QII", body)
                self.access(Access(region, offset, size, int.from_bytes(body[16:], "little")))
                return 0, body[:16]
            case 13 if self.fault.word != "no function reset":
                self.power_up()
        return 0, b""

    # Registers

    def access(self, one: Access) -> int | None:
        if self.fault.wedges(one, self):
            self.peer.wedged = True
        if one.region == CONFIG:
            if one.value is None and one.size == 1 and self.fault.word == "no bytes":
                return None
            return self.read_space(one) if one.value is None else self.write_space(one.offset, one.size, one.value)
        if one.region == TABLE:
            return int.from_bytes(self.table[one.offset : one.offset + one.size], "little")
        return self.bar(one.offset, one.size, one.value)

    def bar(self, offset: int, size: int, value: int | None) -> int:
        if offset >= NOTIFY_AT and value is not None and size >= 2 and offset == NOTIFY_AT:
            self.serve_queue()
        if DEVICE_AT <= offset < NOTIFY_AT:
            self.reads = self.reads + 1 if self.fault.word == "config changes" else 1
            return 2048 + self.reads if offset == DEVICE_AT else 2048 >> 8 * (offset - DEVICE_AT)
        if offset == ISR_AT and value is None:
            kept, self.isr = self.isr, self.isr if self.fault.word == "ISR stays" else 0
            return kept
        place = max((at for at in FIELDS if at <= offset), default=0)
        field, part = FIELDS[place], offset - place
        if offset < 0x3C and value is None:
            return self.get(field) >> 8 * part
        if offset < 0x3C and value is not None:
            self.set(field, part, size, value)
        return 0

    reads = 0

    def get(self, field: F) -> int:
        word = self.fault.word
        if field in self.fault.lies:
            return self.fault.lies[field]
        match field:
            case F.DEVICE_FEATURE:
                select = self.fields[F.DEVICE_FEATURE_SELECT]
                return (
                    FEATURES >> 32 * (select & 1 if word == "words repeat" else select) & 0xFFFF_FFFF
                    if select < 99 or word == "words repeat"
                    else 0
                )
            case F.DRIVER_FEATURE:
                select = self.fields[F.DRIVER_FEATURE_SELECT]
                return self.driver[select] if select < 4 and word != "no driver words" else 0
            case F.NUM_QUEUES:
                return 1
            case F.CONFIG_MSIX_VECTOR:
                return self.config_vector
        if field in self.queue and field is not F.QUEUE_SELECT:
            if self.fields[F.QUEUE_SELECT]:
                return 16 if word == "phantom queue" and field is F.QUEUE_SIZE else 0
            if field is F.QUEUE_RESET and word == "queue reset stays" and self.queue[F.QUEUE_ENABLE] and self.was_reset:
                return 1
            return self.queue[field]
        return self.fields[field]

    was_reset = False

    def set(self, field: F, part: int, size: int, value: int) -> None:
        word = self.fault.word
        if field in self.queue and field is not F.QUEUE_SELECT and self.fields[F.QUEUE_SELECT]:
            return
        match field:
            case F.DEVICE_STATUS if not value:
                used, after = self.queue[F.QUEUE_DEVICE], self.last + 1
                if word != "no reset":
                    self.reset()
                if word == "late" and used:
                    self.peer.nursery.start_soon(self.move_index_late, used, after)
            case F.DEVICE_STATUS:
                offered = sum(one << 32 * at for at, one in enumerate(self.driver)) & ~FEATURES
                refused = value & 8 and offered and word != "takes any feature"
                self.fields[field] = value & ~8 if refused else value
            case F.DRIVER_FEATURE if self.fields[F.DRIVER_FEATURE_SELECT] < 4:
                self.driver[self.fields[F.DRIVER_FEATURE_SELECT]] = value
            case F.CONFIG_MSIX_VECTOR:
                self.config_vector = self.vector(value)
            case F.QUEUE_MSIX_VECTOR:
                self.queue[field] = self.vector(value)
            case F.QUEUE_RESET if value == 1:
                self.was_reset = True
                if word != "no queue reset":
                    enabled = int(word == "queue stays enabled")
                    self.queue[F.QUEUE_ENABLE], self.queue[F.QUEUE_SIZE] = enabled, QUEUE
                    self.last = self.last if word == "index stays" else 0
            case F.QUEUE_DESC | F.QUEUE_DRIVER | F.QUEUE_DEVICE if not self.queue[F.QUEUE_ENABLE]:
                if not (word == "no halves" and part == 4 and not self.queue[field]):
                    mask = (1 << 8 * size) - 1 << 8 * part
                    self.queue[field] = self.queue[field] & ~mask | value << 8 * part & mask
            case F.QUEUE_SIZE if not self.queue[F.QUEUE_ENABLE]:
                self.queue[field] = value
            case F.QUEUE_ENABLE if value == 1:
                self.queue[field] = 1
            case F.DEVICE_FEATURE_SELECT | F.DRIVER_FEATURE_SELECT | F.QUEUE_SELECT:
                self.fields[field] = value

    async def move_index_late(self, used: int, index: int) -> None:
        """Write the used index of a ring after its reset."""
        await trio.sleep(0.001)
        self.view(used, 4)[2:4] = index.to_bytes(2, "little")

    def vector(self, value: int) -> int:
        word = self.fault.word
        if word == "one vector" and value < VECTORS:
            return 0
        return value if value < VECTORS or word == "any vector" else 0 if word == "no 0xffff" else NO_VECTOR

    # Configuration space

    def read_space(self, one: Access) -> int:
        access = CAPS["access"]
        if one.offset == access + 16:
            place, size = struct.unpack_from("<II", self.space, access + 8)
            good = self.space[access + 4] == BAR and size in (1, 2, 4) and place + size <= SIZE
            return self.bar(place, size, None) if good and self.fault.word != "no access by reads" else 0
        data = bytearray(self.space)
        if self.fault.word != "no interrupt status" and self.isr and self.space[CAPS["msix"] + 3] < 0x80:
            data[6] |= 8
        return int.from_bytes(data[one.offset : one.offset + one.size], "little")

    def write_space(self, offset: int, size: int, value: int) -> int:
        access, word = CAPS["access"], self.fault.word
        if offset == access + 16:
            place, count = struct.unpack_from("<II", self.space, access + 8)
            if (
                self.space[access + 4] == BAR
                and count in (1, 2, 4)
                and place + count <= SIZE
                and word != "no access by writes"
            ):
                self.bar(place, count, value & (1 << 8 * count) - 1)
            return 0
        pages = -SIZE & 0xFFFF_FFFF
        masks = {
            0: 0xFFFF if word == "writable ids" else 0,
            4: 0 if word == "stuck command" else 0x406,
            6: 0xFF if word == "writable status" else 0,
            0x10: 0xFFFF_FF00 if word == "wrong size" else pages,
            0x18: pages,
            0x1C: 0xFFFF_FFFF,
            CAPS["msix"] + 2: 0 if word == "stuck control" else 0xC000,
            CAPS["express"] + 8: 0x7FFF,
            access + 4: 0xFF,
            access + 8: 0xFFFF_FFFF,
            access + 12: 0xFFFF_FFFF,
        }
        before = int.from_bytes(self.space[offset : offset + size], "little")
        mask = masks.get(offset, 0)
        self.space[offset : offset + size] = (before & ~mask | value & mask).to_bytes(size, "little")
        if offset == CAPS["express"] + 8 and value & 0x8000 and word != "no FLR":
            self.power_up()
        return 0

    # The queue

    def view(self, addr: int, size: int) -> memoryview:
        for start, length, view in self.maps:
            if start <= addr and addr + size <= start + length:
                return view[addr - start : addr - start + size]
        return memoryview(bytearray(size))

    def serve_queue(self) -> None:
        word, queue = self.fault.word, self.queue
        ready = self.fields[F.DEVICE_STATUS] & 4 and (queue[F.QUEUE_ENABLE] or word == "serves any queue")
        mastering = self.space[4] & 4 or word == "no bus mastering"
        if not ready or not mastering or not queue[F.QUEUE_SIZE]:
            return
        num = queue[F.QUEUE_SIZE]
        avail = self.view(queue[F.QUEUE_DRIVER], 6 + 2 * num)
        while self.last != int.from_bytes(avail[2:4], "little"):
            at = 4 + 2 * (self.last % num)
            if not self.publish(int.from_bytes(avail[at : at + 2], "little"), num):
                return

    def publish(self, head: int, num: int) -> bool:
        """Answer a request with success, or latch NEEDS_RESET after a chain that does not end."""
        index, written = head, 0
        for _ in range(num):
            addr, size, flags, index = struct.unpack("<QIHH", self.view(self.queue[F.QUEUE_DESC] + 16 * index, 16))
            if flags & 2:
                self.view(addr, size)[:] = bytes(size)
                written += size
            if not flags & 1:
                break
        else:
            self.fields[F.DEVICE_STATUS] |= 64
            self.isr |= 0 if self.fault.word == "no ISR" else 2
            self.interrupt(self.config_vector)
            return False
        used = self.view(self.queue[F.QUEUE_DEVICE], 4 + 8 * num)
        place = 4 + 8 * (self.last % num)
        used[place : place + 8] = struct.pack("<II", head, written or SECTOR + 1)
        self.last = self.last + 1 & 0xFFFF
        used[2:4] = self.last.to_bytes(2, "little")
        if self.space[CAPS["msix"] + 3] < 0x80:
            self.isr |= 0 if self.fault.word == "no ISR" else 1
            self.notify(0, 0)
        else:
            self.interrupt(self.queue[F.QUEUE_MSIX_VECTOR])
        return True

    def interrupt(self, vector: int) -> None:
        if vector != NO_VECTOR or self.fault.word == "always interrupts":
            self.notify(2, 0 if vector == NO_VECTOR else vector)

    def notify(self, kind: int, vector: int) -> None:
        if (kind, vector) in self.fds:
            os.eventfd_write(self.fds[kind, vector], 1)


class ToyFunctionPeer(Peer):
    """A server whose third connection has the fault; the first two show that there is a device."""

    def __init__(self, nursery: trio.Nursery, fault: Fault) -> None:
        super().__init__(Path("toy"))
        self.nursery, self.fault, self.connections, self.wedged = nursery, fault, 0, False

    async def connect(self, patience: float) -> socket.socket:
        fault = self.fault if self.connections == 2 else Fault()
        self.connections += 1
        return open_served(self.nursery, lambda connected: ToyFunction(connected, self, fault).serve())


async def check_function_with(fault: Fault, *words: str) -> dict[str, Result]:
    """Run cases against the toy with a fault; return the results by id. Raises NoDevice."""
    _, results = await check_peer(
        lambda nursery: ToyFunctionPeer(nursery, fault), "blk", words, Options(), carrier=PciFront
    )
    return results


async def check_catches(ident: str, fault: Fault) -> None:
    """Check that a case fails with a fault, or warns if it is about a SHOULD, and reports what it sent."""
    result = (await check_function_with(fault, ident))[ident]
    if result.level is Level.SHOULD:
        assert result.verdict is Verdict.WARN, result
    else:
        assert result.verdict in FAILURES, result
    assert result.sent or result.setup
