"""Kernel counters of a network namespace, which are exact even if programs are not scheduled in time."""

from __future__ import annotations

from pathlib import Path

import attrs

from vnet.linux.netns import in_netns

__all__ = ["KernelCounters", "kernel_counters", "parse_counters"]

NET = Path("/proc/thread-self/net")
"""Directory with the counters of our own namespace."""
DROPPED = 3, 11
"""Columns of /proc/net/dev with dropped frames, received and sent; column 0 follows the interface's name."""


@attrs.frozen
class KernelCounters:
    """Counters of a namespace, sums of IPv4 and IPv6."""

    echo_replies: int
    """ICMP echo replies received, even if no program waits for them any more."""
    datagrams_dropped: int
    """UDP datagrams dropped because the socket's buffer was full."""
    frames_dropped: int
    """Frames dropped by interfaces, for example because the queue of a TUN was full."""

    def since(self, before: KernelCounters) -> KernelCounters:
        """Return the difference from an earlier reading."""
        pairs = zip(attrs.astuple(self), attrs.astuple(before), strict=True)
        return KernelCounters(*(after - earlier for after, earlier in pairs))


def parse_counters(snmp: str, snmp6: str, dev: str) -> KernelCounters:
    """Return the counters in the text of /proc/net/snmp, snmp6 and dev; without IPv6 ``snmp6`` is empty."""
    rows = [line.split() for line in snmp.splitlines()]
    counters: dict[str, int] = {}
    for names, values in zip(rows[::2], rows[1::2], strict=True):
        group = names[0].rstrip(":")
        counters |= {f"{group}{name}": int(value) for name, value in zip(names[1:], values[1:], strict=True)}
    counters |= {name: int(value) for name, value in (line.split() for line in snmp6.splitlines())}
    interfaces = (line.partition(":")[2].split() for line in dev.splitlines()[2:])
    return KernelCounters(
        echo_replies=counters.get("IcmpInEchoReps", 0) + counters.get("Icmp6InEchoReplies", 0),
        datagrams_dropped=counters.get("UdpRcvbufErrors", 0) + counters.get("Udp6RcvbufErrors", 0),
        frames_dropped=sum(int(columns[column]) for columns in interfaces for column in DROPPED),
    )


def _read() -> KernelCounters:
    snmp6 = NET / "snmp6"
    return parse_counters(
        (NET / "snmp").read_text(encoding="ascii"),
        snmp6.read_text(encoding="ascii") if snmp6.exists() else "",
        (NET / "dev").read_text(encoding="ascii"),
    )


async def kernel_counters(netns: str | None) -> KernelCounters:
    """Return the counters of namespace ``netns`` (None: our own). Raises FileNotFoundError if it does not exist."""
    return await in_netns(netns, _read)
