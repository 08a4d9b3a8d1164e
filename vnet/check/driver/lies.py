"""Lies of a device to a foreign driver (hostile rows D01 to D11), and the back end that tells one of them."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Collection

import attrs
import trio

from drivers.transports.vhost_user.constants import FrontendRequest
from drivers.transports.vhost_user.messages import UserMessage
from drivers.transports.vhost_user.payloads import U64, Config, Payload
from vnet.check.driver.back import WatchedVring, WatchingBack
from vnet.check.driver.clauses import Observations
from vnet.check.driver.devices import WatchedDevice
from vnet.check.driver.memory import DriverError
from vnet.check.driver.ring import Chain, WatchedRing, WatchedSplit
from vnet.check.front import EVENT_IDX, INDIRECT_DESC, VERSION_1

__all__ = ["HONEST", "LIES", "Lie", "LyingBack", "Telling"]

R = FrontendRequest
MAX = 0xFFFF_FFFF
SILENCE = 3.0
"""Seconds without an answer of a device that is silent for a while."""
STORM = 1000
"""Notifications for nothing."""
RING_FEATURES = 1 << INDIRECT_DESC | 1 << EVENT_IDX | 1 << VERSION_1


@attrs.define
class Telling:
    """The state of one lie over all connections of the front end."""

    lie: Lie
    after: int
    """Requests that are served honestly before a lie about rings."""
    lie_time: float | None = None
    """Time at which the lie was told."""
    latest: float = 0.0
    """Time of the driver's latest request or message."""
    requests: int = 0
    replies: int = 0
    """Replies that the lie is about, if it is about any."""
    evidence: list[str] = attrs.field(factory=list)

    def tell(self, words: str) -> None:
        """Note that the lie is told, and how."""
        if self.lie_time is None:
            self.lie_time = trio.current_time()
        if len(self.evidence) < 3:
            self.evidence.append(words)

    def reply(self, request: FrontendRequest, honest: Payload | None) -> Payload | None:
        """Return the reply to send instead of the honest one: the same if the lie is not about it."""
        lie = self.lie
        false = honest if lie.reply is None else lie.reply(request, honest)
        if false is honest:
            return honest
        self.replies += 1
        sent = honest if lie.alternates and self.replies % 2 else false
        self.tell(f"{request.name}: {sent}")
        return sent


Answer = Callable[["LyingBack", WatchedRing, Chain, int], bool]
"""Gives a chain back with a lie: the back end, the ring, the chain, the bytes written. Returns whether to call."""


@attrs.frozen
class Lie:
    """A lie; exactly one of the functions is set."""

    id: str
    title: str
    answer: Answer | None = None
    reply: Callable[[FrontendRequest, Payload | None], Payload | None] | None = None
    """Returns the payload that replaces a reply; the same if it is no reply that it lies in."""
    alternates: bool = False
    """Whether only each second of these replies is false, beginning with the second one."""
    storm: bool = False
    """Whether the driver is notified for nothing before its rings run and after they stopped."""
    types: Collection[str] = ()
    """Device types that it applies to; empty for all."""
    receive: bool = False
    """Whether it is told in a receive buffer, which is kept otherwise."""
    split: bool = False
    """Whether it is about words that only split rings have."""
    final: bool = False
    """Whether nothing can be seen of the driver afterwards but that its program lives."""


class LyingBack(WatchingBack):
    """One connection of a front end, whose driver is served honestly but for one lie."""

    def __init__(
        self,
        device: WatchedDevice,
        seen: Observations,
        telling: Telling,
        without: Collection[int] = (),
        *,
        packed: bool = False,
    ) -> None:
        super().__init__(device, seen, without, packed=packed)
        self.telling = telling
        self._late: list[tuple[WatchedRing, Chain, int]] = []

    async def do(
        self, request: FrontendRequest, payload: Payload, message: UserMessage, nursery: trio.Nursery
    ) -> Payload | None:
        self.telling.latest = trio.current_time()
        honest = await super().do(request, payload, message, nursery)
        if self.telling.lie.storm and request in (R.SET_VRING_CALL, R.GET_VRING_BASE):
            self._storm()
        return self.telling.reply(request, honest)

    def _storm(self) -> None:
        for vring in self.vrings:
            if vring.call >= 0:
                for _ in range(STORM):
                    self.call(vring)
                self.telling.tell(f"{STORM} notifications for nothing")

    def answer(self, index: int, ring: WatchedRing, chain: Chain) -> bool:
        telling, lie = self.telling, self.telling.lie
        telling.latest = trio.current_time()
        telling.requests += 1
        written = self.device.serve(index, chain)
        due = telling.lie_time is None and (lie.receive or telling.requests > telling.after)
        if lie.answer is not None and due and lie.receive == (written is None):
            return lie.answer(self, ring, chain, written or 0)
        return written is not None and ring.give(chain.head, written)

    def keep(self, ring: WatchedRing, chain: Chain, written: int) -> bool:
        """Answer a chain `SILENCE` seconds later."""
        self._late.append((ring, chain, written))
        return False

    async def between(self, vring: WatchedVring, ring: WatchedRing) -> None:
        """Give the kept chains back after `SILENCE` seconds."""
        if self._late:
            await trio.sleep(SILENCE)
            calls = [late.give(chain.head, written) for late, chain, written in self._late]
            self._late.clear()
            if any(calls):
                self.call(vring)


def _forged(words: str, *elements: Callable[[WatchedRing, Chain, int], tuple[int, int]]) -> Answer:
    """Return a lie that gives used elements back: id and length of each.

    A forged one in a packed ring takes the place of the honest one, so that is left out.
    """

    def answer(back: LyingBack, ring: WatchedRing, chain: Chain, written: int) -> bool:
        chosen = elements[:1] if ring.packed and elements[0] is not _honest else elements
        given = [element(ring, chain, written) for element in chosen]
        shown = ", ".join(f"id {ident:#x} length {length:#x}" for ident, length in given)
        back.telling.tell(f"{words}: used elements {shown}; the chain's id is {chain.head}, the ring has {ring.num}")
        calls = [ring.give(ident, length) for ident, length in given]
        return any(calls)

    return answer


def _honest(ring: WatchedRing, chain: Chain, written: int) -> tuple[int, int]:
    return chain.head, written


def _index(words: str, change: Callable[[int], int]) -> Answer:
    """Return a lie that shows another used index, then goes on from the right one."""

    def answer(back: LyingBack, ring: WatchedRing, chain: Chain, written: int) -> bool:
        assert isinstance(ring, WatchedSplit)  # by the table of lies
        call = ring.give(chain.head, written)
        back.telling.tell(f"{words}: {ring.show_index(change)}")
        return call

    return answer


def _table(back: LyingBack, ring: WatchedRing, chain: Chain, written: int) -> bool:
    assert isinstance(ring, WatchedSplit)  # by the table of lies
    ring.scribble()
    back.telling.tell(f"all {ring.num} descriptors are ff, then the chain {chain.head} is given back")
    return ring.give(chain.head, written)


def _changing(back: LyingBack, ring: WatchedRing, chain: Chain, written: int) -> bool:
    place = ring.next_element
    call = ring.give(chain.head, written)
    for vring in back.vrings:
        if vring.ring is ring and call:
            back.call(vring)
    ring.overwrite(place, MAX, MAX)
    back.telling.tell(f"the used element of chain {chain.head} changes to id {MAX:#x} after it was published")
    return True


def _data(back: LyingBack, ring: WatchedRing, chain: Chain, written: int) -> bool:
    call = ring.give(chain.head, written)
    for view in chain.writable:
        view[:] = b"\xff" * len(view)
    back.telling.tell(f"{chain.room} bytes of chain {chain.head} change to ff after it was given back")
    return call


def _silent(back: LyingBack, ring: WatchedRing, chain: Chain, written: int) -> bool:
    back.telling.tell(f"chain {chain.head} is answered {SILENCE:g} s later")
    return back.keep(ring, chain, written)


def _gone(back: LyingBack, ring: WatchedRing, chain: Chain, written: int) -> bool:
    back.telling.tell(f"the connection ends while chain {chain.head} is in flight")
    raise DriverError("was left alone, as the lie is")


def _config(offset: int, form: str, value: int) -> Callable[[FrontendRequest, Payload | None], Payload | None]:
    """Return a lie about a field of the configuration."""
    data = struct.pack(form, value)

    def reply(request: FrontendRequest, honest: Payload | None) -> Payload | None:
        if not isinstance(honest, Config) or request is not R.GET_CONFIG:
            return honest
        low = offset - honest.offset
        if low < 0 or low + len(data) > len(honest.data):
            return honest
        return attrs.evolve(honest, data=honest.data[:low] + data + honest.data[low + len(data) :])

    return reply


def _number(
    of: FrontendRequest, change: Callable[[int], int]
) -> Callable[[FrontendRequest, Payload | None], Payload | None]:
    """Return a lie about the number in a reply."""

    def reply(request: FrontendRequest, honest: Payload | None) -> Payload | None:
        return U64(change(honest.value)) if request is of and isinstance(honest, U64) else honest

    return reply


def _changing_config(request: FrontendRequest, honest: Payload | None) -> Payload | None:
    return attrs.evolve(honest, data=os.urandom(len(honest.data))) if isinstance(honest, Config) else honest


def _free(ring: WatchedRing, chain: Chain, written: int) -> tuple[int, int]:
    return (chain.head + ring.num // 2) % ring.num, written


HONEST = Lie("honest", "No lie: the driver works", _forged("no lie", _honest))
BLK, NET = ("blk",), ("net",)
LIES = [
    Lie(
        "D01.size",
        "A used id that is the queue size",
        _forged("lie", lambda ring, chain, written: (ring.num, written), _honest),
    ),
    Lie("D01.max", "A used id of 2^32 - 1", _forged("lie", lambda ring, chain, written: (MAX, written), _honest)),
    Lie("D02.free", "A used id of a descriptor that is not in flight", _forged("lie", _free, _honest)),
    Lie("D02.twice", "A used id that comes twice", _forged("lie", _honest, _honest)),
    Lie(
        "D03.long",
        "A used length of 4096 bytes more than the buffers have",
        _forged("lie", lambda ring, chain, _: (chain.head, chain.room + 4096)),
    ),
    Lie("D03.max", "A used length of 2^32 - 1", _forged("lie", lambda ring, chain, _: (chain.head, MAX))),
    Lie(
        "D03.receive",
        "A received frame that is longer than its buffer",
        _forged("lie", lambda ring, chain, _: (chain.head, MAX)),
        types=NET,
        receive=True,
    ),
    Lie(
        "D03.short",
        "A received frame that is shorter than its header",
        _forged("lie", lambda ring, chain, _: (chain.head, 1)),
        types=NET,
        receive=True,
    ),
    Lie("D04", "A descriptor table that the device overwrites", _table, split=True),
    Lie("D05.ahead", "A used index that is 16384 ahead", _index("lie", lambda index: index + 0x4000), split=True),
    Lie("D05.back", "A used index that moves backwards", _index("lie", lambda index: index - 3), split=True),
    Lie("D06", "1,000 notifications for nothing, before rings run and after they stopped", storm=True),
    Lie("D07.blk_size-0", "A block size of 0", reply=_config(20, "<I", 0), types=BLK),
    Lie("D07.blk_size-3", "A block size of 3", reply=_config(20, "<I", 3), types=BLK),
    Lie("D07.blk_size-max", "A block size of 2^31", reply=_config(20, "<I", 1 << 31), types=BLK),
    Lie("D07.capacity-0", "A capacity of 0", reply=_config(0, "<Q", 0), types=BLK),
    Lie("D07.capacity-max", "A capacity of 2^64 - 1 sectors", reply=_config(0, "<Q", (1 << 64) - 1), types=BLK),
    Lie("D07.seg_max", "A seg_max of 0", reply=_config(12, "<I", 0), types=BLK),
    Lie("D07.discard", "A max_discard_seg of 0", reply=_config(40, "<I", 0), types=BLK),
    Lie("D07.queues-0", "No queues, as GET_QUEUE_NUM says", reply=_number(R.GET_QUEUE_NUM, lambda _: 0)),
    Lie("D07.queues-max", "2^63 queues, as GET_QUEUE_NUM says", reply=_number(R.GET_QUEUE_NUM, lambda _: 1 << 63)),
    Lie(
        "D08.features",
        "Features that change between two reads",
        reply=_number(R.GET_FEATURES, lambda value: value & ~RING_FEATURES),
        alternates=True,
    ),
    Lie("D08.config", "A configuration that differs with each read", reply=_changing_config, types=BLK),
    Lie("D09", "No answer for 3 seconds", _silent),
    Lie("D10.element", "A used element that changes after it was published", _changing),
    Lie("D10.data", "Data that change after they were given back", _data, types=("blk", "scsi", "rng")),
    Lie("D11", "A device that goes away with requests in flight", _gone, final=True),
]
"""All lies, in the order in which they are told."""
