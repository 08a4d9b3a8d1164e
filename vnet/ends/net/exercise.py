"""Exercise of a network device with ports in memory: frames of every size in both directions, compared."""

from __future__ import annotations

import hashlib
import random
from functools import cache

import trio

from drivers.contracts.ports import ETH_HLEN, HEADER_SIZE, NO_OFFLOADS
from vnet.ends.net.end import NetEnd, memory_port
from vnet.ends.net.spec import NetSpec
from vnet.ends.running import EXERCISE_SIZE, Exercise, RunningDevice
from vnet.ports.packet.memory import MemoryPort

__all__ = ["ETHER", "EXERCISE", "send_and_compare"]

ETHER = bytes.fromhex("020000000002 020000000001 88b5")
"""Ethernet header with an ethertype for local experiments (IEEE 802)."""
PLAIN = bytes(HEADER_SIZE)
GSO = bytes.fromhex("01 01 3600 b405 2200 1000 0000")
"""A virtio_net_hdr: NEEDS_CSUM and TCPV4, as for TCP without options over IPv4 without options."""
LARGE_PIECE = 60_000
"""Bytes of payload of a frame for segmentation."""
PIECE = 1400
"""Bytes of payload of a frame that needs no feature."""
BURST = 32
"""Frames in flight."""


async def exercise(device: RunningDevice[NetSpec, tuple[NetEnd, NetEnd]]) -> None:
    ports = [memory_port(end) for end in device.ends]
    large = all(port.offloads != NO_OFFLOADS for port in ports)
    async with trio.open_nursery() as nursery:
        for source, sink in (ports, ports[::-1]):
            nursery.start_soon(send_and_compare, source, sink, EXERCISE_SIZE, large)


async def send_and_compare(source: MemoryPort, sink: MemoryPort, size: int, large: bool) -> None:
    """Send ``size`` random bytes in frames, with ``large`` also some for segmentation.

    Raises AssertionError if the frames received differ, trio.TooSlowError.
    """
    data = _random(size)
    received = hashlib.sha256()
    # Enough small frames for any small ring to wrap around, then large ones, which cost less.
    small = size // 8 if large and source.offloads.tso4 and sink.offloads.tso4 else size
    pieces = [(PLAIN, data[at : min(at + PIECE, small)]) for at in range(0, small, PIECE)]
    pieces += [(GSO, data[at : at + LARGE_PIECE]) for at in range(small, size, LARGE_PIECE)]
    # The destination passes every filter that the driver may have set.
    head = (sink.mac or ETHER[:6]) + ETHER[6:ETH_HLEN]
    with trio.fail_after(60):
        while _drained(sink):
            pass
        for at in range(0, len(pieces), BURST):
            burst = pieces[at : at + BURST]
            for header, piece in burst:
                source.inject(head + piece, header)
            for _ in burst:
                _, frame = await sink.receive()
                received.update(frame[ETH_HLEN:])
    assert received.digest() == hashlib.sha256(data).digest(), "the transfer did not arrive as it was sent"


@cache
def _random(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def _drained(port: MemoryPort) -> bool:
    """Take a frame off the port; return whether there was one."""
    try:
        port.receive_nowait()
    except trio.WouldBlock:
        return False
    return True


EXERCISE = Exercise(exercise, 'driver = { kind = "memory" }\ndevice = { kind = "memory" }')
