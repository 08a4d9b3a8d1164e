"""Random systems: any device type over any transport and both rings, on any kind of link."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from random import Random

from vnet.ends import DEVICE_TYPES
from vnet.topology import Topology, parse
from vnet.topology.samples import built_in_text
from vnet.topology.support import unmediated
from vnet.transports import TRANSPORTS

__all__ = ["cells", "random_topology"]

LINKS = (
    "",
    "generation = 3\nlanes = 4\nread_latency_ns = 500",
    "faults = { lost_doorbells = 0.1, lost_interrupts = 0.1, delayed_interrupts = 0.1 }",
    "generation = 2\nlanes = 1\nmax_payload = 128\nfaults = { delayed_interrupts = 0.2, delay_ms = 1 }",
)
"""Keys of links: without time and faults, with time, with lost notifications, with both."""
WIRES = (
    "wire = {}",
    "wire = { bit_errors = 0.01, lost_acks = 0.01, aer = true, ecrc = true }",
    "wire = { lost_tlps = 0.005, duplicated = 0.01, reordered = 0.01, lost_credits = 0.01 }",
    "generation = 2\nlanes = 1\nmax_payload = 128\nwire = { bit_errors = 0.001, retrains = 0.001 }",
    "wire = { surprise_downs = 0.0002, hot_resets = 0.0002, aer = true }",
)
"""Keys of wires: without faults, with each fault that is repaired, with time, with losses of the link.

Some have Advanced Error Reporting. None corrupts data, or fails completions: one that meets the enumeration after a
lost link unplugs the function.
"""
FEATURES = ("EVENT_IDX", "INDIRECT_DESC")
"""Features of rings that a device may lack."""
OF_NET = ("MRG_RXBUF", "CTRL_VQ", "GUEST_TSO4", "HOST_TSO4", "CSUM", "GUEST_CSUM", "MTU")
"""Features of network devices that a device may lack."""


def cells(*, wire: bool = False) -> Sequence[tuple[str, str, str]]:
    """Return each device type with a load, transport and ring: as many seeds in a row have each of them once.

    ``wire``: without the transports that use no link.
    """
    loaded = [name for name, kind in DEVICE_TYPES.items() if kind.loads is not None]
    carried = [name for name, transport in TRANSPORTS.items() if not wire or transport.on != "host"]
    return list(product(loaded, carried, ("split", "packed")))


def random_topology(seed: int, rng: Random, *, wire: bool = False) -> Topology:
    """Return the system of a seed. Device type, transport and ring follow from the seed, the rest from ``rng``.

    ``wire``: all links are wires; without it, none is.
    """
    known = cells(wire=wire)
    kind, transport, ring = known[seed % len(known)]
    loads = DEVICE_TYPES[kind].loads
    assert loads is not None
    keys = [f'ring = "{ring}"', f"queue_size = {rng.choice((16, 64, 256))}"]
    off = [name for name in FEATURES if rng.random() < 0.25]
    if kind == "net":
        off += [name for name in OF_NET if rng.random() < 0.1]
    if off:
        keys.append(f"features_off = {off}")
    if rng.random() < 0.25:
        keys.append('features_on = ["IN_ORDER"]')
    mode = "direct"
    if kind in ("blk", "scsi"):
        keys.append(f"queues = {rng.choice((1, 1, 3))}")
    elif rng.random() < 0.15 and not unmediated(kind, transport):
        mode = "mediated"
    elif kind == "net" and "CTRL_VQ" not in off and rng.random() < 0.3:
        keys.append("queue_pairs = 2")
    link = rng.choice(WIRES if wire else LINKS)
    text = built_in_text(kind, transport, "\n".join([*keys, loads.keys]), mode=mode, link=link)
    return parse(text, f"random topology {seed}")
