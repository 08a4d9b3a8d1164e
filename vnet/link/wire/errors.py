"""Errors and failures of the transaction layer, by the names of Advanced Error Reporting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Protocol

import attrs

from vnet.link.base import Direction
from vnet.link.datalink.errors import DataLinkError
from vnet.link.tlp import PcieParameters
from vnet.link.transaction.fields import MessageCode

__all__ = ["SEVERITIES", "DetectedError", "ErrorWire", "Failure", "Severity", "TransactionError", "WireError"]


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


@attrs.frozen
class DetectedError:
    """An error as a port detects it, with what its end needs to log it (6.2.4)."""

    error: WireError
    header: bytes = b""
    """First bytes of the TLP that the error is about, at most 16; empty without one."""
    function: int | None = None
    """Function of the endpoint that the error is about; None: the port, and with it all of its functions."""
    advisory: bool = False
    """Whether another agent handles the error, such as a requester that gets an unsuccessful completion (6.2.3.2.4)."""


class ErrorWire(Protocol):
    """A wire as its two ends use it to report errors. A port is named by the direction of its packets."""

    parameters: PcieParameters

    def watch_errors(self, port: Direction, sink: Callable[[DetectedError], None]) -> None:
        """Report the errors that a port detects to ``sink``, which may be called while a request is under way."""

    def watch_error_messages(self, sink: Callable[[MessageCode, int], None]) -> None:
        """Report the error messages that arrive at the root port, with the number of the sending function."""

    def send_error(self, code: MessageCode, function: int) -> None:
        """Send an error message to the root port, behind earlier packets. It is lost if the link is down."""

    def set_digests(self, port: Direction, *, generate: bool, check: bool) -> None:
        """Set whether a port sends its packets with a digest (ECRC), and whether it checks those of others."""

    def plan(self, delay: float, act: Callable[[], None]) -> None:
        """Call ``act`` in the task of the link, ``delay`` seconds from now."""

    def hot_reset(self) -> None:
        """Reset the link by its root port. Harmless while it is down."""


class Failure(Enum):
    """Outcome of a request that failed."""

    LINK_DOWN = "the link went down during the request"
    TIMEOUT = "no completion came in time"
    UNSUPPORTED = "the other end does not support the request"
    ABORTED = "the other end gave the request up"
    POISONED = "the data was poisoned on its way"
