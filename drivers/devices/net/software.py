"""Checksums and segmentation in software, for receivers without these offloads. Pure.

Input is a virtio_net_hdr and the frame as byte views. Output is, per frame, a private head with the rewritten headers,
and views of the payload behind it, uncopied.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from drivers.contracts.ports import ETH_HLEN, HEADER_SIZE, Offloads
from drivers.devices.net.header import ECN, NEEDS_CSUM, GsoType
from drivers.devices.net.vlan import tags_end
from rings.chain import copy_out, skip, take, total

__all__ = ["BadGso", "convert_data_valid", "finish", "needs_finishing", "ones_sum"]

HEADER = struct.Struct("<BBHHHHH")
IPV4_HLEN, IPV4_ID, IPV4_LENGTH, IPV4_CSUM, IPV4_PROTOCOL = 20, 4, 2, 10, 9
IPV6_HLEN, IPV6_LENGTH, IPV6_NEXT = 40, 4, 6
EXTENSIONS = frozenset({0, 43, 60, 135, 139, 140})
"""IPv6 extension headers that may be repeated in segments; fragment and authentication headers may not."""
EXTENSIONS_MAX = 32
"""Maximum number of extension headers of one frame. RFC 8200 orders seven, each of up to 2,048 bytes."""
IPV4_FRAGMENT, IPV4_FRAGMENTED = 6, 0x3FFF
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
CHECKSUMS = {ICMP: 2, TCP: 16, UDP: 6, ICMPV6: 2}
"""Offset of the checksum in the transport header, by protocol."""
DATA_VALID_MAX = 512
"""Number of bytes of a frame in which the checksum field of DATA_VALID is searched."""
TCP_HLEN, TCP_HLEN_MAX, TCP_SEQ, TCP_FLAGS, TCP_CSUM = 20, 60, 4, 13, 16
TCP_FIN_PSH, TCP_CWR = 0x09, 0x80
UDP_HLEN, UDP_LENGTH, UDP_CSUM = 8, 4, 6
PLAIN = bytes(HEADER_SIZE)
KINDS = {GsoType.TCPV4: "tso4", GsoType.TCPV6: "tso6", GsoType.UDP_L4: "uso"}
SEGMENTS_MAX = 1024
"""Maximum number of segments of one frame. More would delay all other flows, for segments smaller than any network's
(the smallest MSS of IPv4 is 536, of Linux 88)."""
HEADERS_MAX = 1 << 18
"""Maximum total bytes of headers in all segments of one frame."""

FinishedFrame = tuple[bytes, list[memoryview]]
"""virtio_net_hdr and rewritten headers; views of the payload."""


class BadGso(Exception):
    """The frame's headers contradict its virtio_net_hdr."""


def ones_sum(data: bytes | bytearray | memoryview) -> int:
    """Return the ones' complement sum of big-endian 16-bit words, an odd byte padded with zero (RFC 1071).

    2^16 is 1 modulo 0xffff, so the sum is the whole number modulo 0xffff: two passes in C.
    """
    value = int.from_bytes(data, "big")
    return _fold(value << 8 if len(data) & 1 else value)


def _fold(value: int) -> int:
    """Reduce a sum to 16 bits. The result is zero only for a sum of zeroes."""
    return value and (value % 0xFFFF or 0xFFFF)


def needs_finishing(header: bytes, offloads: Offloads) -> bool:
    """Return whether the frame must be changed for a receiver with these offloads.

    ``header`` is a checked private virtio_net_hdr.
    """
    flags, gso = header[0], header[1]
    kind = GsoType(gso & ~ECN)
    if kind and not (getattr(offloads, KINDS[kind]) and (offloads.ecn or not gso & ECN)):
        return True
    return bool(flags & NEEDS_CSUM) and not offloads.csum


def finish(header: bytes, frame: Sequence[memoryview], offloads: Offloads) -> Iterator[FinishedFrame]:
    """Yield, in order, the frames to deliver to a receiver with these offloads.

    ``header`` is a checked private virtio_net_hdr, ``frame`` the bytes behind it. Raises BadGso.
    """
    if not needs_finishing(header, offloads):
        yield header, list(frame)
        return
    _, gso, _, mss, start, offset, _ = HEADER.unpack_from(header)
    if gso:
        yield from _segments(GsoType(gso & ~ECN), mss, start, frame, offloads)
    else:
        yield _checksummed(frame, start, offset)


def _checksummed(frame: Sequence[memoryview], start: int, offset: int) -> FinishedFrame:
    """Return the frame with its checksum; the field holds the pseudo header's sum (section 5.1.9.2)."""
    at = start + offset
    head = bytearray(copy_out(frame, at + 2))
    if len(head) < at + 2:
        raise BadGso("the frame ends before its checksum")
    rest = skip(frame, at + 2)
    checksum = ~_sum_of([memoryview(head)[start:], *rest]) & 0xFFFF
    # For UDP, zero means no checksum, and 0xffff is the same number (RFC 768).
    head[at : at + 2] = (checksum or (0xFFFF if offset == UDP_CSUM else 0)).to_bytes(2, "big")
    return PLAIN + head, rest


def convert_data_valid(head: bytes, rest: Sequence[memoryview], offloads: Offloads) -> tuple[bytes, list[memoryview]]:
    """Convert a frame with DATA_VALID into one with NEEDS_CSUM, or with a checksum if ``offloads`` lacks csum.

    Linux does not accept DATA_VALID in a frame written to a TUN or TAP: it would check the checksum, which may be
    wrong or missing (section 5.1.9.4.2). ``head`` is virtio_net_hdr and Ethernet header, here and in the result. If no
    checksum field is found, the frame is returned unchanged, without a flag.
    """
    plain = PLAIN[:1] + head[1:], list(rest)
    top = head[HEADER_SIZE:] + copy_out(rest, DATA_VALID_MAX)
    try:
        network = _network_at(top)
    except BadGso:
        return plain
    start, protocol = _transport_at(top, network, len(top))
    offset = CHECKSUMS.get(protocol)
    if offset is None or start + offset + 2 > len(top):
        return plain
    at = start + offset
    if top[network] >> 4 == 4:
        length = network + _get(top, network + IPV4_LENGTH) - start
        fragment = _get(top, network + IPV4_FRAGMENT) & IPV4_FRAGMENTED
        if fragment or (protocol == UDP and not _get(top, at)):
            return plain
    else:
        length = network + IPV6_HLEN + _get(top, network + IPV6_LENGTH) - start
    pseudo = 0 if protocol == ICMP else _pseudo(top, network, protocol, max(length, 0))
    done = bytearray(top[ETH_HLEN : at + 2])
    _put(done, at - ETH_HLEN, pseudo)
    header = HEADER.pack(NEEDS_CSUM, 0, 0, 0, start, offset, 0)
    frame = [memoryview(top[:ETH_HLEN]), memoryview(done), *skip(rest, len(done))]
    if not offloads.csum:
        # Padding behind the packet does not belong to the sum.
        finished, behind = _checksummed(take(frame, start + max(length, offset + 2)), start, offset)
        header, frame = finished[:HEADER_SIZE], [memoryview(finished)[HEADER_SIZE:], *behind]
    return header + top[:ETH_HLEN], skip(frame, ETH_HLEN)


def _sum_of(parts: Sequence[memoryview]) -> int:
    """Return `ones_sum` over several views, some of odd length."""
    value = at = 0
    for part in parts:
        part_sum = ones_sum(part)
        value += part_sum if not at & 1 else (part_sum << 8 | part_sum >> 8) & 0xFFFF
        at += len(part)
    return _fold(value)


def _segments(
    kind: GsoType, mss: int, start: int, frame: Sequence[memoryview], offloads: Offloads
) -> Iterator[FinishedFrame]:
    """Yield the segments of a GSO frame, each with rewritten headers and up to ``mss`` bytes of payload."""
    top = copy_out(frame, start + TCP_HLEN_MAX)
    protocol = UDP if kind is GsoType.UDP_L4 else TCP
    network, transport, tcp = _network_at(top), start, protocol == TCP
    v4 = top[network] >> 4 == 4
    if tcp and v4 is not (kind is GsoType.TCPV4):
        raise BadGso("the IP version is not that of the GSO type")
    if _transport_at(top, network, transport) != (transport, protocol):
        raise BadGso("the IP header is truncated, or not followed by the transport header")
    hlen = (top[transport + 12] >> 4) * 4 if tcp and transport + 12 < len(top) else UDP_HLEN
    end = transport + hlen
    if end > len(top) or hlen < (TCP_HLEN if tcp else UDP_HLEN):
        raise BadGso("the headers are truncated")
    payload = skip(frame, end)
    left, done, index = total(payload), 0, 0
    if not left:
        raise BadGso("the frame has no payload")
    if end - network + min(mss, left) > 0xFFFF:
        raise BadGso("the segments are larger than an IP packet")
    if left > mss * SEGMENTS_MAX:
        raise BadGso(f"{left} bytes make more than {SEGMENTS_MAX} segments of {mss}")
    if -(-left // mss) * end > HEADERS_MAX:
        raise BadGso(f"headers of {end} bytes are too long to repeat before every {mss} bytes")
    ip_id = _get(top, network + IPV4_ID)
    seq = int.from_bytes(top[transport + TCP_SEQ : transport + TCP_SEQ + 4], "big")
    while left > 0:
        size = min(mss, left)
        left -= size
        head = bytearray(top[:end])
        part = take(payload, size)
        payload = skip(payload, size)
        length = hlen + size
        if v4:
            _put(head, network + IPV4_LENGTH, transport - network + length)
            _put(head, network + IPV4_ID, ip_id + index & 0xFFFF)
            _put(head, network + IPV4_CSUM, 0)
            _put(head, network + IPV4_CSUM, ~ones_sum(head[network:transport]) & 0xFFFF)
        else:
            _put(head, network + IPV6_LENGTH, transport - network - IPV6_HLEN + length)
        if tcp:
            head[transport + TCP_SEQ : transport + TCP_SEQ + 4] = (seq + done & 0xFFFF_FFFF).to_bytes(4, "big")
            # FIN and PSH belong to the last segment, CWR to the first (RFC 3168).
            head[transport + TCP_FLAGS] &= ~(TCP_FIN_PSH if left else 0) & ~(TCP_CWR if index else 0) & 0xFF
        else:
            _put(head, transport + UDP_LENGTH, length)
        field = transport + (TCP_CSUM if tcp else UDP_CSUM)
        _put(head, field, _pseudo(top, network, protocol, length))
        if offloads.csum:
            yield HEADER.pack(NEEDS_CSUM, 0, 0, 0, transport, field - transport, 0) + head, part
        else:
            checksum = ~_sum_of([memoryview(head)[transport:], *part]) & 0xFFFF
            _put(head, field, checksum or (0 if tcp else 0xFFFF))
            yield PLAIN + head, part
        done += size
        index += 1


def _pseudo(top: bytes, network: int, protocol: int, length: int) -> int:
    """Return the sum over the pseudo header: addresses of the IP header at ``network``, protocol and length."""
    first, end = (12, 20) if top[network] >> 4 == 4 else (8, 40)
    return _fold(ones_sum(top[network + first : network + end]) + protocol + length)


def _get(head: bytes, at: int) -> int:
    return int.from_bytes(head[at : at + 2], "big")


def _put(head: bytearray, at: int, value: int) -> None:
    head[at : at + 2] = value.to_bytes(2, "big")


def _network_at(top: bytes) -> int:
    """Return the offset of the IP header, behind any VLAN tags. Raises BadGso."""
    at = tags_end(top) + 2
    if len(top) <= at or top[at] >> 4 not in (4, 6):
        raise BadGso("the frame carries no IP packet")
    return at


def _transport_at(top: bytes, at: int, until: int) -> tuple[int, int]:
    """Return offset and protocol of the header behind the IP header at ``at``; 0, 0 if that is truncated.

    IPv6 extension headers are skipped up to offset ``until``.
    """
    if top[at] >> 4 == 4:
        hlen = (top[at] & 0xF) * 4
        return (at + hlen, top[at + IPV4_PROTOCOL]) if hlen >= IPV4_HLEN and at + hlen <= len(top) else (0, 0)
    if at + IPV6_HLEN > len(top):
        return 0, 0
    following, at = top[at + IPV6_NEXT], at + IPV6_HLEN
    for _ in range(EXTENSIONS_MAX):
        if at >= until or following not in EXTENSIONS or at + 2 > len(top):
            break
        following, at = top[at], at + (top[at + 1] + 1) * 8
    return at, following
