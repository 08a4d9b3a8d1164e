"""Other programs that join two namespaces, each run as its users would; the first end is rc's, the second ep's."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import trio

from vnet.bench.processes import end_process
from vnet.errors import TrafficError
from vnet.linux.netns import NETNS_DIR, Address, Route, find_index, in_netns, netns_command, set_up_interface
from vnet.traffic.tools import need_tools

__all__ = ["End", "open_dpdk", "open_pasta", "open_socat"]

START = 10.0
"""Seconds until a program must be ready."""
POLL_INTERVAL = 0.02
SOCAT_BUFFER = 65536
"""Bytes: the largest packet."""
PING_GROUPS = Path("/proc/sys/net/ipv4/ping_group_range")
UPLINK = ("uplink0", "uplink1")
"""A veth pair in ep's namespace: pasta needs an interface with a default route."""
DPDK_MEMORY = ("--no-huge", "-m", "256", "--no-pci", "--no-telemetry")
"""Options for a machine without huge pages."""
DPDK_BUFFERS = 8192
"""Packet buffers of each process."""


@attrs.frozen
class End:
    """One end: a namespace, and the interface that belongs there."""

    netns: str
    ifname: str
    addresses: tuple[Address, ...]
    mtu: int | None

    async def set_up(self) -> None:
        """Configure the interface that a program has made. Raises SettingRefused, OSError."""
        await in_netns(self.netns, partial(set_up_interface, self.ifname, addresses=self.addresses, mtu=self.mtu))

    async def has_interface(self, ifname: str | None = None) -> bool:
        """Return whether the namespace has an interface, by default this end's."""

        def look() -> bool:
            try:
                return bool(socket.if_nametoindex(ifname or self.ifname))
            except OSError:
                return False

        return await in_netns(self.netns, look)


class Program:
    """A program that runs, and the file with its output."""

    def __init__(self, process: trio.Process, log: Path) -> None:
        self.pid = process.pid
        self._process = process
        self._log = log

    async def wait_until(self, ready: Callable[[], Awaitable[bool]]) -> None:
        """Return once ``ready`` is true. Raises TrafficError with the program's last line if it ends before."""
        with trio.move_on_after(START):
            while not await ready():
                if self._process.poll() is not None:
                    break
                await trio.sleep(POLL_INTERVAL)
            else:
                return
        last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        raise TrafficError(f"{self._log.name} is not ready: {' '.join(last) or 'no output'}")


@asynccontextmanager
async def _open_program(
    argv: Sequence[str], netns: str, folder: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[Program]:
    """Run a program in a namespace until the context ends, its standard input a pipe. Raises OSError."""
    log = folder / argv[0]
    with log.open("ab") as output:
        process = await trio.lowlevel.open_process(
            netns_command(netns, argv),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    try:
        yield Program(process, log)
    finally:
        await end_process(process, terminate=True)


@asynccontextmanager
async def open_socat(rc: End, ep: End) -> AsyncIterator[tuple[int, ...]]:
    """Run ``socat TUN TUN``; yield its process id. Raises PrivilegeError, TrafficError, OSError."""
    need_tools("socat")
    second = f"{rc.ifname}-ep"
    ends = [f"TUN,tun-type=tun,tun-name={name},iff-no-pi" for name in (rc.ifname, second)]

    def move() -> None:
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            netlink.link("set", index=find_index(netlink, second), net_ns_fd=ep.netns, ifname=ep.ifname)

    with TemporaryDirectory(prefix="vnet-bench-") as folder:
        argv = ["socat", "-b", str(SOCAT_BUFFER), *ends]
        async with _open_program(argv, rc.netns, Path(folder)) as program:
            await program.wait_until(partial(rc.has_interface, second))
            await in_netns(rc.netns, move)
            await ep.set_up()  # first: socat ends if it can't write a packet
            await rc.set_up()
            yield (program.pid,)


@asynccontextmanager
async def open_pasta(rc: End, ep: End) -> AsyncIterator[tuple[int, ...]]:
    """Run pasta (of passt): rc has its TAP interface, whose connections it makes again from sockets in ep.

    Yields its process id. Raises PrivilegeError, TrafficError, OSError.
    """
    need_tools("pasta")
    inner, outer = (next(address for address in end.addresses if address.version == 4) for end in (rc, ep))
    gateway = str(outer.network.broadcast_address - 1)

    def make_uplink() -> None:
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            netlink.link("add", ifname=UPLINK[0], kind="veth", peer={"ifname": UPLINK[1]})
        set_up_interface(UPLINK[1])
        routes = [Route.parse(f"0.0.0.0/0 via {gateway}")]
        set_up_interface(UPLINK[0], addresses=[outer], routes=routes)
        PING_GROUPS.write_text("0 2147483647", encoding="ascii")  # pings need no right of their own then

    await in_netns(ep.netns, make_uplink)
    argv = ["pasta", "--foreground", "--stderr", "--runas", "0", "--ipv4-only", "--config-net"]
    argv += ["--netns", str(NETNS_DIR / rc.netns), "--ns-ifname", rc.ifname, "--interface", UPLINK[0]]
    argv += ["--address", str(inner.ip), "--netmask", str(inner.netmask), "--gateway", gateway]
    argv += [word for option in ("-t", "-u", "-T", "-U") for word in (option, "none")]  # no ports from ep to rc
    with TemporaryDirectory(prefix="vnet-bench-") as folder:
        async with _open_program(argv, ep.netns, Path(folder)) as program:
            await program.wait_until(rc.has_interface)
            yield (program.pid,)


@asynccontextmanager
async def open_dpdk(rc: End, ep: End) -> AsyncIterator[tuple[int, ...]]:
    """Run two ``dpdk-testpmd``: TAP - vhost in ep, virtio-user - TAP in rc. Each polls on a processor.

    Yields their process ids. Raises PrivilegeError, TrafficError, OSError.
    """
    need_tools("dpdk-testpmd")
    processors = sorted(os.sched_getaffinity(0))
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="vnet-bench-"))
        path = Path(folder, "vhost.sock")

        async def listening() -> bool:
            return path.exists()  # noqa: ASYNC240  a name is looked up

        pids = []
        for end, device, polled, ready in (
            (ep, f"net_vhost0,iface={path}", processors[0], listening),
            (rc, f"net_virtio_user0,path={path}", processors[-1], rc.has_interface),
        ):
            own = Path(stack.enter_context(TemporaryDirectory(prefix=end.ifname, dir=folder)))
            argv = ["dpdk-testpmd", *DPDK_MEMORY, "--lcores", f"0@{processors[0]},1@{polled}"]
            argv += ["--vdev", f"net_tap0,iface={end.ifname}", "--vdev", device]
            argv += ["--", f"--total-num-mbufs={DPDK_BUFFERS}", "--auto-start", "--interactive"]
            program = await stack.enter_async_context(
                _open_program(argv, end.netns, own, {"RUNTIME_DIRECTORY": str(own)})
            )
            await program.wait_until(ready)
            pids.append(program.pid)
        for end in (ep, rc):
            await program.wait_until(end.has_interface)
            await end.set_up()
        yield tuple(pids)
