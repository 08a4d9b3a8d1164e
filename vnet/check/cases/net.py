"""Frames and receive buffers of network devices (VIRTIO 1.4 section 5.1, hostile rows N01 to N06)."""

from __future__ import annotations

import struct
from functools import partial

import trio

from vnet.check.case import Table
from vnet.check.front import Front, Vring
from vnet.check.kinds.net import HEADER, RECEIVE, TRANSMIT, frame, transmit
from vnet.check.split import Buffer
from vnet.check.trial import Trial
from vnet.check.verdicts import Broken, Level, Skipped

__all__ = ["NET"]

NET = Table("net", "net")
add = NET.add
MUST = Level.MUST
TX = "5.1.9.2"
F_CSUM, F_MRG_RXBUF, F_MQ = 0, 15, 22


def head(
    flags: int = 0, gso: int = 0, hdr_len: int = 0, size: int = 0, start: int = 0, offset: int = 0, count: int = 0
) -> bytes:
    """Return the header before a frame."""
    return struct.pack("<BBHHHHH", flags, gso, *(value & 0xFFFF for value in (hdr_len, size, start, offset, count)))


async def sent(trial: Trial, front: Front, buffers: list[Buffer]) -> str:
    """Offer a bad frame; its buffer must come back, or the queue must report an error."""
    vring = front.rings[TRANSMIT]
    front.submit(vring, buffers)
    seen = await trial.refuses(front, vring)
    if seen == "gave the buffer back":
        await trial.honest(front)
        return f"{seen}, and sends the next frame"
    return seen


async def short_chain(size: int, trial: Trial) -> str:
    front = await trial.up()
    return await sent(trial, front, [Buffer(front.arena.alloc(max(size, 1)), size)])


for _size in (1, 11, 12, 13):
    add(f"N01.{_size}", f"A frame whose header and data have {_size} bytes together", TX)(partial(short_chain, _size))


@add("N01.split", "A header in twelve descriptors of one byte", "2.7.4.1", MUST)
async def split_header(trial: Trial) -> str:
    front = await trial.up(num=64)
    request = transmit(front, frame())
    first, data = request.buffers
    buffers = [*(Buffer(first.addr + at, 1) for at in range(HEADER)), data]
    return await sent(trial, front, buffers)


@add("N01.writable", "A frame in a writable buffer", TX)
async def writable_frame(trial: Trial) -> str:
    front = await trial.up()
    request = transmit(front, frame())
    return await sent(trial, front, [Buffer(one.addr, one.size, True) for one in request.buffers])


async def long_frame(size: int, trial: Trial) -> str:
    front = await trial.up()
    request = transmit(front, frame(size))
    return await sent(trial, front, list(request.buffers))


for _size in (1515, 9100, 65_551, 1 << 20):
    add(f"N02.{_size}", f"A frame of {_size} bytes", TX)(partial(long_frame, _size))


async def short_frame(size: int, trial: Trial) -> str:
    front = await trial.up()
    arena = front.arena
    return await sent(trial, front, [Buffer(arena.alloc(HEADER), HEADER), Buffer(arena.alloc(64), size)])


for _size in (1, 13):
    add(f"N05.{_size}", f"A frame of {_size} bytes, which is shorter than its Ethernet header", TX)(
        partial(short_frame, _size)
    )


async def bad_header(header: bytes, features: tuple[int, ...], trial: Trial) -> str:
    front = await trial.up(*features)
    request = transmit(front, frame(200), header)
    return await sent(trial, front, list(request.buffers))


for _id, _title, _header, _features in (
    ("N03.start", "csum_start behind the frame", head(1, start=0xFFFF, offset=16), (F_CSUM,)),
    ("N03.offset", "csum_offset behind the frame", head(1, start=14, offset=0xFFFF), (F_CSUM,)),
    ("N03.both", "csum_start + csum_offset that wrap 65536", head(1, start=0xFFF0, offset=0x20), (F_CSUM,)),
    ("N03.refused", "NEEDS_CSUM without the feature", head(1, start=14, offset=16), ()),
    ("N04.type", "an unknown gso_type", head(1, gso=0x7F, hdr_len=54, size=100, start=34, offset=16), (F_CSUM,)),
    ("N04.refused", "gso_type TCPV4 without the feature", head(0, gso=1, hdr_len=54, size=100), ()),
    ("NET-DEV-16", "unknown flags", head(0xF8), ()),
    ("NET-DEV-19", "a hdr_len of 65535", head(0, hdr_len=0xFFFF), ()),
    ("NET-DEV-17", "csum_start and csum_offset of 65535, without NEEDS_CSUM", head(0, start=0xFFFF, offset=0xFFFF), ()),
):
    add(
        _id,
        f"A frame with {_title}",
        "5.1.9.2.2" if _id.startswith("NET") else TX,
        MUST if _id.startswith("NET") else Level.SAFETY,
    )(partial(bad_header, _header, _features))
for _bit, _name, _gso in ((11, "TSO4", 1), (12, "TSO6", 4)):
    add(f"N04.{_name.lower()}0", f"A frame with gso_type {_name[:3]} of IPv{_name[3]} and gso_size 0", TX)(
        partial(bad_header, head(1, gso=_gso, hdr_len=54, size=0, start=34, offset=16), (F_CSUM, _bit))
    )
    add(f"N04.{_name.lower()}h", f"A frame with gso_type {_name[:3]} of IPv{_name[3]} and hdr_len behind its end", TX)(
        partial(bad_header, head(1, gso=_gso, hdr_len=0xFFFF, size=100, start=34, offset=16), (F_CSUM, _bit))
    )


# Receive


async def receive_buffers(sizes: tuple[int, ...], writable: bool, trial: Trial) -> str:
    """Give the device receive buffers that no frame fits into, then send frames, which may come back."""
    front = await trial.up(prepare=False)
    vring = front.rings[RECEIVE]
    for size in sizes:
        vring.ring.submit([Buffer(front.arena.alloc(max(size, 64)), size, writable)])
    front.note(f"receive buffers of {sizes} bytes, {'writable' if writable else 'read-only'}")
    vring.kick()
    for _ in range(4):
        await trial.honest(front)
    await trio.sleep(0.1)
    return "closed the connection" if front.hung_up() else "went on"


add("N06.small", "Receive buffers of 1 to 20 bytes", "5.1.9.3")(partial(receive_buffers, (1, 4, 12, 20), True))
add("N06.readonly", "Receive buffers that are read-only", "5.1.9.3")(partial(receive_buffers, (2048, 2048), False))
add("N06.empty", "Receive buffers of no bytes", "5.1.9.3")(partial(receive_buffers, (0, 0), True))


async def echoed(trial: Trial, front: Front, data: bytes) -> list[tuple[int, int]]:
    """Send a frame, and return the receive buffers in which it came back. Raises Skipped if it does not come back."""
    receive = front.rings[RECEIVE]
    await trial.serve(front, front.rings[TRANSMIT], transmit(front, data))
    answers: list[tuple[int, int]] = []
    with trio.move_on_after(0.3):
        while not answers or receive.ring.pending:
            answers += receive.ring.answers()
            await trio.sleep(0.005)
    if not answers:
        raise Skipped("no frame comes back: nothing reflects frames behind the device")
    return answers


@add("NET-DEV-28", "num_buffers is 1 without MRG_RXBUF", "5.1.9.4.1", MUST)
async def one_buffer(trial: Trial) -> str:
    front = await trial.up()
    data = frame(100, fill=7)
    for ident, used in await echoed(trial, front, data):
        got = _received(front, front.rings[RECEIVE], ident, used)
        count = int.from_bytes(got[10:12], "little")
        if count != 1:
            raise Broken(f"num_buffers is {count}")
    return "it is"


def _received(front: Front, vring: Vring, ident: int, used: int) -> bytes:
    addr = int.from_bytes(vring.split.read(ident)[:8], "little")
    return front.arena.read(addr, used)


async def merged(trial: Trial) -> tuple[list[int], int, int]:
    """Have a frame come back in small buffers; return the lengths, num_buffers, and the size of the buffers."""
    room = 256
    front = await trial.up(F_MRG_RXBUF, num=64, prepare=False)
    vring = front.rings[RECEIVE]
    for _ in range(48):
        vring.ring.submit([Buffer(front.arena.alloc(room), room, True)])
    vring.kick()
    answers = await echoed(trial, front, frame(1000, fill=9))
    first = _received(front, vring, *answers[0])
    return [used for _, used in answers], int.from_bytes(first[10:12], "little"), room


@add("NET-DEV-29", "num_buffers counts the buffers of a frame", "5.1.9.4.1", MUST)
async def counts_buffers(trial: Trial) -> str:
    lengths, count, _ = await merged(trial)
    if count != len(lengths):
        raise Broken(f"num_buffers is {count}, and the frame came in buffers of {lengths} bytes")
    return f"{count} buffers"


@add("NET-DEV-30", "All buffers of a frame but the last are full", "5.1.9.4.1", MUST)
async def full_buffers(trial: Trial) -> str:
    lengths, _, room = await merged(trial)
    if any(used != room for used in lengths[:-1]):
        raise Broken(f"the frame came in buffers of {lengths} bytes, and each has {room}")
    return f"buffers of {lengths} bytes"


# Configuration


@add("NET-DEV-3", "max_virtqueue_pairs is 1 to 0x8000", "5.1.4.1", MUST)
async def pairs(trial: Trial) -> str:
    front = await trial.negotiated()
    if not front.offered >> F_MQ & 1:
        raise Skipped("MQ is not offered")
    count = int.from_bytes(await front.config(8, 2), "little")
    if not 1 <= count <= 0x8000:
        raise Broken(f"it is {count}")
    return f"it is {count}"
