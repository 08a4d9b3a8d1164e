"""Typed access to python-pytun, which has no types."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Mapping
from typing import Protocol, cast

import pytun

from drivers.contracts.ports import HEADER_SIZE
from vnet.linux.files import naming

__all__ = ["TunTapDevice", "open_device"]

TUNSETVNETHDRSZ = 0x400454D8
MODES: Mapping[str, int] = {"tun": pytun.IFF_TUN, "tap": pytun.IFF_TAP}


class TunTapDevice(Protocol):
    """The methods of a python-pytun device that we use."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...


def open_device(kind: str, ifname: str, *, multi: bool = False) -> TunTapDevice:
    """Create an interface of ``kind`` "tun" or "tap" in the calling thread's namespace. Raises OSError.

    With ``multi``, each further call with the same name opens another queue of the interface.
    """
    flags = MODES[kind] | pytun.IFF_NO_PI | pytun.IFF_VNET_HDR | (pytun.IFF_MULTI_QUEUE if multi else 0)
    try:
        device = cast(TunTapDevice, pytun.TunTapDevice(name=ifname, flags=flags))
    except pytun.Error as error:
        # pytun's own checks raise errors without an errno; callers expect OSError.
        raise OSError(*error.args if len(error.args) > 1 else (errno.EINVAL, str(error)), ifname) from None
    try:
        with naming(ifname):
            os.set_blocking(device.fileno(), False)
            fcntl.ioctl(device.fileno(), TUNSETVNETHDRSZ, struct.pack("i", HEADER_SIZE))
    except BaseException:
        device.close()
        raise
    return device
