"""What every port shares: its counters, and bytes laid over a list of segments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import MappingProxyType

from drivers.contracts.ports import Offloads, PortStatistics
from rings.chain import copy_in, total

__all__ = ["NEEDS_CSUM", "CountingPort", "KnownFronts", "KnownHeaders", "agreed", "agreed_gso_types", "scatter"]

NEEDS_CSUM = 1
"""The flag of a virtio_net_hdr whose checksum is left to do. No other one passes a port."""
GSO_TYPES = {"tso4": 1, "tso6": 4, "uso": 5}
TCP_TYPES, ECN = {1, 4}, 0x80


class CountingPort:
    """Counts what passes. Frames offered in either direction = received + sent + dropped + still waiting.

    Bytes are those of the Ethernet frame, without the virtio_net_hdr.
    """

    def __init__(self) -> None:
        self.rx_packets = 0
        self.rx_bytes = 0
        self.tx_packets = 0
        self.tx_bytes = 0
        self._drops: dict[str, int] = {}

    def drop(self, cause: str, count: int = 1) -> None:
        """Count ``count`` frames that were dropped for one ``cause``."""
        if count:
            self._drops[cause] = self._drops.get(cause, 0) + count

    def carried(self) -> int:
        """Bytes that passed, in both directions."""
        return self.rx_bytes + self.tx_bytes

    def statistics(self) -> PortStatistics:
        """A frozen copy of the counters."""
        return CountingPort.total((self,))

    @staticmethod
    def total(ports: Sequence[CountingPort]) -> PortStatistics:
        """A frozen copy of the sums over ``ports``."""
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


class KnownHeaders(dict[bytes, bytes]):
    """What is to be put in place of each header; traffic uses few at one time, a hostile peer finds it bounded."""

    MAX = 1024

    def __setitem__(self, header: bytes, instead: bytes) -> None:
        if len(self) >= self.MAX:
            self.clear()
        super().__setitem__(header, instead)


class KnownFronts(dict[int | bytes, dict[bytes, bytes]]):
    """What goes before a packet, by its destination, then by its header. All of it together is bounded."""

    MAX = 1024

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def add(self, to: int | bytes, header: bytes, front: bytes) -> None:
        if self._count >= self.MAX:
            self.clear()
        self.setdefault(to, {})[header] = front
        self._count += 1

    def clear(self) -> None:
        super().clear()
        self._count = 0


def agreed_gso_types(offloads: Offloads) -> frozenset[int]:
    """The gso_type values a header may have under ``offloads`` as soon as it asks for anything at all."""
    gso = {number for name, number in GSO_TYPES.items() if getattr(offloads, name)}
    if offloads.ecn:
        gso |= {number | ECN for number in gso & TCP_TYPES}
    return frozenset({0} | gso if offloads.csum else ())


def agreed(header: bytearray, gso_types: frozenset[int]) -> bool:
    """Whether a virtio_net_hdr asks only for what was agreed to; flags that ask for nothing are cleared."""
    header[0] &= NEEDS_CSUM
    return header[1] in gso_types or not (header[0] or header[1])


def scatter(segs: Sequence[memoryview], data: bytes | bytearray) -> bool:
    """Copy ``data`` over the segments, in order; False, and nothing copied, where it does not fit."""
    return len(data) <= total(segs) and copy_in(segs, data) == len(data)
