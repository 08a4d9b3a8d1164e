"""A port that follows the state of its interface, and configures it."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence

import trio

from drivers.contracts.liveness import Liveness
from drivers.contracts.ports import PortState
from drivers.errors import PortGone
from vnet.linux.files import naming
from vnet.linux.netlink.link_table import InterfaceState
from vnet.linux.privileges.confinement import is_confined
from vnet.ports.packet.base import CountingPort
from vnet.ports.packet.interface_watch import Interface, Watches

__all__ = ["InterfacePort"]

LOG = logging.getLogger(__name__)
GONE = {errno.EBADF, errno.EBADFD, errno.ENODEV, errno.ENXIO}


class InterfacePort(CountingPort):
    """The interface's side of a port over /dev/net/tun. `follow` starts to track the interface's state."""

    # See `CountingPort`.
    __slots__ = ("_changed", "_fd", "_interface", "addresses", "ifname", "liveness", "lost", "networks", "state")

    NEEDS_PROMISC = False
    """Whether the device's receive filter depends on the interface's promiscuity."""
    _fd: int

    def __init__(self, ifname: str) -> None:
        super().__init__()
        self.ifname = ifname
        """The interface's current name."""
        self.state = PortState(vlans=frozenset())
        self.addresses: tuple[bytes, ...] = ()
        """The interface's IP addresses of 4 or 16 bytes, including link-local ones."""
        self.networks: tuple[tuple[bytes, int], ...] = ()
        """Networks of these addresses: an address in the network, and its prefix length."""
        self.liveness = Liveness()
        """Whether the port is started, and the kernel sends through the interface."""
        self.lost = ""
        """Reason why the interface can't be used any more; empty if it can."""
        self._interface: Interface | None = None
        self._changed = trio.Event()

    async def follow(self, watches: Watches, netns: str | None) -> None:
        """Keep `state` and `addresses` up to date until `close`; ``netns`` is the interface's. Raises OSError."""
        with naming(self.ifname):
            self._interface = await watches.follow(self._fd, self, netns)

    def _update_liveness(self) -> None:
        """Set `liveness` after a change of the port or of the interface, which counts as running if not followed."""
        self.liveness.set(self.live and (self._interface is None or self._interface.running))

    def interface_changed(self, state: InterfaceState) -> None:
        self.ifname = state.name
        if (state.addresses, state.networks) != (self.addresses, self.networks):
            self.addresses, self.networks = state.addresses, state.networks
            self._addresses_changed()
        self._update_liveness()
        self._set_state(PortState(state.mac, state.promisc, state.allmulti, state.vlans))

    def interface_gone(self, why: str) -> None:
        self.lost = why
        self._wake_state_waiters()  # the kernel wakes tasks that wait for frames

    def _set_state(self, state: PortState) -> None:
        if state != self.state:
            self.state = state
            self._wake_state_waiters()

    def _wake_state_waiters(self) -> None:
        """Make `wait_state` check again."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait_state(self, known: PortState) -> PortState:
        if self._interface is not None:
            self._interface.rereads = self.NEEDS_PROMISC
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
                pass  # an old kernel does not support it; the next frame reports a deleted interface

    def _set_mtu(self, mtu: int) -> None:
        """Set the interface's MTU. Raises PortGone."""
        if self._interface is not None:
            try:
                self._interface.set_mtu(mtu)
            except OSError as error:
                if not (isinstance(error, PermissionError) and is_confined()):
                    raise self._gone(error) from error
                # Larger packets of the interface are dropped, as after a change of its MTU by the user.
                LOG.warning("%s: the sandbox keeps its MTU, and does not allow %d", self.ifname, mtu)

    def _refresh_interface(self) -> None:
        """Update `state` and `addresses` with all changes made before this call."""
        if self._interface is not None:
            self._interface.refresh()

    def _close_devices(self, devices: Sequence[Callable[[], None]]) -> None:
        """Stop following the interface, and close ``devices`` now or when the watches end."""
        self._wake_state_waiters()
        if self._interface is not None:
            self._interface.close(devices)
        else:
            for close in devices:
                close()

    def _check(self) -> None:
        """Raise PortGone if the interface is lost."""
        if self.lost:
            raise PortGone(self.lost)

    def _gone(self, error: OSError) -> PortGone:
        """Return the error to raise for an error of the descriptor or of its interface."""
        condition = "is gone" if error.errno in GONE else "can't be used"
        return PortGone(self.lost or f"{self.ifname} {condition}: {error.strerror}")

    # For subclasses

    @property
    def live(self) -> bool:
        """Whether the port is started."""
        raise NotImplementedError

    def _addresses_changed(self) -> None:
        """Handle a change of `addresses` or `networks`."""
