"""A wire between two memories: accesses arrive whole, whatever happens to packets, and each error is provoked."""

from __future__ import annotations

from random import Random

import pytest

from support.rigs.wire import DOWN, SIZE, UP, WireBench
from vnet.link.datalink.credits import GrantedCredits, UsableCredits
from vnet.link.datalink.errors import DataLinkError
from vnet.link.tlp import FRAMING, PcieParameters, read_cost, write_cost
from vnet.link.transaction.codec import emit as emit_tlp
from vnet.link.transaction.fields import MessageCode
from vnet.link.transaction.packets import Header, MemoryRead, MemoryWrite
from vnet.link.wire.errors import SEVERITIES, Failure, Severity, TransactionError
from vnet.link.wire.impairments import WireFault, WireRule
from vnet.link.wire.training import TrainingState

HEADER = Header(0x100)
ONCE = {1}


def test_memory_is_written_and_read_in_both_directions() -> None:
    bench = WireBench()
    data = Random(1).randbytes(10_000)
    assert bench.wire.write(UP, 4093, data)
    assert bench.root.memory[4093:14_093] == data
    assert bench.wire.read(UP, 4093, 10_000) == data
    assert bench.wire.write(DOWN, 1, data[:33])
    assert bench.endpoint.memory[:35] == b"\0" + data[:33] + b"\0"
    assert not bench.reported


def test_packets_and_bytes_are_those_that_the_cost_of_an_access_says() -> None:
    parameters = PcieParameters()
    bench = WireBench(parameters=parameters)
    bench.wire.write(UP, 0, bytes(10_000))
    assert bench.wire.endpoint.tlps["MWr"] == write_cost(parameters, 10_000).request.tlps
    bench.wire.read(UP, 0, 10_000)
    cost = read_cost(parameters, 10_000)
    assert cost.completion is not None
    assert bench.wire.endpoint.tlps["MRd"] == cost.request.tlps
    assert bench.wire.root.tlps["CplD"] == cost.completion.tlps
    assert len(emit_tlp(MemoryRead(header=HEADER, address=0, length=1))) + FRAMING == 20


def test_registers_configuration_space_and_messages_arrive() -> None:
    bench = WireBench()
    assert bench.wire.write(DOWN, SIZE, (0x1234).to_bytes(4, "little"))
    assert bench.wire.read(DOWN, SIZE, 4) == (0x1234).to_bytes(4, "little")
    assert bench.wire.config_write(0, 0x10, 0b0110, b"\0\x56\x78\0") is None
    assert bench.endpoint.config[0x10:0x14] == b"\0\x56\x78\0"
    assert bench.wire.config_read(0, 0x10, 0b0010) == b"\0\x56\0\0"
    assert bench.wire.config_read(3, 0, 0xF) is Failure.UNSUPPORTED
    assert bench.wire.message(MessageCode.ASSERT_INTA, 5)
    assert bench.endpoint.log == ["register 0x1234 of function 0"]
    assert bench.root.log == ["INTx True of function 5"]
    assert not bench.reported, "a function that does not exist reports nothing"


REPAIRED = [
    WireFault.BIT_ERRORS,
    WireFault.LOST_TLPS,
    WireFault.LOST_ACKS,
    WireFault.DUPLICATED,
    WireFault.REORDERED,
    WireFault.LOST_CREDITS,
    WireFault.RETRAINS,
]


def move(bench: WireBench, seed: int, count: int = 20) -> None:
    """Write and read random ranges, and compare each with what must be there."""
    random, expected = Random(seed), bytearray(SIZE)
    for _ in range(count):
        data = random.randbytes(random.randint(1, 3000))
        start = random.randrange(SIZE - len(data))
        assert bench.wire.write(UP, start, data)
        expected[start : start + len(data)] = data
        start = random.randrange(SIZE - 2000)
        assert bench.wire.read(UP, start, 2000) == bytes(expected[start : start + 2000])
    assert bench.root.memory == expected


@pytest.mark.parametrize("fault", REPAIRED)
@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1])
def test_the_data_link_layer_repairs_all_that_happens_to_packets(fault: WireFault, rate: float) -> None:
    bench = WireBench(WireRule(fault, rate=rate), seed=3)
    move(bench, seed=4, count=10)
    if rate == 0.1:
        assert bench.impairments.done[fault.value]
    assert {SEVERITIES[error] for error in bench.errors} <= {Severity.CORRECTABLE}


@pytest.mark.parametrize("seed", range(4))
def test_all_these_faults_at_once_are_repaired(seed: int) -> None:
    bench = WireBench(*(WireRule(fault, rate=0.02) for fault in REPAIRED), seed=seed)
    move(bench, seed)
    assert bench.observer.delivered > 400
    assert DataLinkError.BAD_TLP in bench.errors
    assert bench.wire.endpoint.datalink.repeated


@pytest.mark.parametrize("fault", [WireFault.BIT_ERRORS, WireFault.LOST_ACKS, WireFault.LOST_TLPS])
@pytest.mark.parametrize("number", range(1, 6))
def test_a_single_fault_of_any_of_the_first_packets_is_repaired(fault: WireFault, number: int) -> None:
    bench = WireBench(WireRule(fault, nth={number}))
    assert bench.wire.write(UP, 0, b"\x5a" * 1024)
    assert bench.root.memory[:1024] == b"\x5a" * 1024


def test_the_same_seed_gives_the_same_faults() -> None:
    first, second = (WireBench(*(WireRule(fault, rate=0.02) for fault in REPAIRED), seed=9) for _ in range(2))
    move(first, 1)
    move(second, 1)
    assert first.impairments.done == second.impairments.done
    assert first.errors == second.errors
    assert first.wire.now == second.wire.now


def test_ten_thousand_retrains_lose_nothing() -> None:
    bench = WireBench()
    for at in range(10_000):
        assert bench.wire.retrain()
        if at % 100 == 0:
            assert bench.wire.write(UP, at, b"\x5a")
    assert bench.wire.root.training.retrains >= 10_000
    assert bench.root.memory[:10_000].count(0x5A) == 100
    assert not bench.errors
    assert bench.wire.up


def test_a_link_that_delivers_nothing_any_more_is_given_up() -> None:
    bench = WireBench(WireRule(WireFault.BIT_ERRORS, rate=1))
    assert not bench.wire.write(UP, 0, b"x")
    assert not bench.wire.up
    assert DataLinkError.REPLAY_ROLLOVER in bench.errors
    assert bench.errors[-1] is TransactionError.SURPRISE_DOWN
    assert bench.wire.read(UP, 0, 4) is Failure.LINK_DOWN
    assert not bench.wire.write(UP, 0, b"x")
    bench.impairments.set(())
    bench.train()
    assert bench.wire.write(UP, 0, b"x")


def test_credits_that_never_come_end_the_link() -> None:
    bench = WireBench(WireRule(WireFault.LOST_CREDITS, rate=1))
    assert not bench.wire.write(UP, 0, bytes(SIZE))
    assert not bench.wire.up


@pytest.mark.hostile("L05")
def test_each_request_without_an_answer_times_out_by_itself() -> None:
    bench = WireBench(WireRule(WireFault.UNANSWERED, nth={2, 4}))
    assert bench.wire.read(UP, 0, 4096) is Failure.TIMEOUT  # eight requests, of which two get no answer
    assert bench.errors.count(TransactionError.COMPLETION_TIMEOUT) == 2
    assert bench.wire.read(UP, 0, 4096) == bytes(4096)
    assert bench.wire.up


def test_a_surprise_down_fails_what_is_under_way() -> None:
    bench = WireBench(WireRule(WireFault.SURPRISE_DOWNS, nth={3}))
    assert bench.wire.read(UP, 0, 4096) is Failure.LINK_DOWN
    assert bench.errors == [TransactionError.SURPRISE_DOWN]
    bench.train()
    assert bench.wire.read(UP, 0, 4096) == bytes(4096)


def test_a_hot_reset_is_no_surprise() -> None:
    bench = WireBench()
    bench.wire.hot_reset()
    assert not bench.wire.up
    assert not bench.errors
    bench.train()
    assert bench.wire.lives == 2
    assert bench.wire.read(UP, 0, 4) == bytes(4)


def test_a_hot_reset_during_a_request_fails_it() -> None:
    bench = WireBench(WireRule(WireFault.HOT_RESETS, nth={3}))
    assert bench.wire.read(UP, 0, 4096) is Failure.LINK_DOWN
    assert bench.wire.root.training.state is TrainingState.DETECT


@pytest.mark.hostile("L06")
def test_a_request_for_nothing_is_unsupported() -> None:
    bench = WireBench()
    assert bench.wire.read(UP, SIZE + 64, 8) is Failure.UNSUPPORTED
    assert bench.wire.write(UP, SIZE + 64, bytes(8)), "a posted write has no answer"
    assert bench.errors == [TransactionError.UNSUPPORTED_REQUEST] * 2
    direction, _, log = bench.reported[0]
    assert direction is DOWN, "the root port answers, and reports"
    assert log == emit_tlp(MemoryRead(header=HEADER, address=SIZE + 64, length=2, last=0xF))[:16]


@pytest.mark.hostile("L06")
def test_a_completer_can_abort() -> None:
    bench = WireBench(WireRule(WireFault.ABORTED, nth=ONCE))
    assert bench.wire.read(UP, 0, 8) is Failure.ABORTED
    assert bench.errors == [TransactionError.COMPLETER_ABORT]


@pytest.mark.hostile("L07")
def test_poisoned_data_is_not_used() -> None:
    bench = WireBench(WireRule(WireFault.POISONED, nth=ONCE))
    assert bench.wire.read(UP, 0, 8) is Failure.POISONED
    bench.wire.endpoint.submit(MemoryWrite(header=Header(0x100, poisoned=True), address=0, data=b"evil"))
    assert bench.wire.read(UP, 0, 4) == bytes(4)
    assert bench.errors == [TransactionError.POISONED] * 2


def test_a_sender_without_credits_overflows_the_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = WireBench()
    monkeypatch.setattr(UsableCredits, "suffice", lambda *_: True)  # a sender that does not count
    monkeypatch.setattr(GrantedCredits, "free", lambda *_: None)  # and a full receiver
    assert not bench.wire.write(UP, 0, bytes(SIZE))
    assert DataLinkError.OVERFLOW in bench.errors


@pytest.mark.parametrize("parameters", [PcieParameters(1, 1, 128, 128, 64), PcieParameters(5, 16, 4096, 4096, 128)])
def test_slow_and_fast_links_carry_the_same_bytes(parameters: PcieParameters) -> None:
    bench = WireBench(WireRule(WireFault.BIT_ERRORS, rate=0.01), parameters=parameters)
    move(bench, seed=1, count=5)
