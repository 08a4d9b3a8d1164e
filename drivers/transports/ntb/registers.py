"""Layout of virtio over an NTB: scratchpads, commands, doorbells, and the memory window.

The scratchpads up to `Spad.CONFIG` are those of the 2020 Linux RFC. A versioned extension follows: sessions, an agreed
alignment, features beyond 64 bits, queue sizes, the configuration size. Every word has one writer. All words are in the
vhost side's bank except TYPE and BEAT, which each side writes into the other's bank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum

import attrs

from rings.formats import FORMATS, RingFormat
from rings.layout import MAX_NUM, RingAddrs
from rings.memory import Addr

__all__ = [
    "BUFFER_OFFSET",
    "CONFIG_WORDS",
    "DB_CONTROL",
    "DB_MASK",
    "DB_QUEUES",
    "FEATURE_WORDS",
    "MAGIC",
    "MAX_QUEUES",
    "SPADS",
    "VERSION",
    "VHOST_FEATURES",
    "VIRTIO_FEATURES",
    "Answer",
    "NtbCommand",
    "Offer",
    "NtbOutcome",
    "NtbRefused",
    "RingArea",
    "Spad",
    "NtbSide",
    "config_words",
    "emit_command",
    "parse_command",
    "spad_names",
]

MAX_QUEUES = 8
FEATURE_WORDS = 4
"""32-bit words for 128 feature bits."""


class Spad(IntEnum):
    """Scratchpad numbers."""

    TYPE = 0
    VENDOR_ID = 1
    DEVICE_ID = 2
    VHOST_FEATURES_HI = 3
    VHOST_FEATURES_LO = 4
    VIRTIO_FEATURES_HI = 5
    VIRTIO_FEATURES_LO = 6
    MW0_SIZE_LO = 7
    MW0_SIZE_HI = 8
    MW0_ADDR_LO = 9
    MW0_ADDR_HI = 10
    STATUS = 11
    GENERATION = 12
    COMMAND = 13
    COMMAND_STATUS = 14
    NUM_BUFFERS = 15
    """8 words: the largest size of each queue, in descriptors."""
    CONFIG = 23
    """First word of the device's configuration space."""
    # Extension of the RFC
    MAGIC = 96
    VERSION = 97
    SESSION = 98
    """Session that the vhost side offers, a new number each time; 0: none."""
    READY = 99
    """Session in which the vhost side has mapped the window."""
    NUM_QUEUES = 100
    CONFIG_BYTES = 101
    VHOST_ALIGN = 102
    """Least alignment of the used ring that the vhost side accepts."""
    VHOST_FEATURES_64 = 103
    VHOST_FEATURES_96 = 104
    VIRTIO_SESSION = 105
    """Session that the virtio side joined; 0: none."""
    VIRTIO_VERSION = 106
    VIRTIO_ALIGN = 107
    """Alignment in use, at least VHOST_ALIGN."""
    BUFFER_OFFSET = 108
    """Offset in the window at which rings end and buffers start."""
    VIRTIO_FEATURES_64 = 109
    VIRTIO_FEATURES_96 = 110
    ARGUMENT = 111
    DATA = 112
    QUEUE_NUM = 113
    """8 words: the size of each queue in use; 0: unused queue."""
    BEAT = 121
    """Heartbeat counter of its writer."""


SPADS = Spad.BEAT + 1
"""Number of scratchpads needed."""
CONFIG_WORDS = Spad.MAGIC - Spad.CONFIG
VHOST_FEATURES = Spad.VHOST_FEATURES_LO, Spad.VHOST_FEATURES_HI, Spad.VHOST_FEATURES_64, Spad.VHOST_FEATURES_96
VIRTIO_FEATURES = Spad.VIRTIO_FEATURES_LO, Spad.VIRTIO_FEATURES_HI, Spad.VIRTIO_FEATURES_64, Spad.VIRTIO_FEATURES_96
MAGIC = 0x3162_6E76
"""The bytes "vnb1"."""
VERSION = 1


class NtbSide(IntEnum):
    NONE = 0
    VIRTIO = 1
    VHOST = 2


class NtbCommand(IntEnum):
    """Values of the command word; the first three are those of the RFC."""

    SET_STATUS = 1
    """ARGUMENT is the status; 0 resets, and completes when the device has stopped."""
    FINALIZE_FEATURES = 2
    RESET = 3
    """The same as SET_STATUS with 0."""
    ENABLE_QUEUES = 4
    """Enables every queue whose QUEUE_NUM is not 0."""
    WRITE_CONFIG = 5
    """Writes up to 4 bytes of DATA. ARGUMENT holds the offset in its lower half, the number of bytes in its upper."""


class NtbOutcome(IntEnum):
    NONE = 0
    OK = 1
    ERROR = 2


def emit_command(sequence: int, code: int) -> int:
    """Return the word of a command, or of the outcome of the command with the same sequence number."""
    return (sequence & 0xFF_FFFF) << 8 | code


def parse_command(word: int) -> tuple[int, int]:
    """Return the sequence number and the code."""
    return word >> 8, word & 0xFF


DB_QUEUES = (1 << MAX_QUEUES) - 1
"""Doorbell bits of the queues: bit n notifies queue n."""
DB_CONTROL = 1 << MAX_QUEUES
"""Doorbell bit for every other change: read the scratchpads."""
DB_MASK = DB_QUEUES | DB_CONTROL
BUFFER_OFFSET = 0x20000
"""Least offset of buffers in the window, in bytes."""
PAGE = 4096
MAX_ALIGN = 1 << 16
Read = Callable[[int], int]


class NtbRefused(Exception):
    """The other side's words are invalid or unsupported. The message says which, in one sentence."""


def _is_align(value: int) -> bool:
    return 16 <= value <= MAX_ALIGN and not value & (value - 1)


def _join(read: Read, words: Sequence[int]) -> int:
    return sum(read(word) << 32 * at for at, word in enumerate(words))


def _spread(words: Sequence[int], value: int) -> dict[int, int]:
    return {word: value >> 32 * at & 0xFFFF_FFFF for at, word in enumerate(words)}


@attrs.frozen
class RingArea:
    """The rings at the start of the window: each contiguous, all in slots of the size of the largest."""

    nums: tuple[int, ...]
    """Largest size of each queue."""
    align: int

    @property
    def pitch(self) -> int:
        """Bytes from one ring to the next. Both sides compute it from the offer.

        Rings of either format fit, because the format is negotiated later.
        """
        size = max((FORMATS["split"].contiguous(num, Addr(0), self.align)[1] for num in self.nums), default=0)
        return -(-size // self.align) * self.align

    @property
    def buffer_offset(self) -> int:
        """Least offset of buffers in the window."""
        return max(BUFFER_OFFSET, -(-len(self.nums) * self.pitch // PAGE) * PAGE)

    def addrs(self, window: Addr, queue: int, num: int, form: RingFormat = FORMATS["split"]) -> RingAddrs:
        """Return the addresses of a queue's ring of ``num`` descriptors, in a window that starts at ``window``."""
        return form.contiguous(num, Addr(window + queue * self.pitch), self.align)[0]


@attrs.frozen
class Offer:
    """The vhost side's description of the device and its queues."""

    session: int
    vendor_id: int
    device_id: int
    features: int
    mw_size: int
    """Size of the window in bytes."""
    nums: tuple[int, ...]
    config_bytes: int
    align: int

    def emit(self) -> dict[int, int]:
        nums = dict.fromkeys(range(Spad.NUM_BUFFERS, Spad.NUM_BUFFERS + MAX_QUEUES), 0)
        return {
            Spad.VENDOR_ID: self.vendor_id,
            Spad.DEVICE_ID: self.device_id,
            **_spread(VHOST_FEATURES, self.features),
            **_spread((Spad.MW0_SIZE_LO, Spad.MW0_SIZE_HI), self.mw_size),
            **nums,
            **{Spad.NUM_BUFFERS + queue: num for queue, num in enumerate(self.nums)},
            Spad.MAGIC: MAGIC,
            Spad.VERSION: VERSION,
            Spad.NUM_QUEUES: len(self.nums),
            Spad.CONFIG_BYTES: self.config_bytes,
            Spad.VHOST_ALIGN: self.align,
            Spad.SESSION: self.session,
        }

    @classmethod
    def parse(cls, read: Read) -> Offer:
        """Read and check an offer. Raises NtbRefused."""
        if read(Spad.MAGIC) != MAGIC or read(Spad.VERSION) != VERSION:
            raise NtbRefused(f"the vhost side has version {read(Spad.VERSION)}; this side has {VERSION}")
        count = read(Spad.NUM_QUEUES)
        if not 1 <= count <= MAX_QUEUES:
            raise NtbRefused(f"the vhost side has {count} queues; must be 1 to {MAX_QUEUES}")
        offer = cls(
            session=read(Spad.SESSION),
            vendor_id=read(Spad.VENDOR_ID),
            device_id=read(Spad.DEVICE_ID),
            features=_join(read, VHOST_FEATURES),
            mw_size=_join(read, (Spad.MW0_SIZE_LO, Spad.MW0_SIZE_HI)),
            nums=tuple(read(Spad.NUM_BUFFERS + queue) for queue in range(count)),
            config_bytes=read(Spad.CONFIG_BYTES),
            align=read(Spad.VHOST_ALIGN),
        )
        for queue, num in enumerate(offer.nums):
            if not 1 <= num <= MAX_NUM or num & (num - 1):
                raise NtbRefused(f"the vhost side reports {num} buffers for queue {queue}")
        if not offer.device_id:
            raise NtbRefused("the vhost side has no device id")
        if offer.config_bytes > 4 * CONFIG_WORDS:
            raise NtbRefused(f"the vhost side reports {offer.config_bytes} bytes of configuration")
        if not _is_align(offer.align):
            raise NtbRefused(f"the vhost side wants rings aligned to {offer.align} bytes")
        return offer


@attrs.frozen
class Answer:
    """The virtio side's answer to an offer: the window."""

    session: int
    mw_addr: Addr
    """Start address of the window in the virtio side's memory; the base of the addresses in rings."""
    align: int
    buffer_offset: int

    def emit(self) -> dict[int, int]:
        return {
            **_spread((Spad.MW0_ADDR_LO, Spad.MW0_ADDR_HI), self.mw_addr),
            Spad.VIRTIO_VERSION: VERSION,
            Spad.VIRTIO_ALIGN: self.align,
            Spad.BUFFER_OFFSET: self.buffer_offset,
            Spad.VIRTIO_SESSION: self.session,
        }

    @classmethod
    def parse(cls, read: Read, offer: Offer) -> Answer:
        """Read and check an answer to ``offer``. Raises NtbRefused."""
        if read(Spad.VIRTIO_VERSION) != VERSION:
            raise NtbRefused(f"the virtio side has version {read(Spad.VIRTIO_VERSION)}; this side has {VERSION}")
        answer = cls(
            session=read(Spad.VIRTIO_SESSION),
            mw_addr=Addr(_join(read, (Spad.MW0_ADDR_LO, Spad.MW0_ADDR_HI))),
            align=read(Spad.VIRTIO_ALIGN),
            buffer_offset=read(Spad.BUFFER_OFFSET),
        )
        if not _is_align(answer.align) or answer.align < offer.align:
            raise NtbRefused(f"the virtio side aligns rings to {answer.align} bytes; must be {offer.align} or more")
        if answer.mw_addr % PAGE or answer.mw_addr + offer.mw_size > 1 << 64:
            raise NtbRefused(f"the virtio side has its window at {answer.mw_addr:#x}")
        if not RingArea(offer.nums, answer.align).buffer_offset <= answer.buffer_offset < offer.mw_size:
            raise NtbRefused(f"the virtio side has its buffers {answer.buffer_offset:#x} bytes into the window")
        return answer


def config_words(config: bytes) -> dict[int, int]:
    """Return the configuration space as scratchpads. Raises NtbRefused if it is too large."""
    if len(config) > 4 * CONFIG_WORDS:
        raise NtbRefused(f"a configuration of {len(config)} bytes does not fit into {CONFIG_WORDS} scratchpads")
    padded = config.ljust(-(-len(config) // 4) * 4, b"\0")
    return {Spad.CONFIG + at // 4: int.from_bytes(padded[at : at + 4], "little") for at in range(0, len(padded), 4)}


def spad_names() -> Mapping[int, str]:
    """Return the name of each scratchpad, with an index for members of a group."""
    names = {word.value: word.name for word in Spad}
    names |= {Spad.NUM_BUFFERS + i: f"NUM_BUFFERS({i})" for i in range(MAX_QUEUES)}
    names |= {Spad.QUEUE_NUM + i: f"QUEUE_NUM({i})" for i in range(MAX_QUEUES)}
    names |= {Spad.CONFIG + i: f"CONFIG({i})" for i in range(CONFIG_WORDS)}
    return dict(sorted(names.items()))
