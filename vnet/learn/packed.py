"""Lesson: the packed ring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

from rings.chain import Chain
from vnet.learn.ring_machine import RingMachine
from vnet.learn.step import Lesson, Question, Step, yes_or_no

__all__ = ["LESSON"]


def steps(ring: RingMachine) -> Iterator[Step]:
    """Yield one request, then a chain that crosses the end of the ring, where the wrap counters flip."""
    driver, device = ring.driver, ring.device
    question, answer = ring.new_buffer("question", 16, "driver"), ring.new_buffer("answer", 16, "device")
    chains: list[Chain] = []

    def take() -> None:
        chains.extend(device.getdescs(8))

    def complete() -> bool:
        head, _, writable = chains.pop()
        ring.put("device", "answer", writable, b"HELLO")
        device.complete_each([(head, 5)])
        return device.publish()

    yield Step(
        "The device waits",
        "A packed ring has one ring of descriptors, to which both sides write, and two words for event suppression. "
        "There are no indices: each side knows its position and a wrap counter, both private, which begin at "
        "descriptor 0 and 1. The flags AVAIL and USED of a descriptor tell whose it is.",
        "2.8.1",
        device.notify_enable,
        lambda left: f"Work is left: {left}.",
    )

    def add() -> None:
        ring.fill("question", question, b"hello")
        driver.add([(question[0], 5)], [answer], 1)

    yield Step(
        "The driver adds a chain",
        "A chain is in consecutive descriptors; NEXT says that another follows. The buffer id is in the last one. "
        "The driver holds back the flags of the first descriptor: as long as they are old, the chain is not available.",
        "2.8.6",
        add,
        lambda _: "desc[1] says AVAIL already, but the device looks at desc[0] first.",
        yes_or_no(
            "Does desc[0].flags change in this step?",
            lambda frame: "desc[0].flags" in [cell.name for cell in frame.changes],
        ),
    )
    yield Step(
        "The driver makes it available",
        "One store of one word publishes the whole chain. AVAIL equals the driver's wrap counter (1), USED does not. "
        "A fence, then the load of the device's event suppression.",
        "2.8.21",
        driver.publish,
        lambda kick: f"The driver must notify the device: {'yes' if kick else 'no'}.",
        Question(
            "Which word decides that the chain is available?",
            ("desc[0].addr", "desc[0].flags", "desc[1].flags", "device_event.flags"),
            lambda frame: frame.stores("driver")[-1],
        ),
    )
    yield Step(
        "The device takes the chain",
        "The device compares the flags at its position with its wrap counter, loads each word once, and maps the "
        "buffers. It does not need an index: the next descriptor says that it is not available.",
        "2.8.2",
        take,
        lambda _: f"Buffer id {chains[0][0]}: {len(chains[0][1])} buffer to read, {len(chains[0][2])} to write.",
    )
    yield Step(
        "The device uses it",
        "The device writes one used descriptor for the whole chain, over the chain's first one: the buffer id, the "
        "bytes written, and flags in which AVAIL and USED both equal its wrap counter.",
        "2.8.15",
        complete,
        lambda call: f"The device must notify the driver: {'yes' if call else 'no'}.",
        Question(
            "The chain has two descriptors. Which ones does the device overwrite?",
            ("desc[0]", "desc[1]", "desc[0] and desc[1]"),
            lambda frame: " and ".join(
                sorted({name.partition(".")[0] for name in frame.stores("device") if name.startswith("desc")})
            ),
        ),
    )
    yield Step(
        "The driver gets it back",
        "The driver finds AVAIL and USED equal to its wrap counter, and skips both descriptors of the chain, since it "
        "knows their number from its own lists.",
        "2.8.22",
        partial(driver.get_each, 8),
        lambda done: f"Token {done[0][0]} is back, with {done[0][1]} bytes.",
    )

    def to_the_end() -> None:
        driver.add([(question[0], 5)], [], 2)
        driver.publish()
        take()
        device.complete_each([(chains.pop()[0], 0)])
        device.publish()
        driver.get_each(8)

    yield Step(
        "A chain of one descriptor",
        "Descriptor 2 goes to the device and comes back. The next position is 3, the last one of the ring.",
        "2.8",
        to_the_end,
    )

    def across() -> bool:
        driver.add([(question[0], 5)], [answer], 3)
        return driver.publish()

    yield Step(
        "A chain across the end",
        "The first descriptor is number 3. The second one is number 0 again: the driver's wrap counter flips to 0, so "
        "that an available descriptor now has AVAIL clear and USED set. Old flags of the last lap can never look new.",
        "2.8.1",
        across,
        question=Question(
            "With which flags does the driver make desc[0] available?",
            ("WRITE", "WRITE AVAIL", "WRITE USED", "WRITE AVAIL USED"),
            lambda frame: frame.value("desc[0].flags"),
        ),
    )

    def use_it() -> bool:
        take()
        return complete()

    yield Step(
        "The device uses the chain across the end",
        "The used descriptor is at position 3, where the device's wrap counter is still 1: AVAIL and USED are set. "
        "Behind the chain its counter is 0, too.",
        "2.8.1",
        use_it,
        lambda call: f"The device must notify the driver: {'yes' if call else 'no'}.",
    )


LESSON = Lesson("packed", "The packed ring and its wrap counters", lambda: nullcontext(RingMachine("packed")), steps)
