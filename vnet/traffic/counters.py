"""What a kernel counted in a network namespace, which no busy program can miss."""

from __future__ import annotations

from pathlib import Path

import attrs

from vnet.linux.netns import in_netns

__all__ = ["KernelCounters", "kernel_counters", "parse_counters"]

NET = Path("/proc/thread-self/net")
DROPPED = 3, 11
"""Columns of /proc/net/dev with dropped frames, received and sent, counted from 0 behind the interface's name."""


@attrs.frozen
class KernelCounters:
    """Counters of one namespace, of IPv4 and IPv6 together."""

    echo_replies: int
    """ICMP echo replies that came in, whether or not a program still waited for them."""
    datagrams_dropped: int
    """UDP datagrams that came in and found the buffer of their socket full."""
    frames_dropped: int
    """Frames that interfaces dropped, such as those that found the queue of a TUN full."""

    def since(self, before: KernelCounters) -> KernelCounters:
        mine, theirs = attrs.astuple(self), attrs.astuple(before)
        return KernelCounters(*(now - then for now, then in zip(mine, theirs, strict=True)))


def parse_counters(snmp: str, snmp6: str, dev: str) -> KernelCounters:
    """The counters in the text of /proc/net/snmp, snmp6 and dev; without IPv6 ``snmp6`` is empty."""
    rows = [line.split() for line in snmp.splitlines()]
    found: dict[str, int] = {}
    for names, values in zip(rows[::2], rows[1::2], strict=True):
        group = names[0].rstrip(":")
        found |= {f"{group}{name}": int(value) for name, value in zip(names[1:], values[1:], strict=True)}
    found |= {name: int(value) for name, value in (line.split() for line in snmp6.splitlines())}
    interfaces = (line.partition(":")[2].split() for line in dev.splitlines()[2:])
    return KernelCounters(
        echo_replies=found.get("IcmpInEchoReps", 0) + found.get("Icmp6InEchoReplies", 0),
        datagrams_dropped=found.get("UdpRcvbufErrors", 0) + found.get("Udp6RcvbufErrors", 0),
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
    """The counters of namespace ``netns``, None is our own. Raises FileNotFoundError where there is none."""
    return await in_netns(netns, _read)
