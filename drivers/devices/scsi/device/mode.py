"""Mode pages: a disk's cache and its control settings (SPC-4 section 7.5, SBC-3 section 6.5)."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from drivers.contracts.ports import StoreInfo
from drivers.devices.scsi.sense import Asc, illegal

__all__ = ["ALL", "Mode"]

CACHING, CONTROL, ALL = 0x08, 0x0A, 0x3F
ALL_SUBPAGES = 0xFF
CURRENT, CHANGEABLE, DEFAULT, SAVED = range(4)
WCE = 0x04
WRITE_PROTECT, DPOFUA = 0x80, 0x10
"""Flags of the device-specific parameter: read-only medium; reads and writes support FUA."""
LONG_LBA = 0x01
UNRESTRICTED_REORDERING = 0x10
CACHING_SIZE, CONTROL_SIZE = 20, 12
MANY = 0xFFFF_FFFF


def _caching(wce: bool) -> bytes:
    return bytes((CACHING, CACHING_SIZE - 2, WCE if wce else 0)).ljust(CACHING_SIZE, b"\0")


_CONTROL = bytes((CONTROL, CONTROL_SIZE - 2, 0, UNRESTRICTED_REORDERING)).ljust(CONTROL_SIZE, b"\0")


@attrs.frozen
class Mode:
    """Mode parameters of a unit. Only the write cache can be changed."""

    write_cache: bool = True
    """Whether a write may be answered before it is on stable storage (WCE)."""

    def pages(self, control: int) -> Mapping[int, bytes]:
        """Return the pages by page code, for the page control of a MODE SENSE."""
        if control == CHANGEABLE:
            return {
                CACHING: _caching(wce=True),
                CONTROL: bytes((CONTROL, CONTROL_SIZE - 2)).ljust(CONTROL_SIZE, b"\0"),
            }
        return {CACHING: _caching(self.write_cache or control == DEFAULT), CONTROL: _CONTROL}

    def sense(self, cdb: bytes, info: StoreInfo) -> bytes:
        """Return the answer to MODE SENSE (6) or (10). Raises CheckCondition."""
        long = cdb[0] >> 5 != 0
        control, code, subpage = cdb[2] >> 6, cdb[2] & 0x3F, cdb[3]
        if control == SAVED:
            raise illegal(Asc.SAVING_PARAMETERS_NOT_SUPPORTED, 2, 7)
        pages = self.pages(control)
        if code != ALL and code not in pages:
            raise illegal(Asc.INVALID_FIELD_IN_CDB, 2, 5)
        if subpage not in (0, ALL_SUBPAGES):
            raise illegal(Asc.INVALID_FIELD_IN_CDB, 3, 7)
        body = b"".join(pages.values()) if code == ALL else pages[code]
        without, long_lba = bool(cdb[1] & 0x08), long and bool(cdb[1] & 0x10)
        descriptor = b"" if without else _descriptor(info, long_lba)
        specific = DPOFUA | (WRITE_PROTECT if info.read_only else 0)
        if not long:
            return bytes((3 + len(descriptor) + len(body), 0, specific, len(descriptor))) + descriptor + body
        size = 6 + len(descriptor) + len(body)
        head = bytes((0, specific, LONG_LBA if long_lba else 0, 0)) + len(descriptor).to_bytes(2, "big")
        return size.to_bytes(2, "big") + head + descriptor + body

    def select(self, data: bytes, info: StoreInfo, *, long: bool) -> Mode:
        """Return the mode after MODE SELECT (6) or (10), all changes or none. Raises CheckCondition."""
        header = 8 if long else 4
        if not data:
            return self
        if len(data) < header:
            raise illegal(Asc.PARAMETER_LIST_LENGTH_ERROR)
        medium = 2 if long else 1
        if data[medium]:
            raise illegal(Asc.INVALID_FIELD_IN_PARAMETER_LIST, medium, cdb=False)
        size = int.from_bytes(data[6:8], "big") if long else data[3]
        long_lba = long and bool(data[4] & LONG_LBA)
        at = header + size
        if len(data) < at:
            raise illegal(Asc.PARAMETER_LIST_LENGTH_ERROR)
        if size:
            _check_descriptor(data[header:at], header, info, long_lba)
        mode, seen = self, set[int]()
        while at < len(data):
            code = data[at] & 0x3F
            now = mode.pages(CURRENT).get(code)
            if now is None or data[at] & 0x40:
                raise illegal(Asc.INVALID_FIELD_IN_PARAMETER_LIST, at, 5, cdb=False)
            page = data[at : at + len(now)]
            if len(page) > 1 and page[1] != len(now) - 2:
                raise illegal(Asc.INVALID_FIELD_IN_PARAMETER_LIST, at + 1, cdb=False)
            if len(page) < len(now):
                raise illegal(Asc.PARAMETER_LIST_LENGTH_ERROR)
            if code in seen:
                raise illegal(Asc.INVALID_FIELD_IN_PARAMETER_LIST, at, 5, cdb=False)
            seen.add(code)
            changeable = mode.pages(CHANGEABLE)[code]
            for i in range(2, len(now)):
                wrong = (page[i] ^ now[i]) & ~changeable[i]
                if wrong:
                    raise illegal(Asc.INVALID_FIELD_IN_PARAMETER_LIST, at + i, wrong.bit_length() - 1, cdb=False)
            if code == CACHING:
                mode = Mode(write_cache=bool(page[2] & WCE))
            at += len(now)
        return mode


def _descriptor(info: StoreInfo, long_lba: bool) -> bytes:
    count = info.size // info.block_size
    if long_lba:
        return count.to_bytes(8, "big") + bytes(4) + info.block_size.to_bytes(4, "big")
    return min(count, MANY).to_bytes(4, "big") + b"\0" + info.block_size.to_bytes(3, "big")


def _check_descriptor(data: bytes, at: int, info: StoreInfo, long_lba: bool) -> None:
    """Check that the descriptor equals the current one; 0 blocks means all. Raises CheckCondition."""
    now = _descriptor(info, long_lba)
    if len(data) != len(now):
        raise illegal(Asc.INVALID_FIELD_IN_PARAMETER_LIST, 6 if long_lba or at == 8 else 3, cdb=False)
    counts = 8 if long_lba else 4
    if data[:counts] not in (now[:counts], bytes(counts)):
        raise illegal(Asc.INVALID_FIELD_IN_PARAMETER_LIST, at, cdb=False)
    if data[counts:] != now[counts:]:
        raise illegal(Asc.INVALID_FIELD_IN_PARAMETER_LIST, at + len(now) - (4 if long_lba else 3), cdb=False)
