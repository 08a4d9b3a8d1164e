"""Frames that a hostile driver sends, good and bad, with the cause under which each bad one is counted."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from rings.testing import Desc
from vnet.testing import FRAME, HostileDriver, NetPair

__all__ = ["DROPPED", "HEADER", "NEEDS_CSUM", "Build", "cut", "framed", "virtio_net_hdr", "whole"]

HEADER = bytes(12)
NEEDS_CSUM = 1
Build = Callable[[HostileDriver[NetPair]], Sequence[Desc]]


def virtio_net_hdr(
    flags: int = 0, gso: int = 0, hdr_len: int = 0, gso_size: int = 0, start: int = 0, offset: int = 0, count: int = 0
) -> bytes:
    return struct.pack("<BBHHHHH", flags, gso, hdr_len, gso_size, start, offset, count)


def whole(data: bytes) -> Build:
    """One descriptor with all of it."""
    return lambda driver: [Desc(driver.put(data), len(data))]


def cut(data: bytes, *sizes: int) -> Build:
    """Pieces of these sizes, then the rest."""

    def build(driver: HostileDriver[NetPair]) -> Sequence[Desc]:
        descs, at = [], 0
        for size in (*sizes, len(data) - sum(sizes)):
            descs.append(Desc(driver.put(data[at : at + size]), size))
            at += size
        return descs

    return build


def framed(size: int, header: bytes = HEADER) -> bytes:
    """Header and a frame of ``size`` bytes."""
    return header + (FRAME * (size // len(FRAME) + 1))[:size]


C, G = NEEDS_CSUM, virtio_net_hdr
DROPPED: dict[str, tuple[str, str, Build]] = {
    # row, cause, chain
    "nothing at all": ("N01", "short_header used_length", whole(b"")),
    "one byte": ("N01", "short_header", whole(b"\0")),
    "eleven bytes": ("N01", "short_header", whole(HEADER[:11])),
    "eleven bytes, in pieces": ("N01", "short_header", cut(HEADER[:11], 5, 0, 5)),
    "header alone": ("N01", "short_header", whole(HEADER)),
    "header alone, in pieces": ("N01", "short_header", cut(HEADER, 10)),
    "beyond the MTU": ("N02", "too_long", whole(framed(1519))),
    "far beyond the MTU": ("N02", "too_long", whole(framed(9000))),
    "beyond any frame": ("N02", "too_long", whole(framed(65551, G(C, 1, 54, 1460, 34, 16)))),
    "far beyond, in pieces": ("N02", "too_long", cut(framed(200_000, G(C, 1, 54, 1460, 34, 16)), 70_000, 70_000)),
    "csum_start behind the frame": ("N03", "bad_csum", whole(framed(60, G(C, start=61)))),
    "csum_start at the end": ("N03", "bad_csum", whole(framed(60, G(C, start=60)))),
    "one byte of checksum": ("N03", "bad_csum", whole(framed(60, G(C, start=53, offset=6)))),
    "csum_offset behind the frame": ("N03", "bad_csum", whole(framed(60, G(C, start=14, offset=60)))),
    "both largest": ("N03", "bad_csum", whole(framed(60, G(C, start=0xFFFF, offset=0xFFFF)))),
    "sum that wraps 16 bits": ("N03", "bad_csum", whole(framed(60, G(C, start=0xFFFE, offset=4)))),
    "gso_type 2": ("N04", "bad_gso", whole(framed(60, G(C, 2, 54, 1460, 34, 16)))),
    "UFO": ("N04", "bad_gso", whole(framed(60, G(C, 3, 42, 1460, 34, 6)))),
    "gso_type 6": ("N04", "bad_gso", whole(framed(60, G(C, 6, 54, 1460, 34, 16)))),
    "tunnel": ("N04", "bad_gso", whole(framed(60, G(C, 0x21, 54, 1460, 34, 16)))),
    "ECN of a datagram": ("N04", "bad_gso", whole(framed(60, G(C, 0x85, 42, 1460, 34, 6)))),
    "ECN alone": ("N04", "bad_gso", whole(framed(60, G(C, 0x80, 54, 1460, 34, 16)))),
    "gso_type 255": ("N04", "bad_gso", whole(framed(60, G(C, 255, 54, 1460, 34, 16)))),
    "gso_size 0": ("N04", "bad_gso", whole(framed(60, G(C, 1, 54, 0, 34, 16)))),
    "hdr_len behind the frame": ("N04", "bad_gso", whole(framed(60, G(C, 1, 61, 1460, 34, 16)))),
    "hdr_len largest": ("N04", "bad_gso", whole(framed(60, G(C, 1, 0xFFFF, 1460, 34, 16)))),
    "GSO without NEEDS_CSUM": ("N04", "bad_gso", whole(framed(60, G(0, 1, 54, 1460, 34, 16)))),
    "GSO with DATA_VALID alone": ("N04", "bad_gso", whole(framed(60, G(2, 1, 54, 1460, 34, 16)))),
    "one byte of frame": ("N05", "short_frame", whole(framed(1))),
    "thirteen bytes of frame": ("N05", "short_frame", whole(framed(13))),
    "thirteen, in pieces": ("N05", "short_frame", cut(framed(13), 12, 7)),
    "thirteen with GSO": ("N05", "short_frame", whole(framed(13, G(C, 1, 0, 1, 0, 0)))),
}
