"""Creates an interface from its description, and opens a port on it."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from typing import Literal

import attrs

from vnet.errors import SUDO, PrivilegeError, SettingRefused
from vnet.linux.background import open_background
from vnet.linux.netns import Address, Route, in_netns, open_netns, set_up_interface
from vnet.linux.poller import Poller
from vnet.linux.privileges import rootless
from vnet.linux.privileges.rights import NET_ADMIN, refusal
from vnet.linux.privileges.rootless import TUN_DEVICE
from vnet.ports.packet.interface_watch import Watches, open_watches
from vnet.ports.packet.pytun_device import TunTapDevice, open_device
from vnet.ports.packet.tap import TapPort
from vnet.ports.packet.tun import TunPort

__all__ = ["PortConfig", "check_tun", "open_packet_port"]

NAME_REFUSED = {
    errno.EBUSY: "the namespace has such an interface, and a program uses it",
    errno.EINVAL: "the namespace has an interface of this name and of another kind",
    errno.EEXIST: "the namespace has such an interface",
}
"""TUNSETIFF errors caused by the name."""


@attrs.frozen
class PortConfig:
    """Description of an interface to create.

    A missing ``netns`` is created, and removed with the port; None is our own namespace. ``mac`` (6 bytes) belongs to
    the TAP interface or the TUN port until `PacketPort.start` sets another; without it the kernel chooses that of a
    TAP. ``peer_mac`` is the other end's, for a TUN port. ``mtu`` is in bytes without the Ethernet header,
    ``txqueuelen`` in packets, ``queues`` the number of queues.
    """

    kind: Literal["tun", "tap"] = "tun"
    netns: str | None = None
    ifname: str = "vnet0"
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    forward: bool = False
    mac: bytes | None = None
    peer_mac: bytes | None = None
    mtu: int | None = None
    txqueuelen: int | None = None
    queues: int = 1

    @property
    def own_mac(self) -> bytes:
        """``mac``, else a locally administered one derived from namespace and name."""
        if self.mac is not None:
            return self.mac
        return b"\x02\x00" + zlib.crc32(f"{self.netns or ''}/{self.ifname}".encode()).to_bytes(4, "big")


def check_tun() -> None:
    """Raise PrivilegeError without a TUN device, or without the right to use it."""
    if not TUN_DEVICE.exists():
        raise PrivilegeError(f"{TUN_DEVICE} is missing", "sudo modprobe tun")
    if not os.access(TUN_DEVICE, os.R_OK | os.W_OK):
        command = f"sudo chmod 0666 {TUN_DEVICE}" if rootless.is_entered() else SUDO
        raise PrivilegeError(f"no right to open {TUN_DEVICE}", command)


@asynccontextmanager
async def open_packet_port(
    config: PortConfig, poller: Poller | None = None, watches: Watches | None = None
) -> AsyncIterator[TunPort | TapPort]:
    """Create an interface, configured and up, for the time of the context; yield its port.

    Its carrier is off and it receives no frames until `PacketPort.start`. ``poller``, which has to run, watches for
    frames; without one, tasks wait for the descriptor. ``watches`` follow the interface; the default is a new set.
    Raises SettingRefused, PrivilegeError, OSError.
    """
    check_tun()
    async with AsyncExitStack() as stack:
        if config.netns is not None:
            await stack.enter_async_context(open_netns(config.netns))
        if watches is None:
            watches = await stack.enter_async_context(open_watches())
        port = make_port(await in_netns(config.netns, partial(make_queues, config)), config)
        stack.callback(port.close)
        if isinstance(port, TunPort):
            nursery = await stack.enter_async_context(open_background())
            nursery.start_soon(port.keep_aging)
        await port.follow(watches, config.netns)
        if poller is not None:
            port.watch(poller)
        yield port


def make_queues(config: PortConfig) -> list[TunTapDevice]:
    """Create the interface in the calling thread's namespace; return the devices of all its queues."""
    with ExitStack() as stack:
        devices = [make_interface(config)]
        stack.callback(devices[0].close)
        while len(devices) < config.queues:
            devices.append(open_device(config.kind, config.ifname, multi=True))
            stack.callback(devices[-1].close)
        stack.pop_all()
        return devices


def make_interface(config: PortConfig) -> TunTapDevice:
    """Create the interface in the calling thread's namespace; return the device of its first queue."""
    try:
        device = open_device(config.kind, config.ifname, multi=config.queues > 1)
    except OSError as error:
        if error.errno in NAME_REFUSED:
            why = NAME_REFUSED[error.errno]
            raise SettingRefused(error.errno, why, config.ifname, "ifname", config.ifname) from error
        raise refusal(error, f"make the interface {config.ifname}", NET_ADMIN) from error
    try:
        set_up_interface(
            config.ifname,
            addresses=config.addresses,
            mac=config.mac if config.kind == "tap" else None,
            mtu=config.mtu,
            txqueuelen=config.txqueuelen,
            routes=config.routes,
            forward=config.forward,
        )
    except BaseException:
        device.close()
        raise
    return device


def make_port(devices: Sequence[TunTapDevice], config: PortConfig) -> TunPort | TapPort:
    """Make a port over all queues of an interface; close the devices if that fails."""
    with ExitStack() as stack:
        for device in devices:
            stack.callback(device.close)
        first, *others = devices
        port: TunPort | TapPort
        if config.kind == "tap":
            port = TapPort(first, config.ifname, mac=config.own_mac)
            for device in others:
                TapPort(device, config.ifname, mac=config.own_mac, lead=port)
        else:
            port = TunPort(first, config.ifname, mac=config.own_mac, peer_mac=config.peer_mac)
            for device in others:
                TunPort(device, config.ifname, mac=config.own_mac, peer_mac=config.peer_mac, lead=port)
        stack.pop_all()
        return port
