"""A port whose interface is followed: what the interface is like, and what is set up of it from here."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

import trio

from drivers.contracts.ports import PortState
from drivers.errors import PortGone
from vnet.linux.netlink.link_table import InterfaceState
from vnet.ports.packet.base import CountingPort
from vnet.ports.packet.interface_watch import Interface, Watches

__all__ = ["FollowedPort"]

GONE = {errno.EBADF, errno.EBADFD, errno.ENODEV, errno.ENXIO}


class FollowedPort(CountingPort):
    """The interface's side of a port over /dev/net/tun. Before `follow` nothing is known of the interface."""

    FILTERED = False
    """Whether the interface may want frames for more stations than its own."""
    _fd: int

    def __init__(self, ifname: str) -> None:
        super().__init__()
        self.ifname = ifname
        """Today's name."""
        self.state = PortState(vlans=frozenset())
        self.addresses: tuple[bytes, ...] = ()
        """The interface's IP addresses, of 4 or 16 bytes; the kernel's own are among them."""
        self.networks: tuple[tuple[bytes, int], ...] = ()
        """Their networks, each an address in it and the bits of its prefix."""
        self.lost = ""
        """Why it can't be used any more."""
        self._interface: Interface | None = None
        self._changed = trio.Event()

    async def follow(self, watches: Watches, netns: str | None) -> None:
        """Have `state` and `addresses` follow the interface, made in ``netns``, until `close`. Raises OSError."""
        self._interface = await watches.follow(self._fd, self, netns)

    @property
    def interface_running(self) -> bool:
        """Whether the kernel sends through the interface, as far as that is known."""
        return self._interface is None or self._interface.running

    def interface_changed(self, state: InterfaceState) -> None:
        self.ifname = state.name
        if (state.addresses, state.networks) != (self.addresses, self.networks):
            self.addresses, self.networks = state.addresses, state.networks
            self._identify()
        self._set_state(PortState(state.mac, state.promisc, state.allmulti, state.vlans))

    def interface_gone(self, why: str) -> None:
        self.lost = why
        self._tell()  # tasks that wait for frames are woken by the kernel

    def _set_state(self, state: PortState) -> None:
        if state != self.state:
            self.state = state
            self._tell()

    def _tell(self) -> None:
        """Have `wait_state` look again."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait_state(self, known: PortState) -> PortState:
        if self._interface is not None:
            self._interface.rereads = self.FILTERED
        try:
            while self.state == known:
                self._check()
                await self._changed.wait()
        finally:
            if self._interface is not None:
                self._interface.rereads = False
        return self.state

    def set_link_mode(self, speed: int | None, full_duplex: bool | None) -> None:
        if self._interface is not None:
            try:
                self._interface.set_link_mode(speed, full_duplex)
            except OSError:
                pass  # an old kernel, or a deleted interface: it carries frames without, or is found out by those

    def _set_mtu(self, mtu: int) -> None:
        """Raises PortGone."""
        if self._interface is not None:
            try:
                self._interface.set_mtu(mtu)
            except OSError as error:
                raise self._gone(error) from error

    def _refresh_interface(self) -> None:
        """Have `state` and `addresses` include all that was done to the interface before this call."""
        if self._interface is not None:
            self._interface.refresh()

    def _close_devices(self, devices: Sequence[Callable[[], None]]) -> None:
        """Follow the interface no more, and have ``devices`` closed, perhaps later."""
        self._tell()
        if self._interface is not None:
            self._interface.close(devices)
        else:
            for close in devices:
                close()

    def _check(self) -> None:
        """Raises PortGone."""
        if self.lost:
            raise PortGone(self.lost)

    def _gone(self, error: OSError) -> PortGone:
        """The error to raise for one of the descriptor or of its interface."""
        what = "is gone" if error.errno in GONE else "can't be used"
        return PortGone(self.lost or f"{self.ifname} {what}: {error.strerror}")

    # For subclasses

    def _identify(self) -> None:
        """The interface has other `addresses` or `networks` than before."""
