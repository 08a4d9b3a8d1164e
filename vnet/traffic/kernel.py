"""Real programs that make real traffic: ping and iperf3, in a namespace, with their figures as values."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol

import attrs
import trio

from vnet.errors import PrivilegeError
from vnet.linux.background import open_background
from vnet.linux.netns import netns_command
from vnet.traffic.counters import KernelCounters, kernel_counters

__all__ = [
    "FlowResult",
    "TextResult",
    "PingResult",
    "Plan",
    "RunResult",
    "Run",
    "TrafficError",
    "iperf3",
    "iperf3_server",
    "need_tools",
    "ping",
    "run",
]

PACKAGES = {
    "ping": "iputils-ping",
    "iperf3": "iperf3",
    "curl": "curl",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "nbdcopy": "libnbd-bin",
    "nbdinfo": "libnbd-bin",
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "apt-get": "apt",
    "apt-cache": "apt",
}
"""By program: the package that has it, where that is called otherwise."""
PATIENCE = 30.0
"""Seconds that a program may take beyond what it was asked to do, on a machine that is busy with other things."""
LOOK = 0.02
"""Seconds between two looks at what is not ready yet: a kernel's counters, an iperf3 server."""
BUSY = "the server is busy"
"""Part of the error of an iperf3 client whose server still ends the last run."""
IPERF3_PORT = 5201
UDP_LOSS = 0.01
"""The part of a run's datagrams that may be lost."""


class TrafficError(Exception):
    """A program that makes traffic did not do what it was started for; says which, and its last words."""


class RunResult(Protocol):
    """What came of a run."""

    def line(self) -> str:
        """In a few words."""

    def failure(self) -> str:
        """What is not as it must be, as the end of a sentence; empty when all is well."""


@attrs.frozen
class TextResult:
    """What came of a run that has figures of its own kind."""

    text: str
    figures: Mapping[str, float | int | str] = attrs.field(factory=dict)
    """With units in their names."""
    failed: str = ""

    def line(self) -> str:
        return f"{self.text}: {self.failed}" if self.failed else self.text

    def failure(self) -> str:
        return self.failed


@attrs.frozen
class PingResult:
    """What ping counted; times in milliseconds, None where nothing came back."""

    sent: int
    received: int
    rtt_min: float | None
    rtt_avg: float | None
    rtt_max: float | None
    late: int = 0
    """Of those received: replies that only the kernel saw, as ping waited no longer. They are not in the times."""

    @property
    def lost(self) -> int:
        return self.sent - self.received

    def line(self) -> str:
        rtt = "-" if self.rtt_avg is None else f"{self.rtt_avg:.2f} ms"
        late = f", {self.late} later than ping waits" if self.late else ""
        return f"{self.received} of {self.sent} back, {rtt}{late}"

    def failure(self) -> str:
        return f"lost {self.lost} of {self.sent}" if self.lost else ""


@attrs.frozen
class FlowResult:
    """What iperf3 measured of one run, as the receiving end saw it."""

    seconds: float
    bytes: int
    bits_per_second: float
    packets: int
    """UDP only: datagrams that arrived."""
    lost: int
    """UDP only: datagrams that did not."""
    retransmits: int
    """TCP only."""
    complete: bool
    """Whether it ran as long as asked for."""
    overflowed: int = 0
    """UDP only: of those lost, datagrams that a kernel dropped before the driver or behind the device (in the queue of
    an interface, in the buffer of a socket), because a program did not get to run in time."""

    @property
    def loss(self) -> float:
        """Lost datagrams as a part of all, 0 to 1."""
        return self.lost / (self.lost + self.packets) if self.lost + self.packets else 0.0

    def line(self) -> str:
        if self.packets:
            return f"{self.bits_per_second / 1e6:.1f} Mbit/s, {100 * self.loss:.2f} % lost"
        return f"{self.bits_per_second / 1e9:.2f} Gbit/s, {self.retransmits} retransmits"

    def failure(self) -> str:
        if not self.complete:
            return f"ended after {self.seconds:.1f} s"
        ours = attrs.evolve(self, lost=max(0, self.lost - self.overflowed))
        return f"lost {100 * ours.loss:.1f} % of its datagrams" if ours.loss > UDP_LOSS else ""


@attrs.frozen
class Run:
    """One run: what it was, from where to where, and what came of it."""

    name: str
    source: str
    target: str
    result: RunResult

    def line(self) -> str:
        """The result in a few words."""
        return self.result.line()


@attrs.frozen
class Plan:
    """A run that has not happened yet."""

    name: str
    source: str
    target: str
    start: Callable[[], Awaitable[RunResult]]
    tools: tuple[str, ...] = ()
    """Programs without which it is left out."""

    async def run(self) -> Run:
        """Raises TrafficError."""
        try:
            need_tools(*self.tools)
        except PrivilegeError as exc:
            return Run(self.name, self.source, self.target, TextResult(f"left out: {exc}"))
        return Run(self.name, self.source, self.target, await self.start())


def need_tools(*names: str) -> None:
    """Raises PrivilegeError for programs that are not installed, with the command that installs them."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        packages = " ".join(dict.fromkeys(PACKAGES.get(name, name) for name in missing))
        raise PrivilegeError(f"not installed: {', '.join(missing)}", f"sudo apt-get install -y {packages}")


async def run(netns: str | None, argv: Sequence[str], timeout: float) -> subprocess.CompletedProcess[bytes]:
    """Run a program in a namespace for at most ``timeout`` seconds; its output, whatever its exit status.

    Raises TrafficError when it does not end.
    """
    with trio.move_on_after(timeout):
        return await trio.run_process(
            netns_command(netns, argv), capture_stdout=True, capture_stderr=True, check=False, stdin=b""
        )
    raise TrafficError(f"{argv[0]} did not end within {timeout:g} s")


async def ping(
    netns: str | None, target: str, *, count: int = 5, size: int = 56, interval: float = 0.02, wait: float = 10.0
) -> PingResult:
    """Send ``count`` echo requests of ``size`` bytes, ``interval`` seconds apart, and wait up to ``wait`` seconds.

    Once a reply came, ping itself waits after its last request only for twice the longest round trip so far. A reply
    that takes longer is not lost: the kernel's counter has it. With ping's own deadline (-w) it would go on sending
    instead. Raises TrafficError.
    """
    before = await kernel_counters(netns)
    argv = ["ping", "-n", "-c", str(count), "-s", str(size), "-i", str(interval), "-W", str(wait), target]
    done = await run(netns, argv, count * (interval + wait) + PATIENCE)
    text = done.stdout.decode(errors="replace")
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", text)
    if counts is None:
        raise TrafficError(f"ping {target}: {_last_words(done.stderr, done.stdout)}")
    times = re.search(r"= ([\d.]+)/([\d.]+)/([\d.]+)", text)
    low, mean, high = map(float, times.groups()) if times else (None, None, None)
    sent, seen = map(int, counts.groups())
    received = seen if seen >= sent else max(seen, await _echo_replies(netns, before, sent, wait))
    return PingResult(sent, received, low, mean, high, late=received - seen)


async def _echo_replies(netns: str | None, before: KernelCounters, sent: int, wait: float) -> int:
    """Echo replies that came into ``netns`` since ``before``: ``sent`` of them, or as many as in ``wait`` seconds."""
    deadline = trio.current_time() + wait
    while True:
        replies = (await kernel_counters(netns)).since(before).echo_replies
        if replies >= sent or trio.current_time() >= deadline:
            return min(replies, sent)
        await trio.sleep(LOOK)


@asynccontextmanager
async def iperf3_server(netns: str | None, port: int = IPERF3_PORT) -> AsyncIterator[None]:
    """An iperf3 server in a namespace for as long as the context lasts. Raises TrafficError where it can't start."""
    argv = netns_command(netns, ["iperf3", "-s", "-p", str(port), "--forceflush"])
    start = partial(trio.run_process, stdin=b"", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    async with open_background() as nursery:
        process = await nursery.start(start, argv)
        said = b""
        with trio.move_on_after(PATIENCE):
            async for chunk in process.stdout:
                said += chunk
                if b"listening" in said:
                    break
        if b"listening" not in said:
            raise TrafficError(f"iperf3 -s: {_last_words(said)}")
        nursery.start_soon(_drain, process.stdout)
        yield


async def _drain(stream: trio.abc.ReceiveStream) -> None:
    async for _ in stream:
        pass


async def iperf3(
    netns: str | None,
    server: str,
    *,
    seconds: float,
    reverse: bool = False,
    udp: bool = False,
    bitrate: str = "0",
    length: int | None = None,
    buffer: str | None = None,
    streams: int = 1,
    congestion: str | None = None,
    port: int = IPERF3_PORT,
    peer: str | None = None,
) -> FlowResult:
    """One run against an iperf3 server, from this end or (``reverse``) towards it.

    ``seconds`` are rounded up: iperf3 knows whole ones only, and takes 0 for without end. ``bitrate`` is in bits per
    second with iperf3's suffixes, 0 for as fast as it goes; ``length`` in bytes of a datagram or a write,
    ``buffer`` what sockets are to hold at both ends, with suffixes likewise, ``congestion`` the algorithm that TCP
    uses, None the machine's. With ``peer``, the server's namespace, datagrams that a kernel dropped are told apart.
    Raises TrafficError.
    """
    seconds = math.ceil(seconds)
    argv = ["iperf3", "-J", "-c", server, "-p", str(port), "-t", str(seconds), "-P", str(streams), "-b", bitrate]
    argv += ["-R"] if reverse else []
    argv += ["-u"] if udp else []
    argv += ["-w", buffer] if buffer is not None else []
    argv += ["-l", str(length)] if length is not None else []
    argv += ["-C", congestion] if congestion is not None else []
    ends = () if peer is None else (netns, peer)
    before = [await kernel_counters(end) for end in ends]
    end = await _report(netns, argv, seconds + PATIENCE)
    moved = [(await kernel_counters(end)).since(then) for end, then in zip(ends, before, strict=True)]
    total = end.get("sum_received") or end["sum"]
    lost = int(total.get("lost_packets") or 0)
    return FlowResult(
        seconds=total["seconds"],
        bytes=total["bytes"],
        bits_per_second=total["bits_per_second"],
        packets=int(total.get("packets") or 0) - lost,
        lost=lost,
        retransmits=int((end.get("sum_sent") or {}).get("retransmits") or 0),
        complete=total["seconds"] >= 0.9 * seconds,
        overflowed=sum(end.frames_dropped + end.datagrams_dropped for end in moved) if udp else 0,
    )


async def _report(netns: str | None, argv: Sequence[str], timeout: float) -> Mapping[str, Any]:
    """Run an iperf3 client; returns the end of its report. A server that still ends the last run is asked again.

    Raises TrafficError.
    """
    deadline = trio.current_time() + PATIENCE
    while True:
        done = await run(netns, argv, timeout)
        try:
            report = json.loads(done.stdout)
            end: Mapping[str, Any] = report["end"]
        except (ValueError, KeyError):
            raise TrafficError(f"iperf3: {_last_words(done.stderr, done.stdout)}") from None
        if "error" not in report:
            return end
        if BUSY not in report["error"] or trio.current_time() >= deadline:
            raise TrafficError(f"iperf3: {report['error']}")
        await trio.sleep(LOOK)


def _last_words(*outputs: bytes) -> str:
    lines = [line for output in outputs for line in output.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"
