"""Errors and failures of the transaction layer, by the names of Advanced Error Reporting."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from vnet.link.datalink.errors import DataLinkError

__all__ = ["SEVERITIES", "Failure", "Severity", "TransactionError", "WireError"]


class TransactionError(Enum):
    """Error that a port reports besides those of its data link layer (6.2.7)."""

    SURPRISE_DOWN = "surprise down"
    POISONED = "poisoned TLP received"
    COMPLETION_TIMEOUT = "completion timeout"
    COMPLETER_ABORT = "completer abort"
    UNEXPECTED_COMPLETION = "unexpected completion"
    MALFORMED = "malformed TLP"
    ECRC = "ECRC error"
    UNSUPPORTED_REQUEST = "unsupported request"


WireError = DataLinkError | TransactionError


class Severity(Enum):
    """Severity of an error (6.2.2)."""

    CORRECTABLE = "correctable"
    NON_FATAL = "non-fatal"
    FATAL = "fatal"


_C, _N, _F = Severity.CORRECTABLE, Severity.NON_FATAL, Severity.FATAL
SEVERITIES: Mapping[WireError, Severity] = {
    DataLinkError.RECEIVER: _C,
    DataLinkError.BAD_TLP: _C,
    DataLinkError.BAD_DLLP: _C,
    DataLinkError.REPLAY_TIMEOUT: _C,
    DataLinkError.REPLAY_ROLLOVER: _C,
    DataLinkError.PROTOCOL: _F,
    DataLinkError.FLOW_CONTROL: _F,
    DataLinkError.OVERFLOW: _F,
    TransactionError.SURPRISE_DOWN: _F,
    TransactionError.POISONED: _N,
    TransactionError.COMPLETION_TIMEOUT: _N,
    TransactionError.COMPLETER_ABORT: _N,
    TransactionError.UNEXPECTED_COMPLETION: _N,
    TransactionError.MALFORMED: _F,
    TransactionError.ECRC: _N,
    TransactionError.UNSUPPORTED_REQUEST: _N,
}
"""Severity of each error, as after a reset."""


class Failure(Enum):
    """Outcome of a request that failed."""

    LINK_DOWN = "the link went down during the request"
    TIMEOUT = "no completion came in time"
    UNSUPPORTED = "the other end does not support the request"
    ABORTED = "the other end gave the request up"
    POISONED = "the data was poisoned on its way"
