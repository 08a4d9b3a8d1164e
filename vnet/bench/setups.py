"""The contestants: ways from one network namespace to another, each with the same addresses."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from importlib.util import find_spec
from ipaddress import ip_interface
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import cattrs
import trio

from vnet.bench.figures import QueueFigures
from vnet.bench.guest import Guest
from vnet.bench.guest_kernel import GuestKernel
from vnet.bench.guest_qemu import find_qemu
from vnet.bench.peers import End, open_dpdk, open_pasta, open_socat
from vnet.bench.processes import Child, open_child
from vnet.bench.relay import SHARED
from vnet.demo import default_topology
from vnet.ends.net import PortKind, net_specs
from vnet.errors import PrivilegeError
from vnet.linux.netns import in_netns, open_netns, set_up_interface
from vnet.ports.packet.open import PortConfig, make_interface, make_port
from vnet.system.qemu import function_arguments
from vnet.traffic.tools import install_command
from vnet.transports import TRANSPORTS

__all__ = [
    "APART",
    "BARE",
    "BARE_APART",
    "BARE_C",
    "CONTESTANTS",
    "GUEST",
    "GUEST_FUNCTION",
    "LINKED",
    "WAYS",
    "Contestant",
    "Setup",
    "open_setup",
]

BARE = "bare"
BARE_APART = "bare-two-processes"
BARE_C = "bare-c"
APART = "two-processes"
LINKED = "two-processes-link"
GUEST = "guest"
GUEST_FUNCTION = "guest-vfio-user"
IFNAME = "vnet0"
COMPILER = ("gcc", "python3-dev")
GUEST_SERVER = (
    "while killall -q iperf3; do sleep 0.1; done; "
    "iperf3 -s -1 -D && until netstat -ltn | grep -q :5201; do sleep 0.1; done"
)
"""Shell command for the guest: kill any old iperf3, start a new one, wait until it listens."""

Ends = tuple[str, str]
Figures = Callable[[], Awaitable[tuple[QueueFigures, ...]]]


@attrs.frozen
class Setup:
    """One contestant, ready to be measured."""

    name: str
    netns: Ends
    addresses: Ends
    """IPv4, without prefix."""
    pids: tuple[int, ...] = ()
    """The forwarding processes; none if the kernel forwards."""
    figures: Figures | None = None
    """Returns its queues' counts so far. Raises TrafficError if it has ended."""
    guest_server: Callable[[], Awaitable[object]] | None = None
    """Set if rc is a guest: starts an iperf3 server there for one run. Clients then run at ep."""

    polls: bool = False
    """Whether its processes never wait: then they are stopped while others are measured."""

    @property
    def client(self) -> tuple[str, str]:
        """Namespace and target address of client programs."""
        return (self.netns[1], self.addresses[0]) if self.guest_server else (self.netns[0], self.addresses[1])


def _configs(kind: PortKind, netns: Ends) -> list[PortConfig]:
    """The interfaces of the default topology, the same for every contestant."""
    [device] = net_specs(default_topology(kind).devices).values()
    return [
        PortConfig(
            kind="tap" if kind == "tap" else "tun",
            netns=name,
            ifname=IFNAME,
            addresses=tuple(map(ip_interface, port.addresses)),
            mtu=device.mtu,
            txqueuelen=port.txqueuelen,
        )
        for name, port in zip(netns, (device.driver, device.device), strict=True)
    ]


def _addresses() -> Ends:
    first, second = (str(config.addresses[0].ip) for config in _configs("tun", ("", "")))
    return first, second


@asynccontextmanager
async def _vnet(kind: PortKind, transport: str, mode: str, name: str, netns: Ends) -> AsyncIterator[Setup]:
    """This stack."""

    async def figures(child: Child) -> tuple[QueueFigures, ...]:
        return cattrs.structure(json.loads(await child.ask()), tuple[QueueFigures, ...])

    async with open_child("vnet.bench.stack", (kind, transport, mode, *netns)) as child:
        await child.line()  # it is up
        yield Setup(name, netns, _addresses(), (child.pid,), partial(figures, child))


@asynccontextmanager
async def _apart(options: tuple[str, ...], name: str, netns: Ends) -> AsyncIterator[Setup]:
    """This stack, its driver in one process and its device in another; ``options`` of `vnet.bench.apart`."""
    async with AsyncExitStack() as stack:
        socket = f"{stack.enter_context(TemporaryDirectory())}/net0.sock"
        pids = []
        for side, at in (("device", netns[1]), ("driver", netns[0])):
            child = await stack.enter_async_context(open_child("vnet.bench.apart", (side, socket, at, *options)))
            await child.line()  # it is up
            pids.append(child.pid)
        yield Setup(name, netns, _addresses(), tuple(pids))


@asynccontextmanager
async def _guest(function: bool, name: str, netns: Ends) -> AsyncIterator[Setup]:
    """The device of this stack in one process, its driver that of a Linux guest; the first namespace stays empty.

    The device is QEMU's, over vhost-user, or with ``function`` ours. Raises PrivilegeError without a QEMU for that.
    """
    config, _ = _configs("tun", netns)
    qemu, new = find_qemu(functions=function)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="vnet-bench-")))
        kernel = await trio.to_thread.run_sync(GuestKernel, folder)
        socket = folder / "net0.sock"
        options = ("--function",) if function else ()
        args = ("device", str(socket), netns[1], *options)
        child = await stack.enter_async_context(open_child("vnet.bench.apart", args))
        await child.line()  # it is up
        if function:
            devices = shlex.split(function_arguments(socket)[-1])
        else:
            vectors = "" if new else ",vectors=0"  # an older QEMU crashes otherwise
            devices = [
                *("-chardev", f"socket,id=c0,path={socket}", "-netdev", "vhost-user,id=n0,chardev=c0"),
                *("-device", f"virtio-net-pci,netdev=n0{vectors}"),
            ]
        guest = Guest(kernel, folder, devices, wait=False, qemu=qemu)
        stack.callback(guest.close)
        # The thread ends with QEMU, which ends at once if this task is cancelled.
        await trio.to_thread.run_sync(guest.wait_up, abandon_on_cancel=True)

        async def tell(command: str) -> None:
            await trio.to_thread.run_sync(guest.run, command, abandon_on_cancel=True)

        await tell(f"ip addr add {config.addresses[0]} dev eth0 && ip link set eth0 up")
        yield Setup(name, netns, _addresses(), (child.pid,), guest_server=partial(tell, GUEST_SERVER))


@asynccontextmanager
async def _interfaces(netns: Ends) -> AsyncIterator[tuple[int, int]]:
    """Two TUN interfaces with the very settings this stack gives its own."""
    with ExitStack() as stack:
        fds = []
        for config in _configs("tun", netns):
            device = await in_netns(config.netns, partial(make_interface, config))
            stack.callback(device.close)
            port = make_port([device], config)
            await port.start(mac=None, offloads=port.caps, mtu=config.mtu)
            port.set_carrier(True)
            fds.append(device.fileno())
        first, second = fds
        yield first, second


@asynccontextmanager
async def _bare(options: tuple[str, ...], name: str, netns: Ends) -> AsyncIterator[Setup]:
    """A loop of read and write, in Python or in C. Raises PrivilegeError if that in C was not built."""
    if options and find_spec("vnet.bench._forwarder") is None:
        raise PrivilegeError(
            "the forwarder in C was not built", f"{install_command(COMPILER)}, then install vnet again"
        )
    async with (
        _interfaces(netns) as fds,
        open_child("vnet.bench.forwarder", [*options, *map(str, fds)], fds) as child,
    ):
        yield Setup(name, netns, _addresses(), (child.pid,))


@asynccontextmanager
async def _bare_apart(name: str, netns: Ends) -> AsyncIterator[Setup]:
    """One process reads what another writes."""
    async with AsyncExitStack() as stack:
        fds = await stack.enter_async_context(_interfaces(netns))
        memory, *kicks = shared = [os.memfd_create("vnet-bench"), os.eventfd(0), os.eventfd(0)]
        for fd in shared:
            stack.callback(os.close, fd)
        os.ftruncate(memory, SHARED)
        children = []
        for side, ends in enumerate((kicks, kicks[::-1])):
            passed = [fds[side], memory, *ends]
            args = [*map(str, passed), str(side)]
            children.append(await stack.enter_async_context(open_child("vnet.bench.relay", args, passed)))
        yield Setup(name, netns, _addresses(), tuple(child.pid for child in children))


@asynccontextmanager
async def _veth(name: str, netns: Ends) -> AsyncIterator[Setup]:
    """A pair of veth interfaces; they go with their namespaces."""

    def make_pair() -> None:
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            peer = {"ifname": IFNAME, "net_ns_fd": netns[1]}
            netlink.link("add", ifname=IFNAME, kind="veth", peer=peer)

    await in_netns(netns[0], make_pair)
    for config in _configs("tun", netns):
        await in_netns(config.netns, partial(set_up_interface, IFNAME, addresses=config.addresses, mtu=config.mtu))
    yield Setup(name, netns, _addresses())


@asynccontextmanager
async def _peer(
    join: Callable[[End, End], AbstractAsyncContextManager[tuple[int, ...]]], polls: bool, name: str, netns: Ends
) -> AsyncIterator[Setup]:
    """Two interfaces that another program joins."""
    ends = [
        End(at, IFNAME, config.addresses, config.mtu) for at, config in zip(netns, _configs("tun", netns), strict=True)
    ]
    async with join(*ends) as pids:
        yield Setup(name, netns, _addresses(), pids, polls=polls)


@attrs.frozen
class Contestant:
    """One way to carry packets between two namespaces."""

    title: str
    """Heading of its column."""
    open: Callable[[str, Ends], AbstractAsyncContextManager[Setup]]
    """Sets it up, given its name and two existing namespaces."""
    optional: bool = False
    """Whether it is left out if it can't be set up."""


WAYS: Mapping[str, tuple[str, str]] = {
    **{transport: (transport, "direct") for transport in TRANSPORTS},
    **{f"{transport}-mediated": (transport, "mediated") for transport, kind in TRANSPORTS.items() if kind.on != "host"},
}
"""Transport and mode, by contestant."""
CONTESTANTS: Mapping[str, Contestant] = {
    "tun": Contestant("vnet TUN", partial(_vnet, "tun", "pci", "direct")),
    "tap": Contestant("vnet TAP", partial(_vnet, "tap", "pci", "direct")),
    BARE: Contestant("bare", partial(_bare, ())),
    BARE_C: Contestant("bare C", partial(_bare, ("--native",)), optional=True),
    "veth": Contestant("veth", _veth),
    "socat": Contestant("socat", partial(_peer, open_socat, False), optional=True),
    "pasta": Contestant("pasta", partial(_peer, open_pasta, False), optional=True),
    "dpdk": Contestant("DPDK", partial(_peer, open_dpdk, True), optional=True),
    APART: Contestant("2 processes", partial(_apart, ())),
    LINKED: Contestant("2 proc., link", partial(_apart, ("--link",))),
    BARE_APART: Contestant("bare, 2 proc.", _bare_apart),
    GUEST: Contestant("QEMU guest", partial(_guest, False)),
    GUEST_FUNCTION: Contestant("guest, vfio", partial(_guest, True), optional=True),
    **{
        name: Contestant(name.replace("-mediated", " med."), partial(_vnet, "tun", transport, mode))
        for name, (transport, mode) in WAYS.items()
    },
}
"""All contestants, by name; those of `WAYS` are this stack on TUN."""


@asynccontextmanager
async def open_setup(name: str, prefix: str) -> AsyncIterator[Setup]:
    """Set a contestant up in two new namespaces whose names start with ``prefix``.

    Raises PrivilegeError, OSError, TrafficError.
    """
    netns = (f"{prefix}-{name}-rc", f"{prefix}-{name}-ep")
    async with open_netns(netns[0]), open_netns(netns[1]), CONTESTANTS[name].open(name, netns) as setup:
        yield setup
