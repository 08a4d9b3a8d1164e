"""The moment in which one side of a ring publishes while the other asks to be notified, round by round.

Both sides meet, then one publishes a chain while the other re-arms. Either the first has to notify, or the second has
to see that work is left: if neither, a notification is lost (VIRTIO 1.4 sections 2.7.10 and 2.8.7).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import attrs

from litmus.shared import PAGE, Role, Shared, run_pair, seen_pages
from rings.formats import FORMATS
from rings.memory import Addr, MappedMemory
from rings.queue import Virtqueue, Vringh
from vnet.linux.memory import full_fence

__all__ = ["Rearm", "rearm"]

NUM = 8
RING, BUFFER, SEEN = PAGE * 3, PAGE * 4, PAGE * 5
SIZE = 16
SKEW = 13
"""Steps by which one side begins later than the other, different in each round."""
no_barrier = "".isalpha
"""Does nothing, and returns so early that the stores before it may still wait: a Python function would take longer."""


@attrs.frozen
class Rearm:
    """Rounds of one ring."""

    rounds: int
    lost: int
    """Rounds in which neither side noticed the other."""
    both: int
    """Rounds in which one side notified although the other saw the work: their accesses overlapped."""


def rearm(rounds: int, form: str, *, event_idx: bool, publisher: str, fence: bool = True) -> Rearm:
    """Run rounds in which the ``publisher``, driver or device, publishes, with the fences of both sides or without.

    Raises AssertionError with a side's error.
    """
    pages = SEEN // PAGE + seen_pages(rounds)
    arguments: dict[str, int | str] = {
        "rounds": rounds,
        "form": form,
        "event_idx": int(event_idx),
        "publisher": publisher,
        "fence": int(fence),
    }
    [results, _] = run_pair("rearm:run_side", pages, arguments)
    return Rearm(rounds, results[0], results[1])


def run_side(shared: Shared, role: Role) -> None:
    """Be the driver's or the device's side, then count."""
    me, rounds = role.me, role.number("rounds")
    form, event_idx = FORMATS[str(role.arguments["form"])], bool(role.number("event_idx"))
    memory = MappedMemory(full_fence if role.number("fence") else cast(Callable[[], None], no_barrier))
    for start, end in ((RING, BUFFER), (BUFFER, SEEN)):
        memory.add(Addr(start), shared.bytes[start:end])
    addrs, _ = form.contiguous(NUM, Addr(RING), 64)
    seen = shared.seen(me, SEEN, rounds)
    driver_publishes = role.arguments["publisher"] == "driver"
    if me == 0:
        driver = form.driver(memory, NUM, addrs, event_idx=event_idx)
        shared.meet(0, 1)
        (_publish_chains if driver_publishes else _await_calls)(shared, driver, rounds, seen)
    else:
        shared.meet(1, 1)
        device = form.device(memory, NUM, addrs, event_idx=event_idx, indirect=False)
        (_await_kicks if driver_publishes else _publish_used)(shared, device, rounds, seen)
    shared.meet(me, 3 * rounds + 2)
    if me == 0:
        shared.count_seen(SEEN, rounds)


def _meet(shared: Shared, me: int, number: int) -> None:
    """Meet the other side, then let it go ahead for a while."""
    shared.meet(me, number)
    for _ in range(number % SKEW if me else number // SKEW % SKEW):
        pass


# The driver publishes a chain, while the device enables kicks.


def _publish_chains(shared: Shared, driver: Virtqueue, rounds: int, seen: memoryview) -> None:
    for number in range(rounds):
        driver.add_each([(Addr(BUFFER), SIZE, number)], False)
        _meet(shared, 0, 3 * number + 2)
        seen[number] = driver.publish()
        shared.meet(0, 3 * number + 3)
        shared.meet(0, 3 * number + 4)
        assert driver.get_each(NUM) == [(number, 0)]


def _await_kicks(shared: Shared, device: Vringh, rounds: int, seen: memoryview) -> None:
    device.notify_disable()
    for number in range(rounds):
        _meet(shared, 1, 3 * number + 2)
        seen[number] = device.notify_enable()
        shared.meet(1, 3 * number + 3)
        device.notify_disable()
        [(head, _, _)] = device.getdescs(NUM)
        device.complete_each([(head, 0)])
        device.publish()
        shared.meet(1, 3 * number + 4)


# The device publishes a used chain, while the driver enables calls.


def _await_calls(shared: Shared, driver: Virtqueue, rounds: int, seen: memoryview) -> None:
    driver.disable_cb()
    for number in range(rounds):
        driver.add_each([(Addr(BUFFER), SIZE, number)], False)
        driver.publish()
        shared.meet(0, 3 * number + 2)
        _meet(shared, 0, 3 * number + 3)
        seen[number] = driver.enable_cb()
        shared.meet(0, 3 * number + 4)
        driver.disable_cb()
        assert driver.get_each(NUM) == [(number, 0)]


def _publish_used(shared: Shared, device: Vringh, rounds: int, seen: memoryview) -> None:
    for number in range(rounds):
        shared.meet(1, 3 * number + 2)
        [(head, _, _)] = device.getdescs(NUM)
        device.complete_each([(head, 0)])
        _meet(shared, 1, 3 * number + 3)
        seen[number] = device.publish()
        shared.meet(1, 3 * number + 4)
