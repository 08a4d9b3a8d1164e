"""Attacks by a driver on its queues.

Each takes a front end with rings, and yields the number of its actions since the last time. It never waits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from drivers.devices.blk.layout import HEADER, SEGMENT, RequestType
from drivers.devices.scsi import Tmf
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.layout import HEADER as SCSI_HEADER
from drivers.devices.scsi.layout import RESPONSE
from isolation.front import repeat
from vnet.check.front import Front, Vring
from vnet.check.split import DESC, Buffer, Desc

__all__ = [
    "doorbells",
    "empty_kicks",
    "flushes",
    "honest_reads",
    "large_reads",
    "long_chains",
    "neighbours",
    "refused_kicks",
    "rpmsg_messages",
    "small_frames",
    "tasks",
    "write_zeroes",
]

MIB = 1 << 20
UNIT = bytes((1, 0, 0x40, 0, 0, 0, 0, 0))
"""Address of the first logical unit."""


def _request(front: Front, kind: int, sector: int = 0) -> Buffer:
    return Buffer(front.arena.put(HEADER.pack(kind, 0, sector)), HEADER.size)


def _same(vring: Vring, chain: Sequence[Buffer]) -> list[int]:
    """Write the same indirect table into each descriptor of a ring; return them."""
    ring = vring.split
    descriptor = Desc(*DESC.unpack(ring.read(ring.table(chain))))
    for index in range(ring.num):
        ring.write(index, descriptor)
    return list(range(ring.num))


def honest_reads(front: Front) -> Iterator[int]:
    """Read 4 KiB at random, 16 at a time."""
    chains = [
        [
            _request(front, RequestType.IN, 8 * 37 * at),
            Buffer(front.arena.alloc(4096, 4096), 4096, True),
            Buffer(front.arena.alloc(1), 1, True),
        ]
        for at in range(16)
    ]
    yield from repeat(front.rings[0], chains)


def empty_kicks(front: Front) -> Iterator[int]:
    """Kick an empty queue."""
    while True:
        for _ in range(1000):
            front.rings[0].kick()
        yield 1000


def refused_kicks(front: Front) -> Iterator[int]:
    """Kick for each of many requests of an unknown type."""
    yield from repeat(front.rings[0], [[_request(front, 99), Buffer(front.arena.alloc(1), 1, True)]])


def long_chains(front: Front) -> Iterator[int]:
    """Fill a queue of 1,024 with chains of 1,023 descriptors."""
    head, status = front.arena.put(bytes(64)), Buffer(front.arena.alloc(1), 1, True)
    chain = [*[Buffer(head, 1)] * 8, *[Buffer(head, 1, True)] * 1014, status]
    free = _same(front.rings[0], chain)
    while True:
        if free:
            front.rings[0].split.offer(*free)
            front.rings[0].kick()
        yield len(free)
        free = [used for used, _ in front.rings[0].ring.answers()]


def large_reads(front: Front) -> Iterator[int]:
    """Read 1 GiB in one request, 16 at a time, all into the same 1 MiB."""
    data, status = front.arena.alloc(MIB, 4096), front.arena.alloc(1)
    chain = [_request(front, RequestType.IN), *[Buffer(data, MIB, True)] * 1000, Buffer(status, 1, True)]
    yield from repeat(front.rings[0], [chain] * 16)


def flushes(front: Front) -> Iterator[int]:
    """Flush, 500 at a time."""
    chain = [_request(front, RequestType.FLUSH), Buffer(front.arena.alloc(1), 1, True)]
    yield from repeat(front.rings[0], [chain] * 500)


def write_zeroes(front: Front) -> Iterator[int]:
    """Write zeroes to the whole disk, 64 at a time."""
    segment = Buffer(front.arena.put(SEGMENT.pack(0, 2 * MIB, 0)), SEGMENT.size)
    chain = [_request(front, RequestType.WRITE_ZEROES), segment, Buffer(front.arena.alloc(1), 1, True)]
    yield from repeat(front.rings[0], [chain] * 64)


def doorbells(front: Front) -> Iterator[int]:
    """Post doorbells of an empty queue by messages, over vfio-user."""
    while True:
        for _ in range(200):
            front.rings[0].kick()
        front.hung_up()  # what had no room goes out
        yield 200


def small_frames(front: Front) -> Iterator[int]:
    """Send frames of 60 bytes, 256 at a time."""
    frame = bytes(12) + b"\xff" * 6 + b"\x02\0\0\0\0\x22\x88\xb5" + bytes(46)
    yield from repeat(front.rings[1], [[Buffer(front.arena.put(frame), len(frame))]] * 256)


def neighbours(front: Front) -> Iterator[int]:
    """Send neighbour solicitations of 64 KiB with 8,180 options, 32 at a time."""
    us, me, group = (ip_address(text).packed for text in ("2001:2:87::1", "2001:2:87::2", "ff02::1:ff00:1"))
    body = bytes((135, 0, 0, 0, 0, 0, 0, 0)) + us + bytes((1, 1, 2, 0, 0, 0, 0, 9))
    body += bytes((9, 1, 0, 0, 0, 0, 0, 0)) * 8179
    pseudo = me + group + struct.pack(">II", len(body), 58) + body
    total = sum(struct.unpack(f">{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack(">H", ~total & 0xFFFF) + body[4:]
    header = struct.pack("<BBHHHHH", 1, 4, 0, 1400, 54, 16, 0)
    ip = struct.pack(">IHBB16s16s", 6 << 28, len(body), 58, 255, me, group)
    frame = header + b"\x33\x33\xff\0\0\1" + b"\x02\0\0\0\0\x22\x86\xdd" + ip + body
    at = front.arena.put(frame)
    yield from repeat(front.rings[1], [[Buffer(at, len(frame))]] * 32)


def rpmsg_messages(front: Front) -> Iterator[int]:
    """Send messages to an address without an endpoint, 256 at a time."""
    body = bytes(40)
    message = struct.pack("<IIIHH", 1025, 1 << 20, 0, len(body), 0) + body
    at = front.arena.put(message)
    yield from repeat(front.rings[1], [[Buffer(at, len(message))]] * 256)


def tasks(front: Front) -> Iterator[int]:
    """Fill a request queue with reads of 1 MiB, and ask for tasks on the control queue, 128 at a time."""
    arena, control, requests = front.arena, front.rings[0].split, front.rings[2].split
    read = arena.put(SCSI_HEADER.pack(UNIT, 7, 0, 0, 0) + commands.read(0, 2048).ljust(32, b"\0"))
    response, data = arena.alloc(256), arena.alloc(MIB, 4096)
    chain = [
        Buffer(read, SCSI_HEADER.size + 32),
        Buffer(response, RESPONSE.size + 96, True),
        *[Buffer(data, MIB // 2, True)] * 2,
    ]
    free = _same(front.rings[2], chain)
    function = Buffer(arena.put(struct.pack("<II8sQ", 0, Tmf.QUERY_TASK_SET, UNIT, 0)), 24)
    answer = Buffer(arena.alloc(1), 1, True)
    functions = [control.chain([function, answer]) for _ in range(128)]
    while True:
        requests.offer(*free)
        control.offer(*functions)
        front.rings[0].kick()
        yield len(free) + len(functions)
        functions = [used for used, _ in control.answers()]
        free = [used for used, _ in requests.answers()]
