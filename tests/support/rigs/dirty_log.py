"""A front end that checks its dirty log against its memory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from drivers.devices.blk import BlkPlug
from drivers.transports.vhost_user.session import PROTOCOL_FEATURES
from rings.observers.dirty import dirty_log_size
from support.rigs.vhost_user import Bench, FrontEnd, open_bench
from vnet.testing.blk import StubbornStore

PAGE = 4096
OFFSET = 2 * PAGE
"""Where the log starts in its file."""
DISK = 1 << 20


class DirtyFile:
    """The memory of a log, as QEMU makes it."""

    def __init__(self, size: int, *, sealed: bool = True) -> None:
        self.size = size
        self.fd = os.memfd_create("log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, OFFSET + size)
        if sealed:
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)

    def take(self) -> set[int]:
        """Numbers of the pages that are marked; none is, after that."""
        bits = os.pread(self.fd, self.size, OFFSET)
        os.pwrite(self.fd, bytes(self.size), OFFSET)
        return {8 * at + bit for at, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1}

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def needed(front: FrontEnd) -> int:
    """Bytes of a log for all of its memory, in whole words."""
    return -(-dirty_log_size(front.region.addr + front.region.size) // 8) * 8


@pytest.fixture
def files() -> Iterator[list[DirtyFile]]:
    made: list[DirtyFile] = []
    yield made
    for file in made:
        file.close()


@asynccontextmanager
async def logging(
    front: FrontEnd, files: list[DirtyFile], *, up: bool = True, protocol_features: int = PROTOCOL_FEATURES
) -> AsyncIterator[DirtyFile]:
    """A device that runs, whose front end was told to log."""
    if up:
        await front.bring_up(protocol_features)
    files.append(file := DirtyFile(needed(front)))
    await front.log_to(file.fd, file.size, OFFSET)
    await front.log(True)
    file.take()
    yield file


@asynccontextmanager
async def bench_(files: Sequence[DirtyFile] = (), **options: Any) -> AsyncIterator[Bench]:
    async with open_bench(BlkPlug(StubbornStore(DISK)), **options) as bench:
        try:
            yield bench
        finally:
            for file in files:
                file.close()
