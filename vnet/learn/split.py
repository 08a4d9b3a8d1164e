"""Lesson: the split ring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

from rings.chain import Chain
from vnet.learn.ring_machine import RingMachine
from vnet.learn.step import Lesson, Question, Step, yes_or_no

__all__ = ["LESSON"]

QUESTION, ANSWER = b"hello", b"HELLO!"


def steps(ring: RingMachine) -> Iterator[Step]:
    """Yield one request from the driver to the device and back, then indices that pass the end of the ring."""
    driver, device = ring.driver, ring.device
    question, answer = ring.new_buffer("question", 16, "driver"), ring.new_buffer("answer", 16, "device")
    chains: list[Chain] = []

    yield Step(
        "The device waits",
        "A split ring has three areas: the descriptor table (where buffers are), the available ring (heads that the "
        "device may take), the used ring (heads that it gives back). All are in the driver's memory. Before the device "
        "waits, it asks for a notification and looks once more: the fence keeps the look behind the request.",
        "2.7.10",
        device.notify_enable,
        lambda left: f"Work is left: {left}.",
    )

    def add() -> None:
        ring.fill("question", question, QUESTION)
        driver.add([(question[0], len(QUESTION))], [answer], 1)

    yield Step(
        "The driver adds a chain",
        "The driver writes its question, then two descriptors: one that the device reads, linked by NEXT to one that "
        "it writes (readable ones come first). The head of the chain goes into the next entry of the available ring.",
        "2.7.13.1",
        add,
        lambda _: "The device sees nothing yet: avail.idx has not moved.",
        yes_or_no("Can the device take the chain after this step?", lambda frame: frame.value("avail.idx") != "0"),
    )
    yield Step(
        "The driver publishes it",
        "The index is stored last: a device that sees the new index sees all that was stored before it. Then a full "
        "fence, and only then the load of the field by which the device suppresses notifications. Without that fence "
        "both sides could miss each other: the driver sees the old flag, the device the old index.",
        "2.7.13.3",
        driver.publish,
        lambda kick: f"The driver must notify the device: {'yes' if kick else 'no'}.",
        Question(
            "Which word does the driver store?",
            ("avail.ring[0]", "avail.idx", "used.idx", "desc[0].flags"),
            lambda frame: frame.stores("driver")[-1],
        ),
    )
    yield Step(
        "The device takes the chain",
        "The device loads the index, the entry, and both words of each descriptor exactly once, and checks these "
        "copies: memory may change under it. Then it maps the buffers. It stores nothing: its own position in the "
        "available ring is private.",
        "2.7.5",
        lambda: chains.extend(device.getdescs(8)),
        lambda _: (
            f"Chain of head {chains[0][0]}: {sum(map(len, chains[0][1]))} bytes to read, "
            f"{sum(map(len, chains[0][2]))} to write."
        ),
    )

    def complete() -> None:
        head, _, writable = chains.pop()
        ring.put("device", "answer", writable, ANSWER)
        device.complete_each([(head, len(ANSWER))])

    yield Step(
        "The device answers",
        "The device writes its answer into the buffer, then a used element: the head, and how many bytes it wrote. "
        "The length is what was written, not the size of the buffer.",
        "2.7.8",
        complete,
        question=Question(
            "The buffer for the answer has 16 bytes, the answer 6. What will used.ring[0].len be?",
            ("0", "6", "16", "22"),
            lambda frame: frame.value("used.ring[0].len"),
        ),
    )
    yield Step(
        "The device publishes it",
        "Again the index comes last, then a fence, then the load of the flag by which the driver suppresses "
        "interrupts.",
        "2.7.8.2",
        device.publish,
        lambda call: f"The device must notify the driver: {'yes' if call else 'no'}.",
    )
    yield Step(
        "The driver gets it back",
        "The driver reads the used element. It looks the chain up in its own lists, never in the descriptor table, "
        "because the device could have written there. The two descriptors are free again; memory does not change.",
        "2.7.14",
        partial(driver.get_each, 8),
        lambda done: f"Token {done[0][0]} is back, with {done[0][1]} bytes.",
        yes_or_no("Does the driver store anything to free the descriptors?", lambda frame: frame.changes),
    )

    def turn() -> None:
        for token in (2, 3, 4):
            driver.add([(question[0], len(QUESTION))], [], token)
            driver.publish()
            device.complete_each([(head, 0) for head, _, _ in device.getdescs(8)])
            device.publish()
            driver.get_each(8)

    yield Step(
        "Three more requests",
        "Indices count requests, and never go back: idx is 4 now, although the ring has the entries 0 to 3.",
        "2.7.6",
        turn,
    )

    def next_lap() -> None:
        driver.add([(question[0], len(QUESTION))], [], 5)
        driver.publish()

    yield Step(
        "The fifth request",
        "The entry is the index modulo the size of the queue, which is a power of two for that reason. The index "
        "itself is a 16-bit number that wraps at 65536.",
        "2.7.6",
        next_lap,
        question=Question(
            "Into which entry does the driver put the head?",
            tuple(f"avail.ring[{index}]" for index in range(ring.num)),
            lambda frame: next(name for name in frame.stores("driver") if name.startswith("avail.ring")),
        ),
    )


LESSON = Lesson("split", "One request through a split ring", lambda: nullcontext(RingMachine("split")), steps)
