"""Credits of a stream: they run out, come back, and are not exceeded."""

from __future__ import annotations

import pytest

from drivers.carriers.framing import ProtocolError
from vnet.link.transaction.flow import Flow
from vnet.stream.credits import FLOWS, CreditGate, CreditGrant


def connected() -> tuple[CreditGate, CreditGrant]:
    gate, grant = CreditGate(), CreditGrant()
    for body in grant.updates():
        gate.update(body)
    return gate, grant


@pytest.mark.hostile("L04")
def test_credits_run_out_and_come_back_when_packets_are_handled() -> None:
    gate, grant = connected()
    packets, _ = FLOWS[Flow.NON_POSTED]
    for _ in range(packets):
        assert gate.take(0, posted=False)
        grant.receive(0, posted=False)
    assert not gate.take(0, posted=False)
    assert gate.take(256, posted=True), "posted packets have credits of their own"
    due = [grant.handle(0, posted=False) for _ in range(packets)]
    assert due.index(True) == packets // 4 - 1
    for body in grant.updates():
        gate.update(body)
    assert gate.take(0, posted=False)


@pytest.mark.hostile("L04")
@pytest.mark.parametrize(("posted", "data", "count"), [(False, 0, 513), (True, 256, 1025), (True, 0, 4097)])
def test_packets_beyond_the_credits_are_an_overflow(posted: bool, data: int, count: int) -> None:
    _, grant = connected()
    for _ in range(count - 1):
        grant.receive(data, posted=posted)
    with pytest.raises(ProtocolError, match="receiver overflow"):
        grant.receive(data, posted=posted)
