"""Advanced Error Reporting on a wire: each error at each port, from its detection to the root complex's host."""

from __future__ import annotations

import pytest

from support.rigs.aer import (
    CONTROL,
    COR_MASK,
    COR_STATUS,
    HEADER_LOG,
    NAMES,
    NOWHERE,
    PROVOCATIONS,
    ROOT_STATUS,
    UNCOR_MASK,
    UNCOR_SEVERITY,
    UNCOR_STATUS,
    open_errors,
    settled,
)
from support.rigs.wire import DOWN, UP
from vnet.link.base import Direction
from vnet.link.datalink.errors import DataLinkError
from vnet.link.wire.errors import SEVERITIES, Severity, TransactionError, WireError
from vnet.link.wire.impairments import WireFault
from vnet.pcie.aer import ADVISORY, CORRECTABLE, UNCORRECTABLE

ADVISORIES = {TransactionError.COMPLETER_ABORT, TransactionError.UNEXPECTED_COMPLETION}
CASES = [
    pytest.param(error, port, id=f"{error.value} at the {'root port' if port is DOWN else 'endpoint'}")
    for error in (*CORRECTABLE, *UNCORRECTABLE)
    for port in (DOWN, UP)
    if (error, port) != (TransactionError.SURPRISE_DOWN, UP)
]


@pytest.mark.parametrize(("error", "port"), CASES)
async def test_an_error_sets_its_bit_and_is_handled_by_the_host_of_the_root_complex(
    error: WireError, port: Direction
) -> None:
    async with open_errors(digests=error is TransactionError.ECRC) as bench:
        bench.hold()
        if error in ADVISORIES:
            bench.set_aer(COR_MASK, 0)
            bench.root.write(0x100 + COR_MASK, 4, 0)
        PROVOCATIONS[error](bench, port)
        bench.link.impairments.set(())
        assert ({DOWN: "root", UP: "endpoint"}[port], error.value) in bench.detected
        await settled()
        table, register = (CORRECTABLE, COR_STATUS) if error in CORRECTABLE else (UNCORRECTABLE, UNCOR_STATUS)
        status = bench.aer(register) if port is UP else bench.root.get(register)
        assert status >> table[error] & 1
        before = bench.link.epoch
        bench.root.write(0x100 + 0x2C, 4, 7)  # the interrupt, which was held up
        await settled()
        [handled] = [event for event in bench.handled if error.value in event.errors and event.location == NAMES[port]]
        assert handled.severity == ("correctable" if error in ADVISORIES else SEVERITIES[error].value)
        status = bench.aer(register) if port is UP else bench.root.get(register)
        assert not status >> table[error] & 1, "it is cleared"
        if SEVERITIES[error] is Severity.FATAL:
            assert bench.link.epoch == before + 1 or error is TransactionError.SURPRISE_DOWN
            assert bench.service.snapshot().link_resets == 1
        assert bench.function.online
        assert bench.root.get(ROOT_STATUS) == 0


async def test_errors_of_each_kind_set_the_device_status() -> None:
    async with open_errors() as bench:
        bench.hold()
        assert bench.device_status == 0
        PROVOCATIONS[DataLinkError.BAD_TLP](bench, UP)
        assert bench.device_status == 0b0001
        bench.write(DOWN, NOWHERE)
        assert bench.device_status == 0b1011, "also an unsupported request"
        PROVOCATIONS[DataLinkError.PROTOCOL](bench, UP)
        assert bench.device_status == 0b1111
        view = bench.service.snapshot()
        assert view.received == ("ERR_COR", "ERR_NONFATAL", "ERR_FATAL")


async def test_an_error_that_is_masked_or_disabled_is_not_reported() -> None:
    async with open_errors() as bench:
        bench.set_aer(COR_MASK, 1 << CORRECTABLE[DataLinkError.BAD_TLP] | 1 << ADVISORY)
        PROVOCATIONS[DataLinkError.BAD_TLP](bench, UP)
        bench.set_aer(UNCOR_MASK, 1 << UNCORRECTABLE[TransactionError.UNSUPPORTED_REQUEST])
        bench.write(DOWN, NOWHERE)
        await settled()
        assert bench.aer(COR_STATUS) == 1 << CORRECTABLE[DataLinkError.BAD_TLP]
        assert bench.aer(UNCOR_STATUS) == 1 << UNCORRECTABLE[TransactionError.UNSUPPORTED_REQUEST]
        assert bench.aer(CONTROL) & 0x1F == 0, "a masked error is no first error"
        bench.set_aer(COR_MASK, 0)
        bench.set_aer(UNCOR_MASK, 0)
        bench.set_device_control(0)
        bench.function.config_write(4, 2, 0x6)  # without SERR# Enable
        PROVOCATIONS[DataLinkError.BAD_TLP](bench, UP)
        bench.write(DOWN, NOWHERE)
        await settled()
        assert not bench.handled
        assert bench.port(UP).tlps["Msg"] == 0
        bench.set_device_control(0b0010)
        bench.write(DOWN, NOWHERE)
        await settled()
        assert not bench.handled, "reports of unsupported requests have an enable of their own"
        bench.set_device_control(0b1010)
        bench.write(DOWN, NOWHERE)
        await settled()
        assert [event.errors for event in bench.handled] == [("unsupported request",)]


async def test_the_header_log_is_that_of_the_first_error_until_it_is_cleared() -> None:
    async with open_errors() as bench:
        bench.hold()
        bench.write(DOWN, NOWHERE)
        first = tuple(bench.aer(HEADER_LOG + at) for at in range(0, 16, 4))
        assert first == (0x6000_0001, 0x0000_000F, 0x0004_0000, 0)
        assert bench.aer(CONTROL) & 0x1F == 20
        bench.write(DOWN, NOWHERE + 64)
        PROVOCATIONS[TransactionError.MALFORMED](bench, UP)
        assert tuple(bench.aer(HEADER_LOG + at) for at in range(0, 16, 4)) == first
        assert bench.epc.errors is not None
        view = bench.epc.errors.views()[0]
        assert (view.first, view.header) == ("unsupported request", "60000001 0000000f 00040000 00000000")
        assert view.uncorrectable == ("malformed TLP", "unsupported request")
        bench.set_aer(UNCOR_STATUS, 1 << 20)
        bench.write(DOWN, NOWHERE + 64)
        assert bench.aer(HEADER_LOG + 12) == 64
        assert bench.aer(CONTROL) & 0x1F == 20


async def test_a_severity_that_software_changed_decides_on_the_message() -> None:
    async with open_errors() as bench:
        bench.hold()
        bench.set_aer(UNCOR_SEVERITY, 1 << 20)
        bench.write(DOWN, NOWHERE)
        bench.read(DOWN)
        assert bench.root.get(ROOT_STATUS) == 0b1010100
        assert bench.device_status == 0b1100
        bench.read(DOWN, NOWHERE)  # answered, so advisory unless it is fatal
        assert bench.aer(COR_STATUS) == 0


async def test_an_answered_request_is_an_advisory_error_that_is_masked_at_first() -> None:
    async with open_errors() as bench:
        assert bench.aer(COR_MASK) == 1 << ADVISORY
        assert bench.read(DOWN, NOWHERE) == 0xFFFF_FFFF
        await settled()
        assert not bench.handled
        assert bench.aer(COR_STATUS) == 1 << ADVISORY
        assert bench.device_status == 0b1001
        assert bench.aer(UNCOR_STATUS) == 0
        bench.set_aer(COR_STATUS, 1 << ADVISORY)
        bench.set_aer(COR_MASK, 0)
        bench.read(DOWN, NOWHERE)
        await settled()
        names = ("advisory non-fatal", "unsupported request")
        assert [(event.severity, event.errors) for event in bench.handled] == [("correctable", names)]
        assert bench.handled[0].header.startswith("20000001 ")
        assert bench.aer(UNCOR_STATUS) == 0


async def test_an_error_about_no_function_is_logged_by_all_and_reported_once() -> None:
    async with open_errors(3) as bench:
        bench.hold()
        bench.set_aer(UNCOR_MASK, 1 << 18, function=0)
        PROVOCATIONS[TransactionError.MALFORMED](bench, UP)
        bench.read(DOWN)
        assert [bench.aer(UNCOR_STATUS, number) for number in range(3)] == [1 << 18] * 3
        assert bench.port(UP).tlps["Msg"] == 1
        assert bench.root.source == 0x0101_0000, "the first function that may report it"


async def test_an_error_of_a_request_is_that_of_its_function_alone() -> None:
    async with open_errors(2) as bench:
        bench.hold()
        bench.rule(WireFault.UNANSWERED)
        bench.link.mem_read(UP, bench.base, 4, 1)
        bench.link.impairments.set(())
        assert bench.aer(UNCOR_STATUS, 0) == 0
        assert bench.aer(UNCOR_STATUS, 1) == 1 << 14


async def test_registers_survive_the_reset_of_a_function_and_of_the_link() -> None:
    async with open_errors() as bench:
        bench.hold()
        bench.set_aer(UNCOR_MASK, 1 << 15)
        bench.write(DOWN, NOWHERE)
        assert bench.function.reset()
        assert bench.aer(UNCOR_STATUS) == 1 << 20
        bench.link.hot_reset()
        assert not bench.link.up
        bench.link.hot_reset()
        await settled()
        assert [event.errors for event in bench.handled] == [("unsupported request",)], "read after the reset"
        assert bench.aer(UNCOR_MASK) == 1 << 15
        bench.write(DOWN, NOWHERE)
        bench.read(DOWN)
        assert bench.root.get(ROOT_STATUS) & 4, "reports are enabled again"


async def test_packets_have_digests_only_if_they_are_turned_on_and_are_checked_then() -> None:
    async with open_errors() as bench:
        seen: list[bytes] = []
        bench.link.tap = lambda way, delivered, packet: seen.append(packet)
        PROVOCATIONS[TransactionError.ECRC](bench, DOWN)
        assert (("root", "ECRC error")) not in bench.detected
        assert not any(packet[2] & 0x80 for packet in seen)
    async with open_errors(digests=True) as bench:
        seen = []
        bench.link.tap = lambda way, delivered, packet: seen.append(packet)
        bench.read(UP)
        assert len(seen) == 4
        assert all(packet[2] & 0x80 for packet in seen)
        assert bench.aer(CONTROL) == 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8
