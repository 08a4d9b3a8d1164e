"""Errors of a wire: each has a severity, a bit in Advanced Error Reporting, and a way to provoke it."""

from __future__ import annotations

from support.rigs.aer import PROVOCATIONS
from vnet.link.datalink.errors import DataLinkError
from vnet.link.wire.errors import SEVERITIES, Severity, TransactionError
from vnet.pcie.aer import CORRECTABLE, UNCORRECTABLE


def test_every_error_of_a_wire_has_a_severity_a_bit_and_a_provocation() -> None:
    assert set(SEVERITIES) == {*DataLinkError, *TransactionError}
    assert set(CORRECTABLE) | set(UNCORRECTABLE) == set(SEVERITIES) == set(PROVOCATIONS)
    assert {error for error, severity in SEVERITIES.items() if severity is Severity.CORRECTABLE} == set(CORRECTABLE)


def test_no_two_errors_share_a_bit() -> None:
    for table in (CORRECTABLE, UNCORRECTABLE):
        assert len(set(table.values())) == len(table)
