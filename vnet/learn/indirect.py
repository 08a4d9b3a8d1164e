"""Lesson: indirect descriptor tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

from rings.chain import Chain
from vnet.learn.ring_machine import RingMachine
from vnet.learn.step import Lesson, Question, Step

__all__ = ["LESSON"]


def steps(ring: RingMachine) -> Iterator[Step]:
    """Yield chains of three buffers that take one descriptor of the ring each."""
    driver, device = ring.driver, ring.device
    header = ring.new_buffer("header", 16, "driver")
    data, status = ring.new_buffer("data", 16, "driver"), ring.new_buffer("status", 2, "device")
    chains: list[Chain] = []

    def add(token: int) -> bool:
        driver.add([header, data], [status], token)
        return driver.publish()

    def first() -> int:
        ring.fill("header", header, b"write")
        ring.fill("data", data, b"payload")
        add(0)
        return driver.num_free

    yield Step(
        "A chain of three in a table",
        "The three descriptors are in a table of their own, anywhere in memory, linked by their places in that table. "
        "The ring has one descriptor: address and bytes of the table, and INDIRECT. Neither NEXT nor WRITE is set "
        "beside INDIRECT.",
        "2.7.5.3",
        first,
        lambda free: f"Free descriptors of the ring: {free} of {ring.num}.",
        Question(
            f"The ring has {ring.num} descriptors. How many are free after this chain of three?",
            ("0", "1", "2", "3"),
            lambda frame: str(frame.result),
        ),
    )

    def fill() -> int:
        for token in range(1, ring.num):
            add(token)
        return ring.num - driver.num_free

    yield Step(
        "The ring is full of tables",
        "Without tables, a ring of four descriptors holds one such chain. With them it holds four: a queue's size "
        "counts requests, whatever the number of their buffers. Other chains have tables of their own, behind the "
        "first one.",
        "2.7.5.3",
        fill,
        lambda chains: f"Chains in the ring: {chains}.",
        Question("How many chains of three fit into the ring?", ("1", "2", "3", "4"), lambda frame: str(frame.result)),
    )
    yield Step(
        "The device takes the first chain",
        "The device loads the descriptor, sees INDIRECT, and copies the table in one read. All checks and the walk use "
        "the copy: the driver could rewrite the table meanwhile. Then it maps the three buffers.",
        "2.7.5.3.2",
        lambda: chains.extend(device.getdescs(1)),
        lambda _: f"Chain of head {chains[0][0]}: {len(chains[0][1])} buffers to read, {len(chains[0][2])} to write.",
        Question(
            "How often does the device read the table?",
            ("once", "twice", "three times"),
            lambda frame: ("once", "twice", "three times")[
                sum(one.act == "map" and one.text.startswith("indirect table") for one in frame.trace) - 1
            ],
        ),
    )

    def complete() -> bool:
        head, _, writable = chains.pop()
        ring.put("device", "status", writable, b"OK")
        device.complete_each([(head, 2)])
        return device.publish()

    yield Step(
        "The device gives it back",
        "The used element names the head in the ring. The table itself is never mentioned.",
        "2.7.8",
        complete,
        lambda call: f"The device must notify the driver: {'yes' if call else 'no'}.",
    )
    yield Step(
        "The driver gets it back",
        "One descriptor of the ring is free again, and with it the table that belongs to it: no memory is allocated "
        "for a request.",
        "2.7.14",
        partial(driver.get_each, 8),
        lambda done: f"Token {done[0][0]} is back, with {done[0][1]} bytes; free descriptors: {driver.num_free}.",
    )


LESSON = Lesson("indirect", "Indirect descriptor tables", lambda: nullcontext(RingMachine("split", tables=3)), steps)
