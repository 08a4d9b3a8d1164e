"""The first frames of a connection: both sides say what they are, then each proves that it has the key. No I/O."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from enum import Enum

import attrs

from drivers.carriers.framing import ProtocolError
from rings.memory import ADDRESS_END

__all__ = ["VERSION", "Handshake", "StreamIdentity", "Side"]

VERSION = 1
"""Version of the frames, their order and their meaning."""
MAGIC = "vnet-link"
NONCE = 32
"""Bytes of a side's random number."""
RANGES_MAX = 8
"""Most ranges of a host's memory."""
TEXT_MAX = 100
Span = tuple[int, int]


class Side(Enum):
    """Ends of a link."""

    ROOT = "root"
    ENDPOINT = "endpoint"

    @property
    def other(self) -> Side:
        return Side.ENDPOINT if self is Side.ROOT else Side.ROOT


@attrs.frozen
class StreamIdentity:
    """The part of the topology that both sides must have."""

    link: str
    """Name of the link."""
    functions: Mapping[int, str]
    """Type and transport of the device of each function of the endpoint, by its number."""

    def plain(self) -> dict[str, object]:
        """Return the identity as JSON values."""
        return {"link": self.link, "functions": {str(number): what for number, what in self.functions.items()}}


class Handshake:
    """One side of the handshake. Methods that take a frame's body raise ProtocolError, with the reason for the user."""

    def __init__(self, side: Side, identity: StreamIdentity, key: str, memory: Sequence[Span] = ()) -> None:
        """``memory`` has address and bytes of each range of the host's memory, at the root."""
        self._side = side
        self._identity = identity
        self._key = key.encode()
        mine = {
            "protocol": MAGIC,
            "version": VERSION,
            "side": side.value,
            "identity": identity.plain(),
            "nonce": secrets.token_hex(NONCE),
            "memory": [list(span) for span in memory],
        }
        self.hello = json.dumps(mine).encode()
        """Body of the first frame."""
        self._theirs = b""
        self.memory: tuple[Span, ...] = ()
        """The other host's memory."""

    def take_hello(self, body: bytes) -> None:
        """Take the body of the other side's first frame, before anything else of it is believed."""
        try:
            theirs = json.loads(body)
        except (ValueError, RecursionError):
            theirs = None
        if not isinstance(theirs, dict) or theirs.get("protocol") != MAGIC:
            raise ProtocolError("the other side is no link of vnet")
        if theirs.get("version") != VERSION:
            raise ProtocolError(f"version: the other side has {_text(theirs.get('version'))}, this one {VERSION}")
        if theirs.get("side") != self._side.other.value:
            raise ProtocolError(f"side: both are the {self._side.value}: one must run the other host (--only)")
        for key, value in self._identity.plain().items():
            identity = theirs.get("identity")
            other = identity.get(key) if isinstance(identity, dict) else None
            if other != value:
                raise ProtocolError(f"{key}: the other side has {_text(other)}, this one {_text(value)}: must be equal")
        nonce = theirs.get("nonce")
        if not isinstance(nonce, str) or len(nonce) != 2 * NONCE:
            raise ProtocolError("the other side's random number is invalid")
        self.memory = _spans(theirs.get("memory"))
        self._theirs = body

    def proof(self, binding: bytes) -> bytes:
        """Return the body of the second frame, on the connection with this ``binding``."""
        return self._proof(self._side, binding)

    def take_proof(self, body: bytes, binding: bytes) -> None:
        """Take the body of the other side's second frame."""
        if not hmac.compare_digest(body, self._proof(self._side.other, binding)):
            raise ProtocolError("key: the other side has another one: must be equal in both files")

    def _proof(self, side: Side, binding: bytes) -> bytes:
        mine, theirs = hashlib.sha256(self.hello).digest(), hashlib.sha256(self._theirs).digest()
        root, endpoint = (mine, theirs) if self._side is Side.ROOT else (theirs, mine)
        parts = (MAGIC.encode(), side.value.encode(), root, endpoint, binding)
        return hmac.digest(self._key, b"".join(len(part).to_bytes(2, "big") + part for part in parts), "sha256")


def _text(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}..."


def _spans(value: object) -> tuple[Span, ...]:
    if not isinstance(value, list) or len(value) > RANGES_MAX:
        raise ProtocolError("memory: must be a short list of ranges")
    spans: list[Span] = []
    for each in value:
        if not (isinstance(each, list) and len(each) == 2 and all(type(number) is int for number in each)):
            raise ProtocolError("memory: a range must be an address and a size")
        base, size = each
        end = spans[-1][0] + spans[-1][1] if spans else 0
        if not (end <= base and 0 < size and base + size <= ADDRESS_END):
            raise ProtocolError(f"memory: {size} bytes at {base:#x}: must be ascending ranges of addresses")
        spans.append((base, size))
    return tuple(spans)
