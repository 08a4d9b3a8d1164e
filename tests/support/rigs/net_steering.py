"""A network device with several pairs that steers frames by their hash, and a hostile driver that configures it."""

from __future__ import annotations

import trio.testing

from drivers.devices.net.hashing import HashType
from drivers.devices.net.layout import SUPPORTED, NetFeature
from drivers.devices.net.steering import KEY, HashConfig, RssConfig
from rings.features import mask
from rings.layout import WRITE
from rings.status import Status
from rings.testing import Desc
from vnet.testing import HostileDriver, NetPair, Options
from vnet.testing.hostile import EXTRA

__all__ = [
    "AGREED",
    "CONTROL",
    "EXAMPLES",
    "OTHER_FRAME",
    "PAIRS",
    "SEVERAL",
    "command",
    "offer",
    "pairs_of",
    "rss",
    "start",
    "tcp_frame",
]

PAIRS = 3
"""As many as the transports with the fewest queues can carry."""
CONTROL = 2 * PAIRS
"""Index of the control queue."""
SEVERAL = Options(queue_size=64, control=True, pairs=PAIRS, memory=64, features_on=("RSS",))
AGREED = SUPPORTED & ~EXTRA & ~mask({NetFeature.CTRL_VLAN}) | mask({NetFeature.RSS})
"""Features of a hostile driver."""
TCPV4 = 1 << HashType.TCPV4
ETHER = bytes.fromhex("020000000001 020000000002 0800")
EXAMPLES = [
    (bytes.fromhex("420995bb a18e6450 0aea06e6"), 0x51CCC178),
    (bytes.fromhex("c75c6f02 41458c53 37961283"), 0xC626B0EA),
    (bytes.fromhex("1813c65f 0c16cfb8 32629488"), 0x5C2B394A),
    (bytes.fromhex("261bcd1e d18ea306 bc6408a9"), 0xAFC7327F),
    (bytes.fromhex("9927a3bf cabc7f02 acdb0517"), 0x10E828A2),
]
"""Addresses and TCP ports, and their published hashes for `KEY`."""
OTHER_FRAME = bytes.fromhex("020000000001 020000000002 88b5") + b"no packet of IP"


def tcp_frame(flow: bytes) -> bytes:
    """Return a frame with a TCP header."""
    header = bytes.fromhex("4500 0028 0000 4000 4006 0000") + flow[:8]
    return ETHER + header + flow[8:] + bytes(8) + b"\x50\x10" + bytes(6)


def rss(table: tuple[int, ...], unclassified: int = 0, transmit: int = PAIRS, types: int = TCPV4) -> RssConfig:
    return RssConfig(HashConfig(types, KEY), table, unclassified, transmit)


async def start(driver: HostileDriver[NetPair], features: int = AGREED, queues: int = CONTROL) -> None:
    """Enable the first ``queues`` data queues, and the control queue."""
    await driver.negotiate(features)
    driver.map_vectors(CONTROL + 1)
    driver.rings = [driver.set_up(i, enable=i < queues or i == CONTROL) for i in range(CONTROL + 1)]
    driver.status |= Status.DRIVER_OK
    await trio.testing.wait_all_tasks_blocked()


async def command(driver: HostileDriver[NetPair], number: int, data: bytes) -> bytes:
    """Return the answer to a command of class MQ."""
    answer, ring = driver.put(b"\xee"), driver.rings[CONTROL]
    index, whole = ring.used_idx, bytes((4, number)) + data
    driver.send(Desc(driver.put(whole), len(whole)), Desc(answer, 1, WRITE), head=0, queue=CONTROL)
    await trio.testing.wait_all_tasks_blocked()
    assert ring.used_idx == index + 1 & 0xFFFF
    return driver.get(answer, 1)


def offer(driver: HostileDriver[NetPair], *pairs: int, count: int = 12) -> None:
    """Offer receive buffers of these queue pairs."""
    for pair in pairs:
        for head in range(count):
            driver.send(Desc(driver.alloc(2048), 2048, WRITE), head=head, queue=2 * pair)


async def pairs_of(driver: HostileDriver[NetPair], *frames: bytes) -> list[int | None]:
    """Let frames arrive one by one; return the pair that gets each, None for a frame that no pair gets."""
    got: list[int | None] = []
    for frame in frames:
        before = [driver.rings[2 * pair].used_idx for pair in range(PAIRS)]
        assert driver.pair.device_port.inject(frame)
        await trio.testing.wait_all_tasks_blocked()
        after = [driver.rings[2 * pair].used_idx for pair in range(PAIRS)]
        changed = [pair for pair in range(PAIRS) if after[pair] != before[pair]]
        assert len(changed) <= 1
        got.append(changed[0] if changed else None)
    return got
