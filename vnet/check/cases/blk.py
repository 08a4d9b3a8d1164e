"""Requests and configuration of block devices (VIRTIO 1.4 section 5.2, hostile rows B01 to B05)."""

from __future__ import annotations

import os
import struct
from functools import partial

from drivers.transports.vhost_user.constants import FrontendRequest
from vnet.check.case import Table
from vnet.check.front import Front
from vnet.check.kinds import Request
from vnet.check.kinds.blk import DISCARD, FLUSH, GET_ID, IN, OUT, SECTOR, UNWRITTEN, WRITE_ZEROES, header, make
from vnet.check.split import Buffer
from vnet.check.trial import Trial
from vnet.check.verdicts import Broken, Level, Skipped
from vnet.check.vhost_user import VHOST_USER, VhostUserTrial

__all__ = ["BLK"]

BLK = Table("blk", "blk")
add = BLK.add
R = FrontendRequest
MUST, SHOULD = Level.MUST, Level.SHOULD
F_RO, F_FLUSH, F_CONFIG_WCE, F_DISCARD, F_WRITE_ZEROES = 5, 9, 11, 13, 14
OPERATION = "5.2.6.2"


async def capacity(front: Front) -> int:
    """Return the sectors of the disk."""
    return int.from_bytes(await front.config(0, 8), "little")


async def expect(trial: Trial, front: Front, request: Request, *errors: str) -> str:
    """Make a request that must end with one of these errors. Raises Broken with any other end."""
    error = await trial.fails(front, request)
    if error not in [f"status {name}" for name in errors]:
        raise Broken(f"ended with {error}, and {' or '.join(errors)} is right", Level.MUST)
    return error


# Bounds


async def beyond(sector_of: str, trial: Trial) -> str:
    front = await trial.up()
    sectors = await capacity(front)
    sector = {"end": sectors, "last": sectors - 1, "wraps": (1 << 64) - 1, "overflow": (1 << 55) - 1}[sector_of]
    room = 2 * SECTOR if sector_of == "last" else SECTOR
    return await expect(trial, front, make(front, IN, sector, room=room), "IOERR")


for _name, _title in {
    "end": "behind the last sector", "last": "that straddles the end of the disk", "wraps": "of sector 2^64 - 1",
    "overflow": "of sector 2^55 - 1, whose byte offset overflows with its length",
}.items():  # fmt: skip
    add(f"B01.{_name}", f"A read {_title}", "5.2.6", Level.SAFETY)(partial(beyond, _name))


@add("B01.write", "A write behind the last sector", "5.2.6", Level.SAFETY)
async def write_beyond(trial: Trial) -> str:
    front = await trial.up()
    return await expect(trial, front, make(front, OUT, await capacity(front), bytes(SECTOR)), "IOERR")


# Shapes


@add("B02.partial", "A read of 511 bytes", "5.2.6.1", Level.SAFETY)
async def partial_sector(trial: Trial) -> str:
    front = await trial.up()
    return await expect(trial, front, make(front, IN, 0, room=511), "IOERR", "UNSUPP")


async def short_header(size: int, trial: Trial) -> str:
    front = await trial.up()
    vring = trial.main(front)
    good = make(front, IN, 0, room=SECTOR)
    buffers = [Buffer(good.buffers[0].addr, size), *good.buffers[1:]]
    front.submit(vring, buffers)
    return await trial.refuses(front, vring, Request(buffers, good.judge))


for _size in (1, 8, 15):
    add(f"B02.header{_size}", f"A request whose header has {_size} bytes", "5.2.6")(partial(short_header, _size))


@add("B02.nostatus", "A request without a writable buffer, so without a status", "5.2.6")
async def no_status(trial: Trial) -> str:
    front = await trial.up()
    vring = trial.main(front)
    buffers = [Buffer(front.arena.put(header(FLUSH)), 16)]
    front.submit(vring, buffers)
    return await trial.refuses(front, vring)


@add("B02.alone", "A request of one writable byte, without a header", "5.2.6")
async def status_alone(trial: Trial) -> str:
    front = await trial.up()
    vring = trial.main(front)
    status = front.arena.put(bytes((UNWRITTEN,)))
    buffers = [Buffer(status, 1, True)]
    front.submit(vring, buffers)
    return await trial.refuses(front, vring, Request(buffers, lambda _: f"status {front.arena.read(status, 1)[0]}"))


async def other_room(kind: int, room: int, trial: Trial) -> str:
    """Make a request whose room is not that of its type: it may fail or succeed."""
    front = await trial.up()
    vring, request = trial.main(front), make(front, kind, room=room)
    front.submit(vring, request.buffers)
    return await trial.refuses(front, vring, request, success=None)


add("B02.empty", "A read of no bytes", "5.2.6")(partial(other_room, IN, 0))


# Types


async def unsupported(kind: int, trial: Trial) -> str:
    front = await trial.up()
    return await expect(trial, front, make(front, kind, room=SECTOR), "UNSUPP")


add("B03", "A request of the unknown type 0x12345678", "5.2.6", MUST)(partial(unsupported, 0x1234_5678))
for _kind, _name in ((15, "APPEND"), (16, "REPORT"), (18, "OPEN"), (24, "RESET")):
    add(f"BLK-DEV-31.{_name.lower()}", f"ZONE_{_name} without ZONED", OPERATION, MUST)(partial(unsupported, _kind))


@add("BLK-DEV-53", "A status byte for success and for an unknown type", "5.2.6", MUST)
async def statuses(trial: Trial) -> str:
    front = await trial.up()
    await trial.honest(front)
    error = await trial.fails(front, make(front, 99, room=16))
    if error != "status UNSUPP":
        raise Broken(f"an unknown type ended with {error}, and UNSUPP is right")
    return "OK and UNSUPP"


@add("BLK-DEV-54", "GET_ID returns up to 20 bytes, padded with zeros", "5.2.6", MUST)
async def identifier(trial: Trial) -> str:
    front = await trial.up()
    request = make(front, GET_ID, room=20)
    await trial.serve(front, trial.main(front), request)
    text = front.arena.read(request.buffers[1].addr, 20)
    name, _, rest = text.partition(b"\0")
    if rest.strip(b"\0"):
        raise Broken(f"the identifier has bytes behind its end: {text.hex()}")
    return f"it is {name.decode('ascii', 'replace')!r}"


for _size in (1, 19, 4096):
    add(f"B02.id{_size}", f"GET_ID with a buffer of {_size} bytes", "5.2.6")(partial(other_room, GET_ID, _size))


# Features and configuration


@add("BLK-DEV-1", "FLUSH is offered", "5.2.5.2", SHOULD)
async def offers_flush(trial: Trial) -> str:
    front = await trial.negotiated()
    if not front.offered >> F_FLUSH & 1:
        raise Broken(f"offers {front.offered:#x}, without bit 9")
    return "it is"


@add("BLK-DEV-2", "FLUSH is offered along with CONFIG_WCE", "5.2.5.2", MUST)
async def flush_with_wce(trial: Trial) -> str:
    front = await trial.negotiated()
    if not front.offered >> F_CONFIG_WCE & 1:
        raise Skipped("CONFIG_WCE is not offered")
    if not front.offered >> F_FLUSH & 1:
        raise Broken(f"offers {front.offered:#x}: CONFIG_WCE without FLUSH")
    return "both are"


@add("BLK-DEV-4", "The padding of the configuration is 0", "5.2.5.2", MUST)
async def padding(trial: Trial) -> str:
    front = await trial.negotiated()
    unused0, unused1 = await front.config(33, 1), await front.config(57, 3)
    if any(unused0 + unused1):
        raise Broken(f"unused0 is {unused0.hex()}, unused1 {unused1.hex()}")
    return "it is"


@add("BLK-DEV-3", "writeback is 0 at first without FLUSH", "5.2.5.2", MUST)
async def writeback(trial: Trial) -> str:
    front = await trial.up(F_CONFIG_WCE)
    [value] = await front.config(32, 1)
    if value:
        raise Broken(f"CONFIG_WCE without FLUSH is accepted, and writeback is {value}")
    return "it is"


async def read_only_disk(trial: Trial) -> Front:
    """Return a running device whose disk is read-only. Raises Skipped."""
    front = await trial.negotiated()
    if not front.offered >> F_RO & 1:
        raise Skipped("RO is not offered: the disk is writable")
    trial.close()
    return await trial.up(F_RO)


@add("BLK-DEV-18", "Writes to a read-only disk fail with IOERR", OPERATION, MUST)
async def read_only(trial: Trial) -> str:
    front = await read_only_disk(trial)
    return await expect(trial, front, make(front, OUT, 0, bytes(SECTOR)), "IOERR")


@add("BLK-DEV-19", "Data of a read-only disk do not change", OPERATION, MUST)
async def read_only_data(trial: Trial) -> str:
    front = await read_only_disk(trial)
    before = await read(trial, front, 0)
    await trial.fails(front, make(front, OUT, 0, bytes(byte ^ 0xFF for byte in before)))
    if await read(trial, front, 0) != before:
        raise Broken("the first sector changed")
    return "the first sector is as before"


# Discard and write-zeroes


def segment(sector: int, count: int, flags: int = 0) -> bytes:
    return struct.pack("<QII", sector % (1 << 64), count % (1 << 32), flags)


async def bad_segment(kind: int, feature: int, data: bytes, errors: tuple[str, ...], trial: Trial) -> str:
    front = await trial.up(feature)
    return await expect(trial, front, make(front, kind, 0, data), *errors)


_BOTH = ((DISCARD, F_DISCARD, "DISCARD"), (WRITE_ZEROES, F_WRITE_ZEROES, "WRITE_ZEROES"))
for _kind, _feature, _name in _BOTH:
    add(f"BLK-DEV-20.{_name.lower()}", f"{_name} with an unknown flag", OPERATION, MUST)(
        partial(bad_segment, _kind, _feature, segment(0, 8, 0x8000_0002), ("UNSUPP",))
    )
    for _word, _title, _data in (
        ("range", "of sectors up to 2^64", segment(-8, 16)),
        ("beyond", "behind the last sector", segment(1 << 54, 8)),
        ("short", "with half a segment", segment(0, 8)[:8]),
        ("many", "with 1000 segments", segment(0, 0) * 1000),
    ):
        add(f"B04.{_name.lower()}-{_word}", f"{_name} {_title}", "5.2.6", Level.SAFETY)(
            partial(bad_segment, _kind, _feature, _data, ("IOERR", "UNSUPP"))
        )
add("BLK-DEV-21", "DISCARD with the flag unmap", OPERATION, MUST)(
    partial(bad_segment, DISCARD, F_DISCARD, segment(0, 8, 1), ("UNSUPP",))
)


# Data


async def read(trial: Trial, front: Front, sector: int, room: int = SECTOR) -> bytes:
    request = make(front, IN, sector, room=room)
    await trial.serve(front, trial.main(front), request)
    return front.arena.read(request.buffers[1].addr, room)


async def writable(trial: Trial, *features: int, num: int | None = None) -> Front:
    """Return a running device whose disk may be written. Raises Skipped."""
    front = await trial.up(*features, num=num)
    if front.offered >> F_RO & 1:
        raise Skipped("RO is offered: the disk is read-only")
    return front


@add("BLK-DEV-22", "Sectors are zeros after write-zeroes", OPERATION, MUST, writes=True)
async def write_zeroes(trial: Trial) -> str:
    front = await writable(trial, F_WRITE_ZEROES)
    vring = trial.main(front)
    for flags in (0, 1):
        await trial.serve(front, vring, make(front, OUT, 8, os.urandom(8 * SECTOR)))
        await trial.serve(front, vring, make(front, WRITE_ZEROES, 0, segment(8, 8, flags)))
        if any(await read(trial, front, 8, 8 * SECTOR)):
            raise Broken(f"sectors 8 to 15 are no zeros after write-zeroes with flags {flags}")
    return "with and without unmap"


@add("SPLIT-DEV-1.write", "What was written in odd pieces is what is read", "2.7.4.1", MUST, writes=True)
async def write_then_read(trial: Trial) -> str:
    front = await writable(trial, num=256)
    vring = trial.main(front)
    data = os.urandom(64 * SECTOR)
    await trial.serve(front, vring, make(front, OUT, 1, data).cut(1000))
    if b"".join([await read(trial, front, 1 + at) for at in range(64)]) != data:
        raise Broken("the sectors differ")
    return "32 KiB"


@add(
    "V16.writes",
    "Writes in flight when the connection ends are done whole or not at all",
    "5.2.6",
    Level.SAFETY,
    writes=True,
)
async def torn_writes(trial: Trial) -> str:
    front = await writable(trial)
    await trial.serve(front, trial.main(front), make(front, OUT, 32, bytes(SECTOR)))
    trial.close()
    for byte in range(1, 9):
        front = await trial.up()
        vring = trial.main(front)
        vring.ring.submit(make(front, OUT, 32, bytes((byte,)) * SECTOR).buffers)
        vring.kick()
        trial.close()
        front = await trial.up()
        data = await read(trial, front, 32)
        trial.close()
        if len(set(data)) != 1:
            raise Broken("a sector has bytes of two writes")
    return "eight times"


@add("B07", "Data that were flushed are there after the process is killed", "5.2.6.2", Level.SAFETY, writes=True)
async def killed(trial: Trial) -> str:
    if not trial.peer.spawned:
        raise Skipped("the process is not ours to kill: --spawn")
    front = await writable(trial, F_FLUSH)
    vring, data = trial.main(front), os.urandom(SECTOR)
    await trial.serve(front, vring, make(front, OUT, 40, data))
    await trial.serve(front, vring, make(front, FLUSH))
    front.note("SIGKILL to the process, which is started again")
    trial.peer.kill()
    trial.close()
    await trial.peer.start()
    front = await trial.up()
    if await read(trial, front, 40) != data:
        raise Broken("the sector differs")
    return "they are"


@add(
    "C01",
    "Requests in flight when the process is killed are answered after its restart, each once",
    "vhost-user: Inflight I/O tracking",
    MUST,
    writes=True,
    carrier=VHOST_USER,
)
async def inflight(trial: VhostUserTrial) -> str:
    if not trial.peer.spawned:
        raise Skipped("the process is not ours to kill: --spawn")
    front = await trial.negotiated()
    area, fd = await front.make_inflight(1, 128)
    try:
        if front.offered >> F_RO & 1:
            raise Skipped("RO is offered: the disk is read-only")
        vring = front.new_ring(0, 128)
        requests: dict[int, Request] = {}

        async def start() -> None:
            await front.accept()
            await front.must(R.SET_INFLIGHT_FD, area, [fd])
            await front.start(vring, vring.split.used_idx)
            await front.driver_ok()

        for round_ in range(3):
            await start()
            for at in range(4 * (3 - round_)):
                request = make(front, OUT, 100 + len(requests), bytes((at + 1,)) * SECTOR)
                requests[vring.ring.submit(request.buffers)] = request
            front.note(f"{len(requests)} writes so far; kick, then SIGKILL to the process, which is started again")
            vring.kick()
            trial.peer.kill()
            await trial.peer.start()
            await trial.reconnect(front)
            await front.negotiate()
        await start()
        vring.kick()
        answers = await front.answers(vring, len(requests))
    finally:
        os.close(fd)
    if sorted(head for head, _ in answers) != sorted(requests):
        raise Broken(f"answered ids {sorted(head for head, _ in answers)} to requests {sorted(requests)}")
    for request in requests.values():
        if error := request.judge(1):
            raise Broken(f"one of {len(requests)} failed: {error}")
    return f"{len(requests)} writes over three kills"


@add("B05", "The same buffers in as many requests as the ring has room for", "5.2.6")
async def same_buffers(trial: Trial) -> str:
    front = await trial.up(num=64)
    vring = trial.main(front)
    request = make(front, IN, 0, room=SECTOR)
    count = 64 // len(request.buffers)
    front.note_request(vring, request.buffers, f"; {count} times")
    for _ in range(count):
        vring.ring.submit(request.buffers)
    vring.kick()
    await front.answers(vring, count)
    return f"answered all {count}"
