"""Errors that the data link layer reports, by the names of Advanced Error Reporting."""

from __future__ import annotations

from enum import Enum

__all__ = ["BadFrame", "DataLinkError"]


class DataLinkError(Enum):
    """Error of a data link layer. All but the last three are corrected by a repetition (6.2.7)."""

    RECEIVER = "receiver error"
    """Symbols that frame no packet."""
    BAD_TLP = "bad TLP"
    """A TLP whose LCRC is wrong, or whose sequence number is neither the next one nor an earlier one."""
    BAD_DLLP = "bad DLLP"
    """A DLLP whose CRC is wrong."""
    REPLAY_TIMEOUT = "replay timer timeout"
    """TLPs that were acknowledged by nothing for too long; they are sent again."""
    REPLAY_ROLLOVER = "REPLAY_NUM rollover"
    """The fourth replay in a row without progress; the link is retrained."""
    PROTOCOL = "data link protocol error"
    """An acknowledgement of a TLP that was not sent."""
    FLOW_CONTROL = "flow control protocol error"
    """An update of credits that contradicts their initialisation."""
    OVERFLOW = "receiver overflow"
    """A TLP for which the receiver had granted no credits."""


class BadFrame(ValueError):
    """Symbols that are not accepted; ``error`` is the error to report."""

    def __init__(self, error: DataLinkError, why: str) -> None:
        super().__init__(why)
        self.error = error
