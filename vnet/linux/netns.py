"""Network namespaces and the interfaces in them: made, addressed, read and removed over netlink.

Everything here blocks. Most of it acts in the namespace of the calling thread; `run_in_netns` gives it a
thread of its own there, which ends with it, since a thread that changed its namespace is of no other use.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_network,
)
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import attrs
import trio

from vnet.errors import PrivilegeError, SettingRefused
from vnet.linux.rights import NET_ADMIN, SYS_ADMIN, has_capability, refusal
from vnet.linux.syscalls import CLONE_NEWNET, MS_BIND, MS_REC, MS_SHARED, mount, setns, umount, unshare

if TYPE_CHECKING:
    from pyroute2 import IPRoute

__all__ = [
    "Address",
    "IPV6_MIN_MTU",
    "NETNS_DIR",
    "InterfaceStatistics",
    "Route",
    "check_netns",
    "create_netns",
    "has_ipv6",
    "has_netns",
    "in_netns",
    "interface_statistics",
    "netns_command",
    "open_netns",
    "remove_netns",
    "run_in_namespace",
    "run_in_netns",
    "set_up_interface",
]

T = TypeVar("T")
Address = IPv4Interface | IPv6Interface

NETNS_DIR = Path("/run/netns")
NS_GET_NSTYPE = 0xB703
IFA_F_NODAD = 2
IPV4_CONF = Path("/proc/sys/net/ipv4/conf")
IPV6_CONF = Path("/proc/sys/net/ipv6/conf")
IF_INET6 = Path("/proc/thread-self/net/if_inet6")
LOG = logging.getLogger(__name__)
IPV6_MIN_MTU = 1280
"""Bytes; RFC 8200 section 5."""
DISABLE_IPV6 = ("net.ipv6.conf.all.disable_ipv6", "net.ipv6.conf.default.disable_ipv6")


@attrs.frozen
class Route:
    """Packets to ``network`` go out of the interface, to the router ``via`` where there is one."""

    network: IPv4Network | IPv6Network
    via: IPv4Address | IPv6Address | None = None

    @classmethod
    def parse(cls, text: str) -> Route:
        """From ``NETWORK`` or ``NETWORK via ROUTER``. Raises ValueError."""
        network, word, via = text.partition(" via ")
        route = cls(ip_network(network.strip()), ip_address(via.strip()) if word else None)
        if route.via is not None and route.via.version != route.network.version:
            raise ValueError(f"{text!r} mixes IPv4 and IPv6")
        return route

    def __str__(self) -> str:
        return str(self.network) if self.via is None else f"{self.network} via {self.via}"


@attrs.frozen
class InterfaceStatistics:
    """What the kernel counts for one interface. Received means: by the kernel, from the port."""

    rx_packets: int
    rx_bytes: int
    rx_errors: int
    rx_dropped: int
    tx_packets: int
    tx_bytes: int
    tx_errors: int
    tx_dropped: int


# Namespaces


def run_in_netns(netns: str | None, call: Callable[[], T]) -> T:
    """What ``call()`` returns, or raises, in a thread of its own in namespace ``netns`` (None: ours).

    Raises FileNotFoundError where there is no such namespace, PrivilegeError where it may not be entered.
    """
    if netns is None:
        return call()
    path = NETNS_DIR / netns
    return in_new_thread(lambda: enter(path), call)


def run_in_namespace(fd: int, call: Callable[[], T]) -> T:
    """`run_in_netns` for the namespace of a descriptor. Raises OSError."""
    from pyroute2 import netns as pyroute2_netns

    return in_new_thread(lambda: pyroute2_netns.setns(fd), call)


async def in_netns(netns: str | None, call: Callable[[], T]) -> T:
    """`run_in_netns` for a task."""
    return await trio.to_thread.run_sync(run_in_netns, netns, call)


def check_netns() -> None:
    """Raise PrivilegeError without the right to make network namespaces, and interfaces in them."""
    error = refusal(OSError(errno.EPERM, os.strerror(errno.EPERM)), "make network namespaces", SYS_ADMIN, NET_ADMIN)
    if isinstance(error, PrivilegeError):
        raise error


def create_netns(netns: str) -> bool:
    """Make the namespace, its loopback up; False, and nothing done, if it exists.

    Raises PrivilegeError, OSError; nothing stays behind then.
    """
    if has_netns(netns):
        return False
    in_new_thread(lambda: None, lambda: make(netns))
    return True


def has_netns(netns: str) -> bool:
    """Whether there is a namespace of this name. Raises OSError for a name in use that has no namespace behind it."""
    path = NETNS_DIR / netns
    if not os.path.lexists(path):
        return False
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = fcntl.ioctl(fd, NS_GET_NSTYPE)
        finally:
            os.close(fd)
    except OSError:
        found = 0
    if found == CLONE_NEWNET:
        return True
    raise _left_behind(path)


def identity(netns: str) -> tuple[int, int] | None:
    """Tell namespaces of the same name apart; None if there is none."""
    try:
        found = (NETNS_DIR / netns).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def remove_netns(netns: str) -> None:
    """Take the name away; the namespace ends with the last process in it. Harmless if there is none. Raises OSError."""
    path = NETNS_DIR / netns
    if not os.path.lexists(path):
        return
    try:
        umount(path)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a name without a namespace
            raise
    path.unlink(missing_ok=True)


@asynccontextmanager
async def open_netns(netns: str) -> AsyncIterator[bool]:
    """The namespace for as long as the context lasts; one that existed before stays. Gives whether we made it.

    If its name was deleted meanwhile, and given to another namespace, that one stays.
    """
    made = await trio.to_thread.run_sync(create_netns, netns)
    ours = identity(netns)
    try:
        yield made
    finally:
        if made and identity(netns) == ours:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(remove_netns, netns)


def netns_command(netns: str | None, argv: Sequence[str]) -> list[str]:
    """The command line that runs ``argv`` in namespace ``netns``."""
    return list(argv) if netns is None else ["nsenter", f"--net={NETNS_DIR / netns}", "--", *argv]


def in_new_thread(prepare: Callable[[], None], call: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            prepare()
            results.append(call())
        except BaseException as error:  # noqa: BLE001  raised again by the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def enter(path: Path) -> None:
    """Move the calling thread to the network namespace at ``path``. Raises PrivilegeError, OSError."""
    try:
        setns(path, CLONE_NEWNET)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise _left_behind(path) from error
        raise refusal(error, f"enter the network namespace {path.name}", SYS_ADMIN) from error


def make(netns: str) -> None:
    """Give the calling thread a new namespace, its loopback up, and then the namespace its name.

    A namespace that can't be set up has no name yet: it ends with the thread.
    """
    try:
        unshare(CLONE_NEWNET)
    except OSError as error:
        raise refusal(error, f"make the network namespace {netns}", SYS_ADMIN) from error
    for conf in ("all", "default"):
        _try_switch(IPV6_CONF / conf / "disable_ipv6", "0")  # what the machine has elsewhere is no matter here
    set_up_interface("lo")
    path = NETNS_DIR / netns
    try:
        _share_netns_dir()
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
        try:
            mount(Path("/proc/thread-self/ns/net"), path, flags=MS_BIND)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise refusal(error, f"make the network namespace {netns}", SYS_ADMIN) from error


def _share_netns_dir() -> None:
    """Make the directory of names a shared mount, as iproute2 does: a name that is taken away is gone everywhere."""
    NETNS_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        mount(None, NETNS_DIR, flags=MS_SHARED | MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        mount(NETNS_DIR, NETNS_DIR, flags=MS_BIND | MS_REC)  # it was no mount point
        mount(None, NETNS_DIR, flags=MS_SHARED | MS_REC)


def _left_behind(path: Path) -> OSError:
    why = f"it is no network namespace but a name that was left behind; try: ip netns del {path.name}"
    return OSError(errno.EINVAL, why, str(path))


# Interfaces of the calling thread's namespace


def set_up_interface(
    ifname: str,
    *,
    addresses: Sequence[Address] = (),
    mac: bytes | None = None,
    mtu: int | None = None,
    txqueuelen: int | None = None,
    routes: Sequence[Route] = (),
    forward: bool = False,
) -> None:
    """Configure an interface and bring it up. Its IPv6 addresses work at once, without a search for duplicates.

    ``mac`` is 6 bytes, ``mtu`` in bytes without the Ethernet header, ``txqueuelen`` in packets. With ``forward`` what
    comes in is routed on: IPv6 knows that for the namespace as a whole only. If the kernel has no IPv6, its addresses
    and routes are left out, and a warning names them. Raises SettingRefused, PrivilegeError, OSError.
    """
    from pyroute2 import IPRoute

    _try_switch(IPV6_CONF / ifname / "accept_dad", "0")  # if not, only the link-local address has to wait
    for switch in (IPV4_CONF / ifname / "forwarding", IPV6_CONF / "all" / "forwarding") if forward else ():
        _write_switch(switch, "1")
    if not has_ipv6():
        left_out = [str(address) for address in addresses if address.version == 6]
        left_out += [str(route) for route in routes if route.network.version == 6]
        if left_out:
            LOG.warning("%s: this kernel has no IPv6; left out: %s", ifname, ", ".join(left_out))
        addresses = [address for address in addresses if address.version == 4]
        routes = [route for route in routes if route.network.version == 4]
    # The address comes first: the kernel makes the link-local one of it.
    settings = (
        ("mac", "address", mac and mac.hex(":")),
        ("mtu", "mtu", mtu),
        ("txqueuelen", "txqlen", txqueuelen),
        ("ifname", "state", "up"),
    )
    with IPRoute() as netlink:
        index = find(netlink, ifname)
        for field, key, value in settings:
            if value is not None:
                with _setting(ifname, field, value):
                    netlink.link("set", index=index, **{key: value})
        for address in addresses:
            with _setting(ifname, "addresses", str(address)):
                flags = {"flags": IFA_F_NODAD} if address.version == 6 else {}
                prefixlen = address.network.prefixlen
                netlink.addr("replace", index=index, address=str(address.ip), prefixlen=prefixlen, **flags)
        for route in routes:
            with _setting(ifname, "routes", str(route)):
                gateway = {} if route.via is None else {"gateway": str(route.via)}
                netlink.route("replace", dst=str(route.network), oif=index, **gateway)


def has_ipv6() -> bool:
    """Whether the kernel has IPv6."""
    return IF_INET6.exists()


def _write_switch(switch: Path, value: str) -> None:
    """Set a switch in /proc/sys, if there is one and it has another value. Raises OSError."""
    try:
        if switch.read_text(encoding="ascii").strip() != value:
            switch.write_text(value, encoding="ascii")
    except FileNotFoundError:  # the kernel has no IPv6
        pass


def _try_switch(switch: Path, value: str) -> None:
    """Set a switch that is no condition; most containers have /proc/sys read-only."""
    try:
        _write_switch(switch, value)
    except OSError:
        pass


@contextmanager
def _setting(ifname: str, field: str, value: object) -> Iterator[None]:
    """Raise what netlink refuses inside as an error of the setting ``field``, or as a missing right."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        if not has_capability(NET_ADMIN):
            cause = OSError(error.code, os.strerror(error.code))
            raise refusal(cause, f"configure the interface {ifname}", NET_ADMIN) from error
        why = os.strerror(error.code)
        if field in {"addresses", "routes"} and ":" in str(value) and (off := _ipv6_off(ifname)):
            why = off
        raise SettingRefused(error.code, why, ifname, field, value) from error


def _ipv6_off(ifname: str) -> str:
    """Why an interface of the calling thread's namespace takes no IPv6 address; empty if it is not known."""
    switch = IPV6_CONF / ifname / "disable_ipv6"
    if not switch.exists():
        return f"IPv6 needs an MTU of {IPV6_MIN_MTU} bytes"
    if switch.read_text(encoding="ascii").strip() == "0":
        return ""
    return f"IPv6 is off in the namespace; try there: sysctl -w {' '.join(f'{at}=0' for at in DISABLE_IPV6)}"


def interface_statistics(netns: str | None, ifname: str) -> InterfaceStatistics:
    """The kernel's counters of an interface in namespace ``netns``. Raises OSError where it is gone."""

    def read() -> InterfaceStatistics:
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            [link] = netlink.get_links(find(netlink, ifname))
            counters = link.get("stats64")
        return InterfaceStatistics(**{field.name: counters[field.name] for field in attrs.fields(InterfaceStatistics)})

    return run_in_netns(netns, read)


def find(netlink: IPRoute, ifname: str) -> int:
    """The index of an interface. Raises OSError where there is none."""
    found = netlink.link_lookup(ifname=ifname)
    if not found:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), ifname)
    return int(found[0])
