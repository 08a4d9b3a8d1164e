"""How many bytes a transfer takes on a PCI Express link, and how many of them cross it in a second.

The arithmetic is that of pcie-bench (Neugebauer et al., "Understanding PCIe performance for end host
networking", SIGCOMM 2018), for generations 1 to 5: every TLP carries its framing, sequence number and
LCRC, every address takes 64 bits, transfers start at a boundary of the size they are cut by, and acknowledgements,
flow control and clock compensation cost what the specification recommends. Generation 6 packs TLPs into flits
with other headers and is left out.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from vnet.link.transaction.codec import emit
from vnet.link.transaction.fields import DOUBLEWORD, SIZES, MessageCode, TlpKind
from vnet.link.transaction.fragments import Piece, completion_pieces, pieces
from vnet.link.transaction.packets import (
    Completion,
    ConfigRead,
    ConfigWrite,
    Header,
    MemoryRead,
    MemoryWrite,
    Message,
    Tlp,
)

__all__ = [
    "CONFIG_READ",
    "CONFIG_WRITE",
    "GENERATIONS",
    "LANES",
    "MESSAGE",
    "READ_LATENCY_KEY",
    "SIZES",
    "TIMING_KEYS",
    "Cost",
    "TlpKind",
    "PcieParameters",
    "DirectionCost",
    "effective_bandwidth",
    "read_cost",
    "write_cost",
]


FRAMING = 8
"""Bytes around every TLP: start and end symbols (from generation 3 on the STP token), sequence number, LCRC."""
BASE = 1 << 32
"""Address of the transfers: one of 64 bits, at a boundary of every size that they are cut by."""
_HEADER = Header(0)
_WORD = bytes(DOUBLEWORD)

GIGATRANSFERS = {1: 2.5, 2: 5.0, 3: 8.0, 4: 16.0, 5: 32.0}
"""Per second and lane, by generation."""
GENERATIONS = tuple(GIGATRANSFERS)
LANES = (1, 2, 4, 8, 16)

DLLP = 8
"""Bytes of an Ack or of a flow control update on the link."""
SKIP, SKIP_INTERVAL = 4, 1538
"""Symbols of clock compensation, and how often they come."""
TLP_OVERHEAD = 28
"""Symbols that the specification adds to the payload when it says how often to acknowledge (3.6.3.1)."""
INTERNAL_DELAY = {1: 19, 2: 70}
"""Symbols until a receiver has handled a TLP, likewise."""
INTERNAL_DELAY_LATER = 115


@attrs.frozen
class PcieParameters:
    """Width and speed of a link, and the limits of its packets. Sizes in bytes."""

    generation: int = attrs.field(default=3, validator=attrs.validators.in_(GENERATIONS))
    lanes: int = attrs.field(default=8, validator=attrs.validators.in_(LANES))
    max_payload: int = attrs.field(default=256, validator=attrs.validators.in_(SIZES))
    max_read_request: int = attrs.field(default=512, validator=attrs.validators.in_(SIZES))
    completion_boundary: int | None = attrs.field(default=None, validator=attrs.validators.in_((None, 64, 128)))
    """Read completion boundary; None: completions are split at the maximum payload only."""

    @property
    def raw_rate(self) -> float:
        """Bytes per second after encoding: 8b/10b up to generation 2, 128b/130b from 3 on."""
        encoding = 8 / 10 if self.generation < 3 else 128 / 130
        return self.lanes * GIGATRANSFERS[self.generation] * 1e9 * encoding / 8

    @property
    def ack_interval(self) -> int:
        """Bytes after which the specification wants an Ack, and a flow control update (tables 3-7 and 2-46)."""
        if self.max_payload <= 256:
            factor = {8: 2.5, 16: 3.0}.get(self.lanes, 1.4)
        else:
            factor = 2.0 if self.lanes == 16 else 1.0
        delay = INTERNAL_DELAY.get(self.generation, INTERNAL_DELAY_LATER)
        return int((self.max_payload + TLP_OVERHEAD) * factor / self.lanes + delay)

    @property
    def rate(self) -> float:
        """Bytes per second and direction for TLPs, their framing included."""
        return self.raw_rate * (1 - 2 * DLLP / self.ack_interval - SKIP / SKIP_INTERVAL)


READ_LATENCY_KEY = "read_latency_ns"
TIMING_KEYS = (*(field.name for field in attrs.fields(PcieParameters)), READ_LATENCY_KEY)
"""Keys of a link in topology files that make accesses take time."""


@attrs.frozen
class DirectionCost:
    """The TLPs and bytes of one transfer in one direction."""

    kind: TlpKind
    tlps: int
    payload: int
    """Bytes of data."""
    wire: int
    """Bytes on the link, headers and framing included."""


@attrs.frozen
class Cost:
    """The cost of one transfer: its request, and its completion if it has one."""

    request: DirectionCost
    completion: DirectionCost | None = None


def _packet_cost(packet: Tlp, payload: int = 0) -> DirectionCost:
    return DirectionCost(packet.kind, 1, payload, FRAMING + len(emit(packet)))


_COMPLETION = _packet_cost(Completion(header=_HEADER, completer=0, data=_WORD), DOUBLEWORD)
CONFIG_READ = Cost(
    _packet_cost(ConfigRead(header=_HEADER, target=0, register=0)),
    _COMPLETION,
)
CONFIG_WRITE = Cost(
    _packet_cost(ConfigWrite(header=_HEADER, target=0, register=0, data=_WORD), DOUBLEWORD),
    _packet_cost(Completion(header=_HEADER, completer=0)),
)
MESSAGE = Cost(_packet_cost(Message(header=_HEADER, code=MessageCode.ASSERT_INTA)))
_WRITE = _packet_cost(MemoryWrite(header=_HEADER, address=BASE, data=_WORD))
_READ = _packet_cost(MemoryRead(header=_HEADER, address=BASE, length=1))
"""Costs of one packet; a write has one doubleword of data, as the completion has."""


def _data_cost(packet: DirectionCost, parts: Iterable[Piece]) -> DirectionCost:
    """Return the cost of ``parts`` in packets like ``packet``, which has one doubleword of data."""
    lengths = [(part.size, packet.wire + (part.length - 1) * DOUBLEWORD) for part in parts]
    return DirectionCost(packet.kind, len(lengths), sum(size for size, _ in lengths), sum(wire for _, wire in lengths))


def write_cost(parameters: PcieParameters, size: int) -> Cost:
    """Return the cost of writing ``size`` bytes: posted, without completions."""
    return Cost(_data_cost(_WRITE, pieces(BASE, size, parameters.max_payload)))


def read_cost(parameters: PcieParameters, size: int) -> Cost:
    """Return the cost of reading ``size`` bytes: each request has its own completions."""
    requests = list(pieces(BASE, size, parameters.max_read_request))
    answers = (
        answer
        for request in requests
        for answer in completion_pieces(
            request.start, request.size, parameters.max_payload, parameters.completion_boundary
        )
    )
    count = len(requests)
    return Cost(attrs.evolve(_READ, tlps=count, wire=count * _READ.wire), _data_cost(_COMPLETION, answers))


def effective_bandwidth(parameters: PcieParameters, cost: Cost) -> float:
    """Return the bytes of data per second on a link that carries such transfers only."""
    costs = [part for part in (cost.request, cost.completion) if part is not None]
    return parameters.rate * sum(part.payload for part in costs) / max(part.wire for part in costs)
