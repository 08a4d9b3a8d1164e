"""Encryption of a stream: none on one machine, TLS if the stream leaves it.

A register read blocks its process until it is answered, so the records of TLS are made and taken here, from memory, as
`trio.SSLStream` does inside, and not by a stream that only a task can wait for.

Neither side has a certificate. The handshake is anonymous Diffie-Hellman of TLS 1.2, and the proof of the key that
follows is about this handshake (`Tls.binding`, RFC 5929): an attacker between both has two handshakes, and no proof.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Protocol

from drivers.errors import TransportLost

__all__ = ["Cipher", "Plain", "Tls"]

GROUP = Path(__file__).with_name("ffdhe3072.pem")
"""The group of the key exchange (RFC 7919)."""
SUITE = "ADH-AES256-GCM-SHA384:@SECLEVEL=0"
"""OpenSSL has anonymous suites at this level only; the level permits nothing else, since this is the only suite."""
PIECE = 256 << 10


class Cipher(Protocol):
    """Both directions of one connection. Raises TransportLost for damaged or unexpected records."""

    binding: bytes
    """Bytes that only the two ends of this very connection know."""

    def wrap(self, data: bytes) -> bytes:
        """Return what is sent for ``data``."""

    def unwrap(self, data: bytes) -> bytes:
        """Return the data that arrived by these bytes, as far as they are complete."""


class Plain:
    """Nothing is changed: the kernel keeps a unix socket, and a connection to this machine, to the machine."""

    binding = b""

    def wrap(self, data: bytes) -> bytes:
        return data

    def unwrap(self, data: bytes) -> bytes:
        return data


class Tls:
    """TLS. `step` does the handshake before anything else."""

    binding = b""

    def __init__(self, *, server: bool) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        context.set_ciphers(SUITE)
        if server:
            context.load_dh_params(str(GROUP))
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)

    def step(self, data: bytes) -> tuple[bytes, bool]:
        """Go on with the handshake by received bytes. Returns bytes to send, and whether it is done."""
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return self._outgoing.read(), False
        except ssl.SSLError as error:
            raise TransportLost(f"TLS: {error.reason or error}") from None
        self.binding = self._tls.get_channel_binding("tls-unique") or b""
        return self._outgoing.read(), True

    def wrap(self, data: bytes) -> bytes:
        self._tls.write(data)
        return self._outgoing.read()

    def unwrap(self, data: bytes) -> bytes:
        self._incoming.write(data)
        parts = []
        try:
            while part := self._tls.read(PIECE):
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise TransportLost(f"TLS: {error.reason or error}") from None
        return b"".join(parts)
