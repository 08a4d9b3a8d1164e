"""A port and the packets that it should not get: each is reported by its name, and changes nothing."""

from __future__ import annotations

import attrs
import pytest

from support.rigs.wire import DOWN, UP, WireBench
from vnet.link.datalink.dllps import Ack, CreditPhase, FlowControl, emit
from vnet.link.datalink.errors import DataLinkError
from vnet.link.datalink.frames import frame_dllp
from vnet.link.transaction.codec import emit as emit_tlp
from vnet.link.transaction.fields import CompletionStatus
from vnet.link.transaction.flow import Credits, Flow
from vnet.link.transaction.packets import Completion, ConfigRead, ConfigWrite, Header, MemoryWrite
from vnet.link.wire.errors import Failure, TransactionError
from vnet.link.wire.port import granted_credits

HEADER = Header(0x100)


def forge(bench: WireBench, packet: bytes) -> None:
    """Have the endpoint send a TLP of any bytes."""
    bench.wire.endpoint.datalink.send(packet)
    bench.observer(UP, False, packet)
    bench.wire.read(UP, 0, 4)


def test_malformed_packets_are_reported_and_nothing_else_happens() -> None:
    bench = WireBench()
    malformed = emit_tlp(MemoryWrite(header=HEADER, address=0, data=b"evil"))[:-4] + bytes(8)
    forge(bench, malformed)
    assert bench.reported == [(DOWN, TransactionError.MALFORMED, malformed[:16])]


def test_a_wrong_digest_is_an_ecrc_error() -> None:
    bench = WireBench()
    packet = emit_tlp(MemoryWrite(header=attrs.evolve(HEADER, digest=True), address=0, data=b"evil"))
    forge(bench, packet[:-1] + bytes((packet[-1] ^ 1,)))
    assert bench.errors == [TransactionError.ECRC]
    assert bench.root.memory[:4] == bytes(4)


def test_a_completion_without_a_request_is_unexpected() -> None:
    bench = WireBench()
    forge(bench, emit_tlp(Completion(header=Header(0, 77), completer=0x100, status=CompletionStatus.SUCCESS)))
    assert bench.errors == [TransactionError.UNEXPECTED_COMPLETION]


def test_an_atomic_request_is_answered_as_unsupported() -> None:
    bench = WireBench()
    packet = bytes.fromhex("4c000001 0100330f 00000000 00000001")
    forge(bench, packet)
    assert bench.errors[0] is TransactionError.UNSUPPORTED_REQUEST
    assert TransactionError.UNEXPECTED_COMPLETION in bench.errors, "our own port has not asked for it"


def test_a_poisoned_write_of_configuration_space_changes_nothing_and_is_refused() -> None:
    bench = WireBench()
    port = bench.wire.root
    result = port.requests.configure(
        ConfigWrite(header=Header(0, poisoned=True), target=0x100, register=0x10, enabled=0xF, data=b"evil")
    )
    port.issue()
    bench.wire.read(UP, 0, 4)
    assert result.failure is Failure.UNSUPPORTED
    assert bench.errors == [TransactionError.POISONED]
    assert bench.endpoint.config[0x10:0x14] == bytes(4)


def test_forged_dllps_are_reported() -> None:
    bench = WireBench()
    root = bench.wire.root
    root.receive(frame_dllp(emit(Ack(99))))
    root.receive(frame_dllp(emit(FlowControl(CreditPhase.UPDATE, Flow.COMPLETION, 1, 1))))
    root.receive(frame_dllp(emit(Ack(99)))[:-3] + b"\0\0\xfd")
    root.receive(b"\x12\x34")
    assert bench.errors == [
        DataLinkError.PROTOCOL,
        DataLinkError.FLOW_CONTROL,
        DataLinkError.BAD_DLLP,
        DataLinkError.RECEIVER,
    ]


@pytest.mark.parametrize(("max_payload", "data"), [(128, 256), (512, 1024), (4096, 2047)])
def test_a_receiver_grants_32_payloads_as_far_as_the_counter_goes(max_payload: int, data: int) -> None:
    granted = granted_credits(max_payload)
    assert granted[Flow.POSTED] == Credits(64, data)
    assert granted[Flow.COMPLETION] == Credits(None, None), "completions have no limit"


def test_packets_are_counted_by_kind_and_shown_once_they_leave() -> None:
    port = WireBench().wire.endpoint
    port.submit(MemoryWrite(header=HEADER, address=0, data=bytes(4)))
    port.submit(ConfigRead(header=Header(0), target=0x100, register=0))
    assert (dict(port.tlps), port.posted_sent, len(port.queue)) == ({"MWr": 1, "CfgRd": 1}, 1, 2)
    assert port.take() is not None
    assert len(port.queue) == 1


def test_a_port_that_loses_its_link_forgets_what_it_had_to_send() -> None:
    bench = WireBench()
    port = bench.wire.endpoint
    transfer = port.requests.read(HEADER, 0, 4)
    port.issue()
    port.lose()
    assert transfer.done
    assert (len(port.queue), port.posted_sent, port.up) == (0, 0, False)
    assert port.take() is None


def test_the_log_of_an_error_has_at_most_a_header_of_16_bytes() -> None:
    bench = WireBench()
    bench.wire.root.report(TransactionError.MALFORMED, bytes(range(40)))
    bench.wire.root.report(TransactionError.MALFORMED)
    assert [log for _, _, log in bench.reported] == [bytes(range(16)), b""]
    assert bench.wire.root.errors == {"malformed TLP": 2}
