"""Faults of a wire as data, decided by seeded chance or by script for each packet that they are about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from random import Random

import attrs

from vnet.link.base import Direction
from vnet.link.datalink.dllps import ACK, NAK, CreditPhase
from vnet.link.datalink.frames import START_DLLP, START_TLP

__all__ = ["FAULTS", "Carried", "Impairments", "WireFault", "WireRule", "kind_of", "rates"]


class Carried(Enum):
    """A packet on the wire, as far as faults distinguish it."""

    TLP = "TLP"
    ACK = "Ack or Nak"
    CREDITS = "UpdateFC"
    COMPLETION = "completion"
    """The answer to one request, before it is sent."""
    PACKET = "TLP before it has a sequence number"
    OTHER = "another packet"


class WireFault(Enum):
    """A fault by its name in topology files."""

    BIT_ERRORS = "bit_errors"
    LOST_TLPS = "lost_tlps"
    LOST_ACKS = "lost_acks"
    DUPLICATED = "duplicated"
    REORDERED = "reordered"
    LOST_CREDITS = "lost_credits"
    RETRAINS = "retrains"
    SURPRISE_DOWNS = "surprise_downs"
    HOT_RESETS = "hot_resets"
    UNANSWERED = "unanswered"
    ABORTED = "aborted"
    POISONED = "poisoned"
    CORRUPTED = "corrupted"


@attrs.frozen
class WireFaultKind:
    """The packets that a fault is about, and a sentence for help texts."""

    about: str
    carried: Carried
    repaired: bool = True
    """Whether the data link layer repairs it, so that no request fails."""


_F = WireFault
FAULTS: Mapping[WireFault, WireFaultKind] = {
    _F.BIT_ERRORS: WireFaultKind("One bit of a TLP is inverted.", Carried.TLP),
    _F.LOST_TLPS: WireFaultKind("A TLP vanishes.", Carried.TLP),
    _F.LOST_ACKS: WireFaultKind("An Ack or Nak vanishes.", Carried.ACK),
    _F.DUPLICATED: WireFaultKind("A TLP arrives twice.", Carried.TLP),
    _F.REORDERED: WireFaultKind("A TLP arrives after the next one.", Carried.TLP),
    _F.LOST_CREDITS: WireFaultKind("An update of credits vanishes.", Carried.CREDITS),
    _F.RETRAINS: WireFaultKind("The link is retrained during a TLP, which is lost.", Carried.TLP),
    _F.SURPRISE_DOWNS: WireFaultKind(
        "The link goes down during a TLP, and is trained again.", Carried.TLP, repaired=False
    ),
    _F.HOT_RESETS: WireFaultKind("The root port resets the link during a TLP.", Carried.TLP, repaired=False),
    _F.UNANSWERED: WireFaultKind("A request gets no completion.", Carried.COMPLETION, repaired=False),
    _F.ABORTED: WireFaultKind("A request completes with Completer Abort.", Carried.COMPLETION, repaired=False),
    _F.POISONED: WireFaultKind("The data of a completion is marked as damaged.", Carried.COMPLETION, repaired=False),
    _F.CORRUPTED: WireFaultKind(
        "One bit of a TLP is inverted before it gets its LCRC.", Carried.PACKET, repaired=False
    ),
}


def _numbers(numbers: Iterable[int]) -> frozenset[int]:
    return frozenset(numbers)


@attrs.frozen
class WireRule:
    """A fault of some packets, by chance or by their numbers."""

    fault: WireFault
    rate: float = 0.0
    """Probability, 0 to 1."""
    nth: frozenset[int] = attrs.field(default=frozenset(), converter=_numbers)
    """Numbers of the affected packets, counted from 1."""
    direction: Direction | None = None
    """Direction of the affected packets; None: both."""

    def __attrs_post_init__(self) -> None:
        """Raises ValueError for a rate that is no probability."""
        if not 0 <= self.rate <= 1:
            raise ValueError(f"{self.rate} is no probability")


def rates(**chances: float) -> list[WireRule]:
    """Return the rules for chances by the names of faults."""
    return [WireRule(WireFault(name), rate=chance) for name, chance in chances.items() if chance]


def kind_of(frame: bytes) -> Carried:
    """Return the kind of a frame. A completion is a TLP here."""
    if frame[:1] == START_TLP:
        return Carried.TLP
    if frame[:1] == START_DLLP:
        if frame[1] in (ACK, NAK):
            return Carried.ACK
        if frame[1] >> 6 == CreditPhase.UPDATE:
            return Carried.CREDITS
    return Carried.OTHER


class Impairments:
    """The rules of a wire, with what they have done. The same seed and the same packets give the same faults."""

    def __init__(self, rules: Iterable[WireRule] = (), random: Random | None = None) -> None:
        self.random = random or Random(0)
        self._by_kind: dict[Carried, list[tuple[WireRule, list[int]]]] = {}
        self.done: Counter[str] = Counter()
        """Faults so far, by name."""
        self.notify: Callable[[WireFault], None] | None = None
        """Called for each fault."""
        self.set(rules)

    def set(self, rules: Iterable[WireRule]) -> None:
        """Replace the rules."""
        self._by_kind = {}
        for rule in rules:
            self._by_kind.setdefault(FAULTS[rule.fault].carried, []).append((rule, [0]))

    def judge(self, carried: Carried, direction: Direction) -> WireFault | None:
        """Return the fault of the next packet of a kind, counted; None without one."""
        for rule, number in self._by_kind.get(carried, ()):
            if rule.direction not in (None, direction):
                continue
            number[0] += 1
            # A rule with a rate draws a number for each of its packets, so that a seed determines all faults.
            if number[0] in rule.nth or (rule.rate > 0 and self.random.random() < rule.rate):
                self.done[rule.fault.value] += 1
                if self.notify is not None:
                    self.notify(rule.fault)
                return rule.fault
        return None

    def damage(self, frame: bytes, start: int = 0) -> bytes:
        """Return the frame with one bit inverted, from byte ``start`` on."""
        bit = self.random.randrange(start * 8, len(frame) * 8)
        at, mask = bit // 8, 1 << bit % 8
        return frame[:at] + bytes((frame[at] ^ mask,)) + frame[at + 1 :]
