"""Errors of transaction layer packets: each names one violated rule."""

from __future__ import annotations

__all__ = ["EcrcMismatch", "MalformedTlp", "PrefixedTlp", "TlpError", "UnexpectedCompletion", "UnsupportedTlp"]


class TlpError(ValueError):
    """A packet that is not accepted. The abstract base of the errors below."""

    log: bytes = b""
    """First bytes of the received packet, at most 16, as in the header log of AER; empty for a packet of our own."""


class MalformedTlp(TlpError):
    """A packet that breaks a rule of the specification."""


class PrefixedTlp(MalformedTlp):
    """A packet with a TLP prefix, which a receiver without prefix support handles as malformed (2.2.10)."""


class UnsupportedTlp(TlpError):
    """A packet of a kind that exists, but that is not supported, such as an I/O request."""


class EcrcMismatch(TlpError):
    """A packet whose digest is not that of its bytes (2.7.1)."""


class UnexpectedCompletion(TlpError):
    """A completion that answers no outstanding request, or not as the request says (2.3.2)."""
