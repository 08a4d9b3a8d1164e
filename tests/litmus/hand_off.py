"""Rings between two processes: chains handed over and back, with notifications and no other way to wake up.

A notification is a counter that the other side waits for in a loop, so that it goes on in less than a microsecond: then
the moments in which one side publishes while the other asks for a notification are as frequent as they can be. If both
sides wait, and neither counter moved, a notification was lost: that is a state which lasts, and not a matter of time.
"""

from __future__ import annotations

import os
import struct

import attrs

from litmus.shared import PAGE, Role, Shared, run_pair
from rings.formats import FORMATS
from rings.memory import Addr, MappedMemory
from rings.queue import Virtqueue, Vringh
from rings.split.virtqueue import SplitVirtqueue
from vnet.linux.memory import full_fence

__all__ = ["HandOff", "hand_off"]

NUM = 64
"""Descriptors of the ring."""
BURST = 3
"""Most chains that a side publishes at once."""
DELAYS = 500
"""Steps of the longest pause between two publications, some 15 us: the other side takes them, and waits again."""
SPINS = 5_000
"""Looks at the counter before a side lets other processes run."""
SIZE = 16
RING, BUFFERS, PAGES = PAGE * 3, PAGE * 5, 6
WAITS, WAITED, DONE, BROKEN, NOTES, SEEN, WOKEN = range(7)
"""Result words of a side: whether it waits, how often it did, chains handed over, chains with wrong content or order,
notifications by this side, notifications of the other side that it saw, times that the test woke it."""
QUIET = 4
"""Looks in a row that find both sides waiting before a notification counts as lost."""


@attrs.frozen
class HandOff:
    """Chains that went from driver to device and back."""

    chains: int
    broken: int
    """Chains with wrong content, or in a wrong order."""
    waits: int
    """Times that a side waited until the other notified it."""
    lost: int
    """Notifications that were lost: both sides waited, and neither was notified."""


def hand_off(chains: int, form: str, *, event_idx: bool, pauses: str, divided: bool = False) -> HandOff:
    """Hand chains over, and wake both sides after each lost notification.

    The side ``pauses``, driver or device, pauses between publications, so that the other side waits before each. With
    ``divided``, a mutant, the driver of a split ring stores its index in two steps.
    Raises AssertionError if a side found a violation of the ring's rules.
    """
    watch = _Watch()
    arguments: dict[str, int | str] = {
        "chains": chains,
        "form": form,
        "event_idx": int(event_idx),
        "divided": int(divided),
        "pauses": pauses,
    }
    driver, device = run_pair("hand_off:run_side", PAGES, arguments, watch.look)
    return HandOff(driver[DONE], driver[BROKEN] + device[BROKEN], driver[WAITED] + device[WAITED], watch.lost)


@attrs.define
class _Watch:
    """Notices that both sides wait for good, and wakes them."""

    lost: int = 0
    seen: tuple[int, ...] = ()
    times: int = 0

    def look(self, shared: Shared) -> None:
        sides = [shared.results(me) for me in range(2)]
        now = tuple(int(word) for side in sides for word in side)
        waits = all(side[WAITS] and side[SEEN] == other[NOTES] for side, other in zip(sides, sides[::-1], strict=True))
        self.times = self.times + 1 if waits and now == self.seen else 0
        self.seen = now
        if self.times >= QUIET:
            self.lost, self.times = self.lost + 1, 0
            for side in sides:
                side[WOKEN] += 1


class _Notes:
    """Notifies the other side, and waits for its notifications."""

    def __init__(self, shared: Shared, me: int) -> None:
        self.own, self._other = shared.results(me), shared.results(1 - me)
        self._woken = 0

    def notify(self) -> None:
        self.own[NOTES] += 1

    def wait(self) -> None:
        own, other, spins = self.own, self._other, 0
        own[WAITED] += 1
        own[WAITS] = 1
        while other[NOTES] == own[SEEN] and own[WOKEN] == self._woken:
            spins += 1
            if spins > SPINS:
                os.sched_yield()
        own[WAITS] = 0
        own[SEEN], self._woken = other[NOTES], own[WOKEN]


@attrs.define
class _Pause:
    """Pauses of changing length, always the same ones."""

    longest: int
    state: int = 1

    def take(self) -> None:
        if self.longest:
            self.state = self.state * 1103515245 + 12345 & 0x7FFF_FFFF
            for _ in range((self.state >> 8) % self.longest):
                pass


class _Divided:
    """Words that `struct.pack_into` stores: it zeroes its destination first."""

    def __init__(self, words: memoryview) -> None:
        self._words, self._bytes = words, words.cast("B")

    def __getitem__(self, index: int) -> int:
        return int(self._words[index])

    def __setitem__(self, index: int, value: int) -> None:
        struct.pack_into("<H", self._bytes, 2 * index, value)


def run_side(shared: Shared, role: Role) -> None:
    """Be the driver's or the device's side."""
    me, divided = role.me, bool(role.number("divided"))
    form, event_idx = FORMATS[str(role.arguments["form"])], bool(role.number("event_idx"))
    memory = MappedMemory(full_fence)
    for start, end in ((RING, BUFFERS), (BUFFERS, PAGE * PAGES)):
        memory.add(Addr(start), shared.bytes[start:end])
    addrs, _ = form.contiguous(NUM, Addr(RING), 64)
    pause = _Pause(DELAYS if role.arguments["pauses"] == ("driver", "device")[me] else 0)
    notes, chains = _Notes(shared, me), role.number("chains")
    if me == 0:
        driver = (SplitVirtqueue if divided else form.driver)(memory, NUM, addrs, event_idx=event_idx)
        if isinstance(driver, SplitVirtqueue) and divided:
            driver._avail = _Divided(driver._avail)  # type: ignore[assignment]
        shared.meet(0, 1)
        _drive(driver, shared, chains, notes, pause)
    else:
        shared.meet(1, 1)
        device = form.device(memory, NUM, addrs, event_idx=event_idx, indirect=False)
        _serve(device, chains, notes, pause)


def _drive(driver: Virtqueue, shared: Shared, chains: int, notes: _Notes, pause: _Pause) -> None:
    """Add chains whose buffers have their numbers, and take them back in order."""
    words, own = shared.bytes[BUFFERS : PAGE * PAGES].cast("Q"), notes.own
    added = done = 0
    while done < chains:
        count = min(driver.num_free, 1 + added % BURST, chains - added)
        for number in range(added, added + count):
            words[number % NUM * SIZE // 8] = number
        driver.add_each([(Addr(BUFFERS + n % NUM * SIZE), SIZE, n) for n in range(added, added + count)], False)
        added += count
        if count and driver.publish():
            notes.notify()
        pause.take()
        while True:
            taken = driver.get_each(NUM)
            own[BROKEN] += sum(token != done + at for at, (token, _) in enumerate(taken))
            done += len(taken)
            if taken or (driver.num_free and added < chains) or done == chains:
                break
            if not driver.enable_cb():
                notes.wait()
        own[DONE] = done


def _serve(device: Vringh, chains: int, notes: _Notes, pause: _Pause) -> None:
    """Take chains, check their numbers, and give them back."""
    own = notes.own
    done = 0
    while done < chains:
        taken = device.getdescs(BURST)
        if not taken:
            if not device.notify_enable():
                notes.wait()
            continue
        for _, [view], _ in taken:
            own[BROKEN] += int.from_bytes(view[:8], "little") != done
            done += 1
        device.complete_each([(head, 0) for head, _, _ in taken])
        if device.publish():
            notes.notify()
        pause.take()
        own[DONE] = done
