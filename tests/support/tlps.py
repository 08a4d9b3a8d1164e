"""Random transaction layer packets, and their view in cocotbext-pcie.

``python tests/support/tlps.py 100000`` compares as many with cocotbext-pcie, from seed 0 on.
"""

from __future__ import annotations

import sys
from random import Random

from cocotbext.pcie.core.tlp import CplStatus, TlpAt, TlpAttr, TlpType
from cocotbext.pcie.core.tlp import Tlp as Reference
from cocotbext.pcie.core.utils import PcieId

from vnet.link.transaction.codec import emit, parse
from vnet.link.transaction.fields import AddressType, Attribute, CompletionStatus
from vnet.link.transaction.packets import (
    Completion,
    ConfigRead,
    ConfigWrite,
    Header,
    MemoryRead,
    MemoryWrite,
    Tlp,
)

Packet = MemoryRead | MemoryWrite | ConfigRead | ConfigWrite | Completion
UPWARD, DOWNWARD = (0b1111, 0b1110, 0b1100, 0b1000), (0b1111, 0b0111, 0b0011, 0b0001)


def _header(random: Random, *, config: bool = False, data: bool = False) -> Header:
    return Header(
        random.randrange(1 << 16),
        random.randrange(1024),
        0 if config else random.randrange(8),
        Attribute(0 if config else random.randrange(8)),
        data and random.random() < 0.2,
    )


def _memory(random: Random) -> MemoryRead | MemoryWrite:
    length = random.choice((1, 2, 3, random.randint(1, 64), random.randint(1, 1024), 1024))
    page = random.randrange(1 << random.choice((20, 52)))
    address = page << 12 | random.randrange(1025 - length) * 4
    if length == 1:
        first, last = random.randrange(16), 0
    elif length == 2 and address % 8 == 0:
        first, last = random.randint(1, 15), random.randint(1, 15)
    else:
        first, last = random.choice(UPWARD), random.choice(DOWNWARD)
    if random.random() < 0.5:
        kind = AddressType(random.randrange(3))
        return MemoryRead(
            header=_header(random), address=address, first=first, last=last, length=length, address_type=kind
        )
    return MemoryWrite(
        header=_header(random, data=True),
        address=address,
        first=first,
        last=last,
        data=random.randbytes(length * 4),
        address_type=random.choice((AddressType.UNTRANSLATED, AddressType.TRANSLATED)),
    )


def _config(random: Random) -> ConfigRead | ConfigWrite:
    target, register, enabled = random.randrange(1 << 16), random.randrange(1024) * 4, random.randrange(16)
    kind = random.randrange(2)
    if random.random() < 0.5:
        header = _header(random, config=True)
        return ConfigRead(header=header, target=target, register=register, enabled=enabled, config_type=kind)
    return ConfigWrite(
        header=_header(random, config=True, data=True),
        target=target,
        register=register,
        enabled=enabled,
        config_type=kind,
        data=random.randbytes(4),
    )


def _completion(random: Random) -> Completion:
    completer, lower = random.randrange(1 << 16), random.randrange(128)
    if random.random() < 0.4:
        return Completion(
            header=_header(random),
            completer=completer,
            status=random.choice(list(CompletionStatus)),
            byte_count=random.randint(1, 4096),
            lower_address=lower,
        )
    size = random.choice((1, random.randint(1, 64), random.randint(1, 4096 - lower % 4), 4096 - lower % 4))
    padding = -(lower % 4 + size) % 4
    whole = random.random() < 0.5 or size + padding >= 4096
    return Completion(
        header=_header(random, data=True),
        completer=completer,
        byte_count=size if whole else random.randint(size + padding, 4096),
        lower_address=lower,
        data=random.randbytes(lower % 4 + size + padding),
    )


def random_tlp(random: Random) -> Packet:
    """Return a packet of a kind that cocotbext-pcie packs: all but messages, without digests."""
    return random.choice((_memory, _config, _completion))(random)


def _type(packet: Packet) -> TlpType:
    match packet:
        case MemoryRead():
            return TlpType.MEM_READ_64 if packet.wide else TlpType.MEM_READ
        case MemoryWrite():
            return TlpType.MEM_WRITE_64 if packet.wide else TlpType.MEM_WRITE
        case ConfigRead():
            return (TlpType.CFG_READ_0, TlpType.CFG_READ_1)[packet.config_type]
        case ConfigWrite():
            return (TlpType.CFG_WRITE_0, TlpType.CFG_WRITE_1)[packet.config_type]
        case Completion():
            return TlpType.CPL_DATA if packet.data else TlpType.CPL


def reference(packet: Packet) -> Reference:
    """Return cocotbext-pcie's packet with these fields."""
    other = Reference()
    header = packet.header
    other.fmt_type = _type(packet)
    other.tc, other.attr = header.traffic_class, TlpAttr(header.attributes)
    other.ep, other.tag = header.poisoned, header.tag
    other.requester_id = PcieId.from_int(header.requester)
    other.length = 0
    if isinstance(packet, MemoryRead | MemoryWrite):
        other.address, other.first_be, other.last_be = packet.address, packet.first, packet.last
        other.at = TlpAt(packet.address_type)
    elif isinstance(packet, ConfigRead | ConfigWrite):
        other.address, other.first_be, other.completer_id = (
            packet.register,
            packet.enabled,
            PcieId.from_int(packet.target),
        )
    else:
        other.completer_id, other.status = PcieId.from_int(packet.completer), CplStatus(packet.status)
        other.byte_count, other.lower_address = packet.byte_count, packet.lower_address
    if isinstance(packet, MemoryRead):
        other.length = packet.length
    elif isinstance(packet, ConfigRead):
        other.length = 1
    elif packet.data:
        other.data, other.length = bytearray(packet.data), len(packet.data) // 4
    return other


def compare(seed: int) -> str | None:
    """Return how cocotbext-pcie and the codec differ about the packet of ``seed``; None if they agree."""
    packet = random_tlp(Random(seed))
    ours, expected = emit(packet), reference(packet)
    if ours != bytes(expected.pack()):
        return f"seed {seed}: {packet}: {ours[:16].hex()}, and cocotbext-pcie packs {bytes(expected.pack())[:16].hex()}"
    unpacked = Reference.unpack(ours)
    if unpacked != expected or not unpacked.check():
        return f"seed {seed}: {packet}: cocotbext-pcie unpacks {unpacked!r}"
    back: Tlp = parse(bytes(unpacked.pack()))
    return None if back == packet else f"seed {seed}: {packet}: parsed as {back}"


def main(count: int) -> int:
    """Compare ``count`` packets, print each difference; return 1 if there is one."""
    differences = [line for line in map(compare, range(count)) if line]
    print(*differences, f"{count} packets compared, {len(differences)} differ", sep="\n")
    return int(bool(differences))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
