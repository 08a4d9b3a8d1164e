"""A TAP interface: Ethernet frames on both sides, passed through."""

from __future__ import annotations

import fcntl
import struct

from drivers.ports import ETH_HLEN, HEADER_SIZE
from vnet.ports.tuntap import TunTapPort

__all__ = ["TapPort"]

SIOCSIFHWADDR = 0x8924
IFREQ_HWADDR = struct.Struct("16sH6s16x")
ARPHRD_ETHER = 1


class TapPort(TunTapPort):
    """Frames of a TAP interface, whose own kernel speaks ARP and neighbour discovery for itself."""

    LEAD = HEADER_SIZE + ETH_HLEN

    send = TunTapPort._write

    def _identify(self, mac: bytes | None, addresses: tuple[bytes, ...]) -> None:
        if mac is not None:
            # Asked of the descriptor, so that it needs no socket in the interface's namespace.
            request = IFREQ_HWADDR.pack(self.ifname.encode(), ARPHRD_ETHER, mac)
            fcntl.ioctl(self._fd, SIOCSIFHWADDR, request)
