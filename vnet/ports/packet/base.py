"""Shared parts of packet ports: counters, header caches, offload checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import MappingProxyType
from typing import TypeVar

from drivers.contracts.ports import Offloads, PortStatistics
from rings.chain import copy_in, total

__all__ = [
    "NEEDS_CSUM",
    "CountingPort",
    "KnownHeaders",
    "uses_agreed_offloads",
    "agreed_gso_types",
    "scatter",
]

NEEDS_CSUM = 1
"""VIRTIO_NET_HDR_F_NEEDS_CSUM, the only flag that ports pass on."""
GSO_TYPES = {"tso4": 1, "tso6": 4, "uso": 5}
TCP_TYPES, ECN = {1, 4}, 0x80
K = TypeVar("K")


class CountingPort:
    """A port's counters. Frames offered in both directions = received + sent + dropped + waiting.

    Bytes are those of the Ethernet frame, without the virtio_net_hdr.
    """

    # With slots, subclasses stay below the number of attributes that CPython finds fast: `rings.observers.overlay`.
    __slots__ = ("_drops", "rx_bytes", "rx_packets", "tx_bytes", "tx_packets")

    def __init__(self) -> None:
        self.rx_packets = 0
        self.rx_bytes = 0
        self.tx_packets = 0
        self.tx_bytes = 0
        self._drops: Counter[str] = Counter()

    def drop(self, cause: str, count: int = 1) -> None:
        """Count ``count`` frames dropped for ``cause``."""
        if count:
            self._drops[cause] += count

    def byte_count(self) -> int:
        """Return the bytes of both directions so far."""
        return self.rx_bytes + self.tx_bytes

    def statistics(self) -> PortStatistics:
        """Return a frozen copy of the counters."""
        return CountingPort.total((self,))

    @staticmethod
    def total(ports: Sequence[CountingPort]) -> PortStatistics:
        """Return a frozen copy of the sums over ``ports``."""
        drops: Counter[str] = Counter()
        for port in ports:
            drops.update(port._drops)
        return PortStatistics(
            rx_packets=sum(port.rx_packets for port in ports),
            rx_bytes=sum(port.rx_bytes for port in ports),
            tx_packets=sum(port.tx_packets for port in ports),
            tx_bytes=sum(port.tx_bytes for port in ports),
            drops=MappingProxyType(dict(drops)),
        )


class KnownHeaders(dict[K, bytes]):
    """Cache of replacement headers by header. It is bounded, because a hostile peer can send many headers."""

    MAX = 1024

    def __setitem__(self, key: K, replacement: bytes) -> None:
        if len(self) >= self.MAX:
            self.clear()
        super().__setitem__(key, replacement)


def agreed_gso_types(offloads: Offloads) -> frozenset[int]:
    """Return the gso_type values that a header may have under ``offloads``."""
    gso = {number for name, number in GSO_TYPES.items() if getattr(offloads, name)}
    if offloads.ecn:
        gso |= {number | ECN for number in gso & TCP_TYPES}
    return frozenset({0} | gso if offloads.csum else ())


def uses_agreed_offloads(header: bytearray, gso_types: frozenset[int]) -> bool:
    """Return whether a virtio_net_hdr uses only negotiated offloads; clear flags without effect."""
    header[0] &= NEEDS_CSUM
    return header[1] in gso_types or not (header[0] or header[1])


def scatter(segs: Sequence[memoryview], data: bytes | bytearray) -> bool:
    """Copy ``data`` into the segments, in order; return False, without a copy, if it does not fit."""
    size = len(data)
    if segs and size <= len(segs[0]):
        segs[0][:size] = data
        return True
    return size <= total(segs) and copy_in(segs, data) == size
