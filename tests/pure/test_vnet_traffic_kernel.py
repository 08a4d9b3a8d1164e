"""Verdicts of pings and flows depend on the device, not on how busy the machine is."""

from __future__ import annotations

import attrs
import pytest

from vnet.traffic.counters import KernelCounters, parse_counters
from vnet.traffic.kernel import FlowResult, PingResult

SNMP = """\
Ip: Forwarding DefaultTTL
Ip: 2 64
Icmp: InMsgs InEchos InEchoReps OutEchos OutEchoReps
Icmp: 9 1 5 6 1
IcmpMsg: InType0 OutType8
IcmpMsg: 5 6
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors
Udp: 100 2 7 100 4
"""
SNMP6 = """\
Ip6InReceives                   	33
Icmp6InEchos                    	3
Icmp6InEchoReplies              	2
Udp6RcvbufErrors                	1
"""
DEV = """\
Inter-|   Receive             |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo:  3193  29  0  0  0  0  0  0  3193  29  0  0  0  0  0  0
 vnet0:     1   2  3  4  5  6  7  8     9  10 11 12 13 14 15 16
"""
FLOW = FlowResult(
    seconds=1.0, bytes=1, bits_per_second=8.0, packets=980, lost=20, retransmits=0, complete=True, overflowed=0
)


def test_counters_of_both_families_and_all_interfaces_are_added_up() -> None:
    counters = parse_counters(SNMP, SNMP6, DEV)
    assert counters == KernelCounters(echo_replies=7, datagrams_dropped=5, frames_dropped=16)
    assert parse_counters(SNMP, "", DEV).echo_replies == 5
    assert counters.since(KernelCounters(3, 1, 6)) == KernelCounters(4, 4, 10)


@pytest.mark.parametrize(
    ("flow", "failure"),
    [
        (FLOW, "lost 2.0 % of its datagrams"),
        (attrs.evolve(FLOW, overflowed=20), ""),
        (attrs.evolve(FLOW, overflowed=900), ""),
        (attrs.evolve(FLOW, overflowed=11), ""),
        (attrs.evolve(FLOW, overflowed=9), "lost 1.1 % of its datagrams"),
        (attrs.evolve(FLOW, lost=0), ""),
        (attrs.evolve(FLOW, complete=False, overflowed=20), "ended after 1.0 s"),
    ],
)
def test_datagrams_that_a_kernel_dropped_are_not_the_devices_loss(flow: FlowResult, failure: str) -> None:
    assert flow.failure() == failure
    assert "lost" in flow.line(), "it is shown all the same"


@pytest.mark.parametrize(
    ("ping", "line", "failure"),
    [
        (PingResult(5, 5, 1.0, 2.0, 3.0), "5 of 5 back, 2.00 ms", ""),
        (PingResult(5, 5, 1.0, 2.0, 3.0, late=2), "5 of 5 back, 2.00 ms, 2 later than ping waits", ""),
        (PingResult(5, 3, 1.0, 2.0, 3.0), "3 of 5 back, 2.00 ms", "lost 2 of 5"),
        (PingResult(5, 0, None, None, None), "0 of 5 back, -", "lost 5 of 5"),
    ],
)
def test_a_late_reply_is_not_lost(ping: PingResult, line: str, failure: str) -> None:
    assert (ping.line(), ping.failure()) == (line, failure)
