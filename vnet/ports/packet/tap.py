"""A port over a TAP interface, which carries Ethernet frames as the ring does."""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Mapping, Sequence

from drivers.contracts.ports import HEADER_SIZE
from drivers.devices.net.vlan import ETHERTYPE_AT, TAGS_ROOM, tags_end
from vnet.ports.packet.base import KnownHeaders
from vnet.ports.packet.pytun_device import TunTapDevice
from vnet.ports.packet.tuntap import LEAD, TunTapPort

__all__ = ["TapPort"]

SIOCSIFHWADDR = 0x8924
IFREQ_HWADDR = struct.Struct("16sH6s16x")
ARPHRD_ETHER = 1
START = struct.Struct("10s")
"""The part of a virtio_net_hdr that the kernel fills."""


class TapPort(TunTapPort):
    """A port over a TAP interface; the kernel does ARP and neighbour discovery."""

    NEEDS_PROMISC = True

    send = TunTapPort._write

    def __init__(
        self,
        device: TunTapDevice,
        ifname: str,
        *,
        mac: bytes = bytes(6),
        lead: TapPort | None = None,
    ) -> None:
        """``mac`` is announced until `set_mac`."""
        super().__init__(device, ifname, lead)
        self._fronts = KnownHeaders[bytes]()
        self._mac = mac

    def _front(self, seg: memoryview, size: int, segs: Sequence[memoryview]) -> bytes | None:
        (start,) = START.unpack_from(seg)
        front = self._fronts.get(start)
        if front is None and (header := self._agreed_header(start)):
            front = self._fronts[start] = bytes(header)
        return front

    def _tags(self, seg: memoryview) -> int:
        return min(tags_end(bytes(seg[HEADER_SIZE:LEAD])) - ETHERTYPE_AT, TAGS_ROOM)

    def _take_mac(self, mac: bytes) -> None:
        # This ioctl on the descriptor needs neither the interface's name nor a socket in its namespace.
        request = IFREQ_HWADDR.pack(b"", ARPHRD_ETHER, mac)
        try:
            fcntl.ioctl(self._fd, SIOCSIFHWADDR, request)
        except OSError as error:
            raise self._gone(error) from error
        self._mac = mac

    def _own_mac(self) -> bytes:
        return self.state.mac or self._mac

    def _caches(self) -> tuple[Mapping[bytes, bytes], None]:
        return self._fronts, None

    def _forget(self) -> None:
        self._fronts.clear()
