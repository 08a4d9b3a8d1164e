"""virtio over an NTB, before anything is done with it: scratchpads, commands, doorbells, and the window's layout.

The map up to `Spad.CONFIG` is the one of the 2020 Linux RFC that started this. What it lacked lies behind it and has a
version: sessions, an agreed alignment, wide features, the queues' sizes, the configuration's bytes. Every word has
one writer. All are in the vhost side's bank but TYPE and BEAT, which each side writes into the other's bank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum

import attrs

from rings.formats import FORMATS, RingFormat
from rings.layout import MAX_NUM, RingAddrs, contiguous_split
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
"""128 feature bits."""


class Spad(IntEnum):
    """Numbers of scratchpads."""

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
    """8 words, one a queue: its largest size, in descriptors."""
    CONFIG = 23
    """The device's configuration space."""
    # What follows is not in the RFC.
    MAGIC = 96
    VERSION = 97
    SESSION = 98
    """Counts up with every start of the vhost side; 0 is none."""
    READY = 99
    """The session in which the vhost side reaches the window."""
    NUM_QUEUES = 100
    CONFIG_BYTES = 101
    VHOST_ALIGN = 102
    """The least alignment of the used ring that the vhost side can live with."""
    VHOST_FEATURES_64 = 103
    VHOST_FEATURES_96 = 104
    VIRTIO_SESSION = 105
    """The session that the virtio side is in; 0 is none."""
    VIRTIO_VERSION = 106
    VIRTIO_ALIGN = 107
    """The alignment that holds: no less than VHOST_ALIGN."""
    BUFFER_OFFSET = 108
    """Where in the window the rings end and buffers start."""
    VIRTIO_FEATURES_64 = 109
    VIRTIO_FEATURES_96 = 110
    ARGUMENT = 111
    DATA = 112
    QUEUE_NUM = 113
    """8 words, one a queue: the size that the virtio side uses; 0 where it does not use the queue."""
    BEAT = 121
    """Changes all the time while its writer lives."""


SPADS = Spad.BEAT + 1
"""How many there have to be."""
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
    """The first three are the RFC's."""

    SET_STATUS = 1
    """ARGUMENT is the status; 0 resets, and is done once the device has stopped."""
    FINALIZE_FEATURES = 2
    RESET = 3
    """SET_STATUS with 0, said otherwise."""
    ENABLE_QUEUES = 4
    """Every queue whose QUEUE_NUM is not 0."""
    WRITE_CONFIG = 5
    """Up to 4 bytes of DATA; ARGUMENT is the offset in its lower half, the number of bytes in its upper."""


class NtbOutcome(IntEnum):
    NONE = 0
    OK = 1
    ERROR = 2


def emit_command(sequence: int, code: int) -> int:
    """A command or its outcome as one word: an outcome is only that of the command with the same number."""
    return (sequence & 0xFF_FFFF) << 8 | code


def parse_command(word: int) -> tuple[int, int]:
    """Its number and its code."""
    return word >> 8, word & 0xFF


DB_QUEUES = (1 << MAX_QUEUES) - 1
"""Bit n rings queue n."""
DB_CONTROL = 1 << MAX_QUEUES
"""Anything else: look at the scratchpads."""
DB_MASK = DB_QUEUES | DB_CONTROL
BUFFER_OFFSET = 0x20000
"""Bytes of the window that are never used for buffers."""
PAGE = 4096
MAX_ALIGN = 1 << 16
Read = Callable[[int], int]


class NtbRefused(Exception):
    """The other side's words make no sense, or nothing we can serve; one sentence says what."""


def _is_align(value: int) -> bool:
    return 16 <= value <= MAX_ALIGN and not value & (value - 1)


def _join(read: Read, words: Sequence[int]) -> int:
    return sum(read(word) << 32 * at for at, word in enumerate(words))


def _spread(words: Sequence[int], value: int) -> dict[int, int]:
    return {word: value >> 32 * at & 0xFFFF_FFFF for at, word in enumerate(words)}


@attrs.frozen
class RingArea:
    """The rings at the start of the window: each in one piece, all equally far apart, as the largest needs it."""

    nums: tuple[int, ...]
    """The largest size of each queue."""
    align: int

    @property
    def pitch(self) -> int:
        """Bytes from one ring to the next; both sides work it out from what was published.

        Rings of either format fit, so that it stands before one is agreed on.
        """
        size = max((contiguous_split(num, Addr(0), self.align)[1] for num in self.nums), default=0)
        return -(-size // self.align) * self.align

    @property
    def buffer_offset(self) -> int:
        """Where buffers may start."""
        return max(BUFFER_OFFSET, -(-len(self.nums) * self.pitch // PAGE) * PAGE)

    def addrs(self, window: Addr, queue: int, num: int, form: RingFormat = FORMATS["split"]) -> RingAddrs:
        """Where the ring of ``num`` descriptors of a queue lies, in a window that starts at ``window``."""
        return form.contiguous(num, Addr(window + queue * self.pitch), self.align)[0]


@attrs.frozen
class Offer:
    """What the vhost side publishes before it shows itself."""

    session: int
    vendor_id: int
    device_id: int
    features: int
    mw_size: int
    """Bytes of the window."""
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
        """Raises NtbRefused."""
        if read(Spad.MAGIC) != MAGIC or read(Spad.VERSION) != VERSION:
            raise NtbRefused(f"the vhost side speaks version {read(Spad.VERSION)}; this side speaks {VERSION}")
        count = read(Spad.NUM_QUEUES)
        if not 1 <= count <= MAX_QUEUES:
            raise NtbRefused(f"the vhost side has {count} queues; it must be 1 to {MAX_QUEUES}")
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
    """What the virtio side publishes when it takes an offer."""

    session: int
    mw_addr: Addr
    """Where the window starts in the virtio side's memory: what the addresses in rings count from."""
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
        """An answer to that offer. Raises NtbRefused."""
        if read(Spad.VIRTIO_VERSION) != VERSION:
            raise NtbRefused(f"the virtio side speaks version {read(Spad.VIRTIO_VERSION)}; this side speaks {VERSION}")
        answer = cls(
            session=read(Spad.VIRTIO_SESSION),
            mw_addr=Addr(_join(read, (Spad.MW0_ADDR_LO, Spad.MW0_ADDR_HI))),
            align=read(Spad.VIRTIO_ALIGN),
            buffer_offset=read(Spad.BUFFER_OFFSET),
        )
        if not _is_align(answer.align) or answer.align < offer.align:
            raise NtbRefused(
                f"the virtio side aligns rings to {answer.align} bytes, which is not {offer.align} or more"
            )
        if answer.mw_addr % PAGE or answer.mw_addr + offer.mw_size > 1 << 64:
            raise NtbRefused(f"the virtio side has its window at {answer.mw_addr:#x}")
        if not RingArea(offer.nums, answer.align).buffer_offset <= answer.buffer_offset < offer.mw_size:
            raise NtbRefused(f"the virtio side has its buffers {answer.buffer_offset:#x} bytes into the window")
        return answer


def config_words(config: bytes) -> dict[int, int]:
    """The configuration space as scratchpads. Raises NtbRefused where it is too large."""
    if len(config) > 4 * CONFIG_WORDS:
        raise NtbRefused(f"a configuration of {len(config)} bytes does not fit into {CONFIG_WORDS} scratchpads")
    padded = config.ljust(-(-len(config) // 4) * 4, b"\0")
    return {Spad.CONFIG + at // 4: int.from_bytes(padded[at : at + 4], "little") for at in range(0, len(padded), 4)}


def spad_names() -> Mapping[int, str]:
    """What each scratchpad is called; those of a group by number."""
    names = {word.value: word.name for word in Spad}
    names |= {Spad.NUM_BUFFERS + i: f"NUM_BUFFERS({i})" for i in range(MAX_QUEUES)}
    names |= {Spad.QUEUE_NUM + i: f"QUEUE_NUM({i})" for i in range(MAX_QUEUES)}
    names |= {Spad.CONFIG + i: f"CONFIG({i})" for i in range(CONFIG_WORDS)}
    return dict(sorted(names.items()))
