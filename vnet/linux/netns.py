"""Creates, configures, reads and removes network namespaces and their interfaces, over netlink.

All functions block. Most act in the namespace of the calling thread. `run_in_netns` runs a call in a new
thread, which ends with the call, because a thread that changed its namespace is of no other use.
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
from vnet.linux.files import naming
from vnet.linux.privileges.confinement import is_confined
from vnet.linux.privileges.rights import NET_ADMIN, SYS_ADMIN, has_capability, refusal
from vnet.linux.syscalls import CLONE_NEWNET, MS_BIND, MS_REC, MS_SHARED, mount, setns, umount, unshare
from vnet.linux.threads import run_in_thread, run_in_thread_or_here, start_thread

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
    "find_index",
    "has_ipv6",
    "has_netns",
    "in_netns",
    "interface_statistics",
    "made_namespaces",
    "netns_command",
    "open_netns",
    "remove_made",
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
_MADE: dict[str, tuple[int, int]] = {}
_DIRECTORY = threading.Lock()
"""Held while the directory of names is made a mount, so that threads do not stack two mounts."""
IPV6_MIN_MTU = 1280
"""Bytes; RFC 8200 section 5."""
DISABLE_IPV6 = ("net.ipv6.conf.all.disable_ipv6", "net.ipv6.conf.default.disable_ipv6")


@attrs.frozen
class Route:
    """Route for packets to ``network`` through the interface, via the router ``via`` if any."""

    network: IPv4Network | IPv6Network
    via: IPv4Address | IPv6Address | None = None

    @classmethod
    def parse(cls, text: str) -> Route:
        """Parse ``NETWORK`` or ``NETWORK via ROUTER``. Raises ValueError."""
        network, word, via = text.partition(" via ")
        route = cls(ip_network(network.strip()), ip_address(via.strip()) if word else None)
        if route.via is not None and route.via.version != route.network.version:
            raise ValueError(f"{text!r} mixes IPv4 and IPv6")
        return route

    def __str__(self) -> str:
        return str(self.network) if self.via is None else f"{self.network} via {self.via}"


@attrs.frozen
class InterfaceStatistics:
    """The kernel's counters of one interface. Received means: by the kernel, from the port."""

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
    """Run ``call`` in a new thread in namespace ``netns`` (None: ours); return its result or raise its error.

    Raises FileNotFoundError if the namespace does not exist, PrivilegeError without the right to enter it.
    """
    if netns is None:
        return call()
    path = NETNS_DIR / netns
    return in_new_thread(lambda: enter(path), call)


def run_in_namespace(fd: int, call: Callable[[], T]) -> T:
    """`run_in_netns` for the namespace that a descriptor refers to. Raises OSError."""
    from pyroute2 import netns as pyroute2_netns

    return in_new_thread(lambda: pyroute2_netns.setns(fd), call)


async def in_netns(netns: str | None, call: Callable[[], T]) -> T:
    """`run_in_netns` for a task."""
    return await run_in_thread(run_in_netns, netns, call)


def check_netns() -> None:
    """Raise PrivilegeError without the right to make network namespaces, and interfaces in them."""
    error = refusal(OSError(errno.EPERM, os.strerror(errno.EPERM)), "make network namespaces", SYS_ADMIN, NET_ADMIN)
    if isinstance(error, PrivilegeError):
        raise error


def create_netns(netns: str) -> bool:
    """Make the namespace, with its loopback up; return False, without a change, if it exists.

    Raises PrivilegeError, OSError, and leaves nothing behind.
    """
    if has_netns(netns):
        return False
    in_new_thread(lambda: None, lambda: make(netns))
    return True


def has_netns(netns: str) -> bool:
    """Return whether the namespace exists. Raises OSError if the name is in use but refers to no namespace."""
    path = NETNS_DIR / netns
    if not os.path.lexists(path):
        return False
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            kind = fcntl.ioctl(fd, NS_GET_NSTYPE)
        finally:
            os.close(fd)
    except OSError:
        kind = 0
    if kind == CLONE_NEWNET:
        return True
    raise _left_behind(path)


def identity(netns: str) -> tuple[int, int] | None:
    """Return device and inode, which differ between namespaces of the same name; None if none has the name."""
    try:
        status = (NETNS_DIR / netns).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def remove_netns(netns: str) -> None:
    """Remove the name; the namespace ends with its last process. Harmless if it does not exist. Raises OSError."""
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
    """Make the namespace for the time of the context, unless it exists; yield whether we made it.

    Only a namespace that we made is removed, not another one that got its name meanwhile. A process that has given up
    its rights leaves it to its keeper.
    """
    made = await run_in_thread(create_netns, netns)
    ours = identity(netns)
    if made and ours is not None:
        _MADE[netns] = ours
    try:
        yield made
    finally:
        if made and ours is not None and not is_confined():
            with trio.CancelScope(shield=True):
                await run_in_thread_or_here(remove_made, netns, ours)
            del _MADE[netns]


def made_namespaces() -> dict[str, tuple[int, int]]:
    """Return the namespaces of `open_netns` that this process has made and not removed, with their identities."""
    return dict(_MADE)


def remove_made(netns: str, ours: tuple[int, int]) -> None:
    """Remove a namespace unless another one has got its name meanwhile. Raises OSError."""
    if identity(netns) == ours:
        remove_netns(netns)


def netns_command(netns: str | None, argv: Sequence[str]) -> list[str]:
    """Return the command line that runs ``argv`` in namespace ``netns``."""
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
    start_thread(thread)
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
    """Move the calling thread to a new namespace, bring up its loopback, then name the namespace.

    The name comes last, so that a namespace whose set-up fails ends with the thread.
    """
    try:
        unshare(CLONE_NEWNET)
    except OSError as error:
        raise refusal(error, f"make the network namespace {netns}", SYS_ADMIN) from error
    for conf in ("all", "default"):
        _try_switch(IPV6_CONF / conf / "disable_ipv6", "0")  # a new namespace may inherit the machine's setting
    set_up_interface("lo")
    path = NETNS_DIR / netns
    try:
        with _DIRECTORY:
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
    """Make the directory of names a shared mount, as iproute2 does: removing a name removes it everywhere."""
    NETNS_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        mount(None, NETNS_DIR, flags=MS_SHARED | MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        mount(NETNS_DIR, NETNS_DIR, flags=MS_BIND | MS_REC)  # EINVAL: not a mount point yet
        mount(None, NETNS_DIR, flags=MS_SHARED | MS_REC)


def _left_behind(path: Path) -> OSError:
    why = f"a name left behind without a network namespace; try: ip netns del {path.name}"
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
    """Configure an interface and bring it up. Its IPv6 addresses skip duplicate address detection.

    ``mac`` is 6 bytes, ``mtu`` in bytes without the Ethernet header, ``txqueuelen`` in packets. ``forward`` enables
    forwarding, of IPv6 in the whole namespace. Without IPv6 in the kernel, a warning names the IPv6 addresses and
    routes that are left out. Raises SettingRefused, PrivilegeError, OSError.
    """
    from pyroute2 import IPRoute

    _try_switch(IPV6_CONF / ifname / "accept_dad", "0")  # if this fails, only the link-local address has to wait
    for switch in (IPV4_CONF / ifname / "forwarding", IPV6_CONF / "all" / "forwarding") if forward else ():
        _write_switch(switch, "1")
    if not has_ipv6():
        left_out = [str(address) for address in addresses if address.version == 6]
        left_out += [str(route) for route in routes if route.network.version == 6]
        if left_out:
            LOG.warning("%s: this kernel has no IPv6; left out: %s", ifname, ", ".join(left_out))
        addresses = [address for address in addresses if address.version == 4]
        routes = [route for route in routes if route.network.version == 4]
    # The MAC address comes first: the kernel derives the link-local address from it.
    settings = (
        ("mac", "address", mac and mac.hex(":")),
        ("mtu", "mtu", mtu),
        ("txqueuelen", "txqlen", txqueuelen),
        ("ifname", "state", "up"),
    )
    with naming(ifname), IPRoute() as netlink:
        index = find_index(netlink, ifname)
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
    """Return whether the kernel has IPv6."""
    return IF_INET6.exists()


def _write_switch(switch: Path, value: str) -> None:
    """Set a switch in /proc/sys if it exists and has another value. Raises OSError."""
    try:
        if switch.read_text(encoding="ascii").strip() != value:
            switch.write_text(value, encoding="ascii")
    except FileNotFoundError:  # the kernel has no IPv6
        pass


def _try_switch(switch: Path, value: str) -> None:
    """Set an optional switch, ignoring errors; most containers mount /proc/sys read-only."""
    try:
        _write_switch(switch, value)
    except OSError:
        pass


@contextmanager
def _setting(ifname: str, field: str, value: object) -> Iterator[None]:
    """Turn a netlink error into SettingRefused for ``field``, or into PrivilegeError."""
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
    """Return why an interface in the calling thread's namespace accepts no IPv6 address; empty if unknown."""
    switch = IPV6_CONF / ifname / "disable_ipv6"
    if not switch.exists():
        return f"IPv6 needs an MTU of {IPV6_MIN_MTU} bytes"
    if switch.read_text(encoding="ascii").strip() == "0":
        return ""
    return f"IPv6 is off in the namespace; try there: sysctl -w {' '.join(f'{at}=0' for at in DISABLE_IPV6)}"


def interface_statistics(netns: str | None, ifname: str) -> InterfaceStatistics:
    """Return the kernel's counters of an interface in namespace ``netns``. Raises OSError if it does not exist."""

    def read() -> InterfaceStatistics:
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            [link] = netlink.get_links(find_index(netlink, ifname))
            counters = link.get("stats64")
        return InterfaceStatistics(**{field.name: counters[field.name] for field in attrs.fields(InterfaceStatistics)})

    return run_in_netns(netns, read)


def find_index(netlink: IPRoute, ifname: str) -> int:
    """Return the index of an interface. Raises OSError if it does not exist."""
    indices = netlink.link_lookup(ifname=ifname)
    if not indices:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), ifname)
    return int(indices[0])
