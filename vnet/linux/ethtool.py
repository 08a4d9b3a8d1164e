"""Speed and duplex mode of an interface, as ``ethtool`` shows them."""

from __future__ import annotations

import ctypes
import fcntl
import struct

__all__ = ["set_link_mode"]

SIOCETHTOOL = 0x8946
ETHTOOL_GLINKSETTINGS, ETHTOOL_SLINKSETTINGS = 0x4C, 0x4D
IFREQ_POINTER = struct.Struct("16sP16x")
SPEED = struct.Struct("=4xIB")
"""Of a struct ethtool_link_settings: speed, duplex."""
WORDS_AT = 15
"""Where it has the number of 32-bit words of each of its three masks, negative if another number was asked for."""
SIZE = 48
SPEED_UNKNOWN, DUPLEX_UNKNOWN = 0xFFFFFFFF, 0xFF


def set_link_mode(fd: int, ifname: bytes, speed: int | None, full_duplex: bool | None) -> None:
    """Set what the interface shows: Mbit/s, and the duplex mode; None: unknown.

    ``fd`` is a socket in the interface's namespace. Raises OSError for an interface that takes none of it.
    """
    settings = ctypes.create_string_buffer(SIZE)
    _ask(fd, ifname, ETHTOOL_GLINKSETTINGS, settings)
    words = -struct.unpack_from("b", settings, WORDS_AT)[0]
    settings = ctypes.create_string_buffer(SIZE + 3 * 4 * words)
    struct.pack_into("b", settings, WORDS_AT, words)
    _ask(fd, ifname, ETHTOOL_GLINKSETTINGS, settings)
    duplex = DUPLEX_UNKNOWN if full_duplex is None else int(full_duplex)
    SPEED.pack_into(settings, 0, SPEED_UNKNOWN if speed is None else speed, duplex)
    _ask(fd, ifname, ETHTOOL_SLINKSETTINGS, settings)


def _ask(fd: int, ifname: bytes, command: int, settings: ctypes.Array[ctypes.c_char]) -> None:
    struct.pack_into("=I", settings, 0, command)
    fcntl.ioctl(fd, SIOCETHTOOL, IFREQ_POINTER.pack(ifname, ctypes.addressof(settings)))
