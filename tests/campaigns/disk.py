"""A disk under load: an NBD client that knows which versions each block may have."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import attrs

from campaigns.load import Load
from vnet.nbd import CommandType

__all__ = ["BLOCK", "DISK_MIB", "DiskLoad"]

BLOCK = 4096
BLOCKS = 256
"""Blocks of the disk that are used; few, so that each is written often."""
DISK_MIB = 1
DEPTH = 8
"""Most requests under way."""
FLUSHES = 0.3
"""Probability of a flush after a batch of writes."""
PAUSE = 0.002
"""Seconds between two batches, so that other processes run."""
QUIET = 1.0
"""Seconds without a reply after which the client looks whether it is to end."""
GREETING, OPTION, REQUEST, REPLY = struct.Struct(">I"), struct.Struct(">8sII"), struct.Struct(">IHHQQI"), ">IIQ"
REQUEST_MAGIC, REPLY_MAGIC = 0x25609513, 0x67446698
NO_ZEROES, EXPORT_NAME = 3, 1
CELL = struct.Struct("<QQ")


def content(block: int, version: int) -> bytes:
    """Return the bytes of a version of a block; version 0 is a block that was never written."""
    return CELL.pack(block, version) * (BLOCK // CELL.size) if version else bytes(BLOCK)


class Ended(Exception):
    """The load is to end."""


class NbdClient:
    """A connection to an export, which takes several requests at once. Raises OSError, EOFError and Ended."""

    def __init__(self, path: Path, export: str, is_ending: Callable[[], bool]) -> None:
        self._is_ending = is_ending
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(QUIET)
            self._socket.connect(str(path))
            self._receive(18)
            name = export.encode()
            self._socket.sendall(GREETING.pack(NO_ZEROES) + OPTION.pack(b"IHAVEOPT", EXPORT_NAME, len(name)) + name)
            self._receive(10)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def run(self, kind: CommandType, blocks: Sequence[int], data: Iterable[bytes] = ()) -> dict[int, bytes]:
        """Run a command on each block at once, and return what was read. ``blocks`` are those of the replies."""
        bodies = list(data) or [b""] * len(blocks)
        size = 0 if kind is CommandType.FLUSH else BLOCK
        for block, body in zip(blocks, bodies, strict=True):
            at = block * BLOCK if size else 0
            self._socket.sendall(REQUEST.pack(REQUEST_MAGIC, 0, kind, block, at, size) + body)
        left, read = set(blocks), {}
        while left:
            magic, error, block = struct.unpack(REPLY, self._receive(16))
            assert magic == REPLY_MAGIC, f"{magic:#x}: no simple reply"
            assert not error, f"block {block}: {kind.name} failed: {error}"
            assert block in left, f"a second reply for block {block}"
            left.remove(block)
            read[block] = self._receive(BLOCK) if kind is CommandType.READ else b""
        return read

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                more = self._socket.recv(size - len(data))
            except TimeoutError:
                if self._is_ending():
                    raise Ended from None
                continue
            if not more:
                raise EOFError
            data += more
        return data


@attrs.define
class Ledger:
    """Versions that the blocks of a disk may have."""

    flushed: list[int] = attrs.field(factory=lambda: [0] * BLOCKS)
    """Latest version of each block that a flush has covered: no later event may lose it."""
    newest: list[int] = attrs.field(factory=lambda: [0] * BLOCKS)
    """Latest version of each block that was sent."""

    def check(self, block: int, data: bytes) -> int:
        """Return the version of what was read. Raises AssertionError if it can't be the block's."""
        number: int
        version: int
        number, version = CELL.unpack_from(data)
        assert data == content(block, version), f"block {block} is torn or another one: {data[:32].hex()} at its start"
        assert not version or number == block
        low, high = self.flushed[block], self.newest[block]
        assert low <= version <= high, f"block {block} has version {version}; {low} was flushed, {high} written"
        return version


class DiskLoad(Load):
    """Writes, reads and flushes at an NBD export; it connects again when the server is gone."""

    def __init__(self, path: Path, export: str, dice: random.Random) -> None:
        super().__init__()
        self.connections = 0
        self.ledger = Ledger()
        self._path, self._export, self._dice = path, export, random.Random(dice.random())

    def run(self) -> None:
        while not self.ending.is_set():
            try:
                client = NbdClient(self._path, self._export, self.ending.is_set)
                self.connections += 1
                try:
                    self._use(client)
                finally:
                    client.close()
            except (EOFError, ConnectionError, FileNotFoundError):
                time.sleep(0.01)
            except (Ended, TimeoutError):
                continue

    def counters(self) -> dict[str, int]:
        return {**super().counters(), "connections": self.connections}

    def check_file(self, image: Path) -> None:
        """Compare the blocks of the store with what they may be. Raises AssertionError."""
        data = image.read_bytes()
        for block in range(BLOCKS):
            self.ledger.check(block, data[block * BLOCK : (block + 1) * BLOCK])

    def _use(self, client: NbdClient) -> None:
        ledger, dice = self.ledger, self._dice
        acknowledged: dict[int, int] = {}  # by block, since this client connected
        while not self.ending.wait(PAUSE):
            blocks = dice.sample(range(BLOCKS), dice.randint(1, DEPTH))
            sent = time.monotonic()
            if dice.random() < 0.5:
                for block, data in client.run(CommandType.READ, blocks).items():
                    version = ledger.check(block, data)
                    assert version >= acknowledged.get(block, 0), f"block {block} is older than a moment ago"
            else:
                for block in blocks:
                    ledger.newest[block] += 1
                bodies = [content(block, ledger.newest[block]) for block in blocks]
                client.run(CommandType.WRITE, blocks, bodies)
                acknowledged |= {block: ledger.newest[block] for block in blocks}
                if dice.random() < FLUSHES:
                    client.run(CommandType.FLUSH, [0])
                    for block, version in acknowledged.items():
                        ledger.flushed[block] = version
            self.answered(sent)
