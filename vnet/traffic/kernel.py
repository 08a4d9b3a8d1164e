"""The programs ping and iperf3 in a network namespace, measured; and the runs of a demonstration."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol

import attrs
import trio

from vnet.errors import PrivilegeError, TrafficError
from vnet.linux.background import open_background
from vnet.linux.netns import netns_command
from vnet.traffic.counters import KernelCounters, kernel_counters
from vnet.traffic.tools import need_tools

__all__ = [
    "FlowResult",
    "TextResult",
    "PingResult",
    "Plan",
    "RunResult",
    "Run",
    "iperf3",
    "iperf3_server",
    "ping",
    "run",
]

PATIENCE = 30.0
"""Seconds that a program may take longer than its own duration, on a busy machine."""
POLL_INTERVAL = 0.02
"""Seconds between two checks of a kernel's counters or of a busy iperf3 server."""
BUSY = "the server is busy"
"""Part of an iperf3 client's error while the server still ends the last run."""
IPERF3_PORT = 5201
"""Default TCP and UDP port of iperf3."""
UDP_LOSS = 0.01
"""Fraction of a run's datagrams that may be lost."""


class RunResult(Protocol):
    """The result of a run."""

    def line(self) -> str:
        """Return the result in a few words."""

    def failure(self) -> str:
        """Return the failure, as the end of a sentence; empty if the run succeeded."""


@attrs.frozen
class TextResult:
    """A result given as text with named figures."""

    text: str
    """The result in a few words."""
    figures: Mapping[str, float | int | str] = attrs.field(factory=dict)
    """Figures by name; names contain the units."""
    failed: str = ""
    """The failure, as the end of a sentence; empty if the run succeeded."""

    def line(self) -> str:
        return f"{self.text}: {self.failed}" if self.failed else self.text

    def failure(self) -> str:
        return self.failed


@attrs.frozen
class PingResult:
    """Result of ping."""

    sent: int
    """Echo requests sent."""
    received: int
    """Echo replies received."""
    rtt_min: float | None
    """Shortest round-trip time in milliseconds; None if no reply arrived. Likewise below."""
    rtt_avg: float | None
    rtt_max: float | None
    late: int = 0
    """Replies, included in ``received``, that arrived after ping stopped waiting. They are not in the times."""

    @property
    def lost(self) -> int:
        """Requests without a reply."""
        return self.sent - self.received

    def line(self) -> str:
        rtt = "-" if self.rtt_avg is None else f"{self.rtt_avg:.2f} ms"
        late = f", {self.late} later than ping waits" if self.late else ""
        return f"{self.received} of {self.sent} back, {rtt}{late}"

    def failure(self) -> str:
        return f"lost {self.lost} of {self.sent}" if self.lost else ""


@attrs.frozen
class FlowResult:
    """Result of iperf3, measured by the receiver."""

    seconds: float
    """Duration of the run."""
    bytes: int
    """Bytes received."""
    bits_per_second: float
    packets: int
    """UDP only: datagrams received."""
    lost: int
    """UDP only: datagrams lost."""
    retransmits: int
    """TCP only: segments sent again."""
    complete: bool
    """Whether the run lasted as long as requested."""
    overflowed: int = 0
    """UDP only: lost datagrams that a kernel dropped before the driver or after the device, in the queue of an
    interface or the buffer of a socket, because a program was not scheduled in time."""

    @property
    def loss(self) -> float:
        """Lost datagrams as a fraction of all, 0 to 1."""
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
    """A finished run and its result."""

    name: str
    source: str
    """Sender, such as a host."""
    target: str
    """Receiver, such as a host or an address."""
    result: RunResult

    def line(self) -> str:
        """Return the result in a few words."""
        return self.result.line()


@attrs.frozen
class Plan:
    """A planned run."""

    name: str
    source: str
    """Sender, such as a host."""
    target: str
    """Receiver, such as a host or an address."""
    start: Callable[[], Awaitable[RunResult]]
    """Does the run and returns its result."""
    tools: tuple[str, ...] = ()
    """Programs that the run needs."""

    async def run(self) -> Run:
        """Do the run, or leave it out if a program is missing. Raises TrafficError."""
        try:
            need_tools(*self.tools)
        except PrivilegeError as exc:
            return Run(self.name, self.source, self.target, TextResult(f"left out: {exc}"))
        return Run(self.name, self.source, self.target, await self.start())


async def run(netns: str | None, argv: Sequence[str], timeout: float) -> subprocess.CompletedProcess[bytes]:
    """Run a program in a namespace for at most ``timeout`` seconds; return its output and exit status.

    Raises TrafficError if it does not end in time.
    """
    with trio.move_on_after(timeout):
        return await trio.run_process(
            netns_command(netns, argv), capture_stdout=True, capture_stderr=True, check=False, stdin=b""
        )
    raise TrafficError(f"{argv[0]} did not end within {timeout:g} s")


async def ping(
    netns: str | None, target: str, *, count: int = 5, size: int = 56, interval: float = 0.02, wait: float = 10.0
) -> PingResult:
    """Send ``count`` echo requests of ``size`` bytes every ``interval`` s; wait up to ``wait`` seconds for replies.

    After its last request, ping only waits twice the longest round-trip time. The kernel's counter has later
    replies. ping's own deadline (-w) is no alternative, because ping would continue to send. Raises TrafficError.
    """
    before = await kernel_counters(netns)
    argv = ["ping", "-n", "-c", str(count), "-s", str(size), "-i", str(interval), "-W", str(wait), target]
    done = await run(netns, argv, count * (interval + wait) + PATIENCE)
    text = done.stdout.decode(errors="replace")
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", text)
    if counts is None:
        raise TrafficError(f"ping {target}: {_last_line(done.stderr, done.stdout)}")
    times = re.search(r"= ([\d.]+)/([\d.]+)/([\d.]+)", text)
    low, mean, high = map(float, times.groups()) if times else (None, None, None)
    sent, seen = map(int, counts.groups())
    received = seen if seen >= sent else max(seen, await _echo_replies(netns, before, sent, wait))
    return PingResult(sent, received, low, mean, high, late=received - seen)


async def _echo_replies(netns: str | None, before: KernelCounters, sent: int, wait: float) -> int:
    """Return the echo replies in ``netns`` since ``before``; wait up to ``wait`` seconds for ``sent`` of them."""
    deadline = trio.current_time() + wait
    while True:
        replies = (await kernel_counters(netns)).since(before).echo_replies
        if replies >= sent or trio.current_time() >= deadline:
            return min(replies, sent)
        await trio.sleep(POLL_INTERVAL)


@asynccontextmanager
async def iperf3_server(netns: str | None, port: int = IPERF3_PORT) -> AsyncIterator[None]:
    """Run an iperf3 server in a namespace during the context. Raises TrafficError if it does not start."""
    argv = netns_command(netns, ["iperf3", "-s", "-p", str(port), "--forceflush"])
    start = partial(trio.run_process, stdin=b"", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    async with open_background() as nursery:
        process = await nursery.start(start, argv)
        output = b""
        with trio.move_on_after(PATIENCE):
            async for chunk in process.stdout:
                output += chunk
                if b"listening" in output:
                    break
        if b"listening" not in output:
            raise TrafficError(f"iperf3 -s: {_last_line(output)}")
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
    """Run an iperf3 client that sends to a server, or (``reverse``) receives from it.

    ``seconds`` are rounded up: iperf3 only takes whole seconds, and 0 is endless. ``bitrate`` is in bits per second
    with iperf3's suffixes, 0: unlimited; ``length`` is that of a datagram or a write in bytes; ``buffer`` is the
    size of the sockets' buffers with a suffix; ``congestion`` is TCP's algorithm, or None. With ``peer``, the
    server's namespace, datagrams dropped by a kernel are counted as ``overflowed``. Raises TrafficError.
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
    """Run an iperf3 client; return the end of its report. Try again while the server still ends the last run.

    Raises TrafficError.
    """
    deadline = trio.current_time() + PATIENCE
    while True:
        done = await run(netns, argv, timeout)
        try:
            report = json.loads(done.stdout)
            end: Mapping[str, Any] = report["end"]
        except (ValueError, KeyError):
            raise TrafficError(f"iperf3: {_last_line(done.stderr, done.stdout)}") from None
        if "error" not in report:
            return end
        if BUSY not in report["error"] or trio.current_time() >= deadline:
            raise TrafficError(f"iperf3: {report['error']}")
        await trio.sleep(POLL_INTERVAL)


def _last_line(*outputs: bytes) -> str:
    lines = [line for output in outputs for line in output.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"
