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
"""``speed`` and ``duplex`` of struct ethtool_link_settings."""
MASK_WORDS_OFFSET = 15
"""Offset of ``link_mode_masks_nwords``, the 32-bit words of each of three masks; negative after a wrong request."""
SIZE = 48
SPEED_UNKNOWN, DUPLEX_UNKNOWN = 0xFFFFFFFF, 0xFF


def set_link_mode(fd: int, ifname: bytes, speed: int | None, full_duplex: bool | None) -> None:
    """Set the speed (Mbit/s) and the duplex mode that the interface reports; None: unknown.

    ``fd`` is a socket in the interface's namespace. Raises OSError if the interface does not support it.
    """
    settings = ctypes.create_string_buffer(SIZE)
    _ioctl(fd, ifname, ETHTOOL_GLINKSETTINGS, settings)
    words = -struct.unpack_from("b", settings, MASK_WORDS_OFFSET)[0]
    settings = ctypes.create_string_buffer(SIZE + 3 * 4 * words)
    struct.pack_into("b", settings, MASK_WORDS_OFFSET, words)
    _ioctl(fd, ifname, ETHTOOL_GLINKSETTINGS, settings)
    duplex = DUPLEX_UNKNOWN if full_duplex is None else int(full_duplex)
    SPEED.pack_into(settings, 0, SPEED_UNKNOWN if speed is None else speed, duplex)
    _ioctl(fd, ifname, ETHTOOL_SLINKSETTINGS, settings)


def _ioctl(fd: int, ifname: bytes, command: int, settings: ctypes.Array[ctypes.c_char]) -> None:
    struct.pack_into("=I", settings, 0, command)
    fcntl.ioctl(fd, SIOCETHTOOL, IFREQ_POINTER.pack(ifname, ctypes.addressof(settings)))
