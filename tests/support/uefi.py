"""A disk from which UEFI firmware boots: a FAT volume with one program that prints a text."""

from __future__ import annotations

import struct

__all__ = ["boot_disk"]

SECTOR = 512
SECTORS, TABLE_SECTORS, ROOT_ENTRIES = 2048, 6, 16
START, PAGE = 0x1000, 0x1000
"""Address of the code in the loaded program, and the alignment of its parts."""
PRINT = bytes.fromhex(
    "4883ec28 488b4a40"  # sub rsp, 40; mov rcx, [rdx+64]: the console of the system table
    "488d1507000000 ff5108"  # lea rdx, [rip+7]: the text; call [rcx+8]: print it
    "f4 ebfd 90"  # hlt; jmp -3; nop
)
AMD64, EXECUTABLE, PE32_PLUS, APPLICATION, CODE_EXECUTED_AND_READ = 0x8664, 0x22, 0x20B, 10, 0x6000_0020
DIRECTORY, FILE = 0x10, 0x20
END_OF_CHAIN = 0xFFF


def boot_disk(text: str) -> bytes:
    """Return the disk, without partitions. Its program is where firmware looks on a removable disk."""
    return _volume(_program(PRINT + text.encode("utf-16-le") + bytes(2)))


def _program(code: bytes) -> bytes:
    """Return a program for UEFI (Microsoft PE and COFF specification): headers, then one section."""
    size = -(-len(code) // SECTOR) * SECTOR
    at = 0x40
    dos = b"MZ".ljust(at - 4, b"\0") + struct.pack("<I", at)
    optional = struct.pack("<HBBIIIII", PE32_PLUS, 0, 0, size, 0, 0, START, START)
    optional += struct.pack("<QII6HI", 0, PAGE, SECTOR, *[0] * 6, 0)
    optional += struct.pack("<IIIHH4QII", START + PAGE, SECTOR, 0, APPLICATION, 0, *[0] * 4, 0, 0)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", AMD64, 1, 0, 0, 0, len(optional), EXECUTABLE)
    section = struct.pack("<8sIIIIIIHHI", b".text", len(code), START, size, SECTOR, 0, 0, 0, 0, CODE_EXECUTED_AND_READ)
    return (dos + coff + optional + section).ljust(SECTOR, b"\0") + code.ljust(size, b"\0")


def _volume(program: bytes) -> bytes:
    """Return a volume of FAT12 with the file /EFI/BOOT/BOOTX64.EFI; the first cluster, of a sector, has number 2."""
    boot = struct.pack(
        "<3s8sHBHBHHBH", b"\xeb\x3c\x90", b"", SECTOR, 1, 1, 1, ROOT_ENTRIES, SECTORS, 0xF8, TABLE_SECTORS
    )
    boot += struct.pack("<HHII3BI11s8s", 32, 2, 0, 0, 0x80, 0, 0x29, 1, b"VNET".ljust(11), b"FAT12".ljust(8))
    folders, first = (2, 3), 4
    clusters = len(program) // SECTOR
    table = [0xFF8, END_OF_CHAIN, *[END_OF_CHAIN] * len(folders), *range(first + 1, first + clusters), END_OF_CHAIN]
    packed = sum(value << 12 * at for at, value in enumerate(table)).to_bytes(TABLE_SECTORS * SECTOR, "little")
    root = _entry("EFI", DIRECTORY, folders[0])
    efi = _entry(".", DIRECTORY, 2) + _entry("..", DIRECTORY, 0) + _entry("BOOT", DIRECTORY, folders[1])
    inner = _entry(".", DIRECTORY, 3) + _entry("..", DIRECTORY, 2)
    inner += _entry("BOOTX64 EFI", FILE, first, len(program))
    blocks = [boot.ljust(SECTOR - 2, b"\0") + b"\x55\xaa", packed]
    blocks += [entries.ljust(SECTOR, b"\0") for entries in (root, efi, inner)]
    return (b"".join(blocks) + program).ljust(SECTORS * SECTOR, b"\0")


def _entry(name: str, kind: int, cluster: int, size: int = 0) -> bytes:
    return struct.pack("<11sB8xHHHHI", name.ljust(11).encode(), kind, 0, 0, 0, cluster, size)
