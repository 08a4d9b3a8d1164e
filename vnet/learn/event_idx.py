"""Lesson: notification suppression with EVENT_IDX."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

from rings.chain import Chain
from vnet.learn.ring_machine import RingMachine
from vnet.learn.step import Lesson, Question, Step, yes_or_no

__all__ = ["LESSON"]


def steps(ring: RingMachine) -> Iterator[Step]:
    """Yield notifications that are due, suppressed, delayed, and nearly lost."""
    driver, device = ring.driver, ring.device
    buffer = ring.new_buffer("buffer", 16, "driver")
    chains: list[Chain] = []
    kick = yes_or_no("Must the driver notify the device?", lambda frame: frame.result)
    call = yes_or_no("Must the device notify the driver?", lambda frame: frame.result)

    def publish(*tokens: int) -> bool:
        for token in tokens:
            driver.add([buffer], [], token)
        return driver.publish()

    def complete(count: int) -> bool:
        device.complete_each([(chains.pop(0)[0], 0) for _ in range(count)])
        return device.publish()

    yield Step(
        "The device names an event",
        "With EVENT_IDX a side does not say whether it wants notifications, but from which entry on: it stores an "
        "index in a field of its own, avail_event for the device, used_event for the driver. Here: as soon as entry 0 "
        "is available.",
        "2.7.10",
        device.notify_enable,
        lambda left: f"Work is left: {left}.",
    )
    yield Step(
        "The driver publishes entry 0",
        "idx moves from 0 to 1 and passes the entry 0 of avail_event. The rule, modulo 65536: notify if "
        "(new - event - 1) < (new - old).",
        "2.7.7.1",
        partial(publish, 0),
        _kick,
        kick,
    )
    yield Step(
        "The driver publishes two more",
        "The device is awake and has not moved avail_event: it is behind the new entries, so it is not passed again. "
        "To keep suppressing, the device need not store anything.",
        "2.7.10.1",
        partial(publish, 1, 2),
        _kick,
        kick,
    )
    yield Step(
        "The device takes all three",
        "One notification for three buffers.",
        "2.7.10",
        lambda: chains.extend(device.getdescs(8)),
        lambda _: f"Chains taken: {len(chains)}.",
    )
    yield Step(
        "A chain in the wrong moment",
        "The device has found the ring empty and is about to wait. Just now the driver publishes entry 3. avail_event "
        "is still 0, so the driver does not notify.",
        "2.7.10.1",
        partial(publish, 3),
        _kick,
        kick,
    )
    yield Step(
        "The device looks once more",
        "That is why re-arming ends with a look: store avail_event, fence, load avail.idx. The two fences are "
        "partners: the driver sees the new event, or the device sees the new index. A device that waits without this "
        "look sleeps on a full ring.",
        "2.7.10.1",
        device.notify_enable,
        lambda left: f"Work is left: {left}. The device does not wait.",
        Question(
            "Which value does the device store in avail_event?",
            ("0", "1", "3", "4"),
            lambda frame: frame.trace[0].text.rpartition(" ")[2],
        ),
    )

    def take_and_wait() -> bool:
        chains.extend(device.getdescs(8))
        return device.notify_enable()

    yield Step(
        "The device takes it, and waits",
        "Now the ring is empty, and the event is the next entry.",
        "2.7.10",
        take_and_wait,
        lambda left: f"Work is left: {left}.",
    )
    yield Step(
        "The driver delays interrupts",
        "Four chains are in flight. The driver asks for an interrupt when three quarters of them are used, not at the "
        "first one: used_event is ahead of the used index.",
        "2.7.7",
        driver.enable_cb_delayed,
        lambda past: f"They are used already: {past}.",
        Question(
            "Which value does the driver store in used_event?",
            ("0", "1", "3", "4"),
            lambda frame: frame.value("avail.used_event"),
        ),
    )
    yield Step("The device uses two chains", "used.idx is 2.", "2.7.7.2", partial(complete, 2), _call, call)
    yield Step(
        "The device uses the other two",
        "used.idx moves from 2 to 4 and passes entry 3: one interrupt for four buffers.",
        "2.7.7.2",
        partial(complete, 2),
        _call,
        call,
    )
    yield Step(
        "The driver takes all four",
        "Each side was notified once for four requests. Suppression is a hint: a side must also live with "
        "notifications that it did not ask for.",
        "2.7.14",
        partial(driver.get_each, 8),
        lambda done: f"Tokens back: {', '.join(str(token) for token, _ in done)}.",
    )


def _kick(wanted: bool) -> str:
    return f"The driver must notify the device: {'yes' if wanted else 'no'}."


def _call(wanted: bool) -> str:
    return f"The device must notify the driver: {'yes' if wanted else 'no'}."


LESSON = Lesson(
    "event-idx",
    "Notification suppression with EVENT_IDX",
    lambda: nullcontext(RingMachine("split", event_idx=True)),
    steps,
)
