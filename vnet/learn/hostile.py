"""Lesson: chains of a hostile driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from drivers.transports.pci.registers import Common
from rings.layout import DESC_SIZE, NEXT
from rings.memory import Addr
from vnet.learn.function_machine import FRAME, HEADER, NUM, FunctionMachine, open_function, status_names
from vnet.learn.step import Frame, Lesson, Question, Step, yes_or_no

__all__ = ["LESSON"]

SIZE = len(HEADER) + len(FRAME)
WILD = 0xDEAD_0000
"""An address without memory."""


def steps(machine: FunctionMachine) -> Iterator[Step]:
    """Yield a loop, a descriptor out of range, an unreachable address; after each the device recovers by a reset."""

    def latched(_: object) -> str:
        reason = machine.device.failures[-1] if machine.device.failures else "none"
        return f"device_status is {status_names(machine.device.status)}. The device's reason: {reason}."

    def needs_reset(frame: Frame) -> bool:
        return "NEEDS_RESET" in frame.value("device_status")

    def reset() -> Step:
        return Step(
            "Reset",
            "Nothing but a reset helps: the driver writes 0, the device forgets queue and features.",
            "2.4",
            lambda: machine.write(Common.DEVICE_STATUS, 0),
            lambda _: f"device_status is {status_names(machine.device.status)}.",
            yes_or_no("Does a reset clear NEEDS_RESET?", lambda frame: not needs_reset(frame)),
        )

    def bring_up(title: str) -> Step:
        return Step(
            title,
            "The driver brings the device up as in the lesson bring-up, with a ring of four descriptors.",
            "3.1.1",
            machine.bring_up,
            lambda _: f"device_status is {status_names(machine.device.status)}.",
        )

    yield bring_up("Bring-up")
    yield Step(
        "A loop",
        "Descriptor 0 says NEXT, and that the next one is descriptor 0. A device that followed would never end.",
        "2.7.5.2",
        lambda: _offer(machine, 0, lambda: _describe(machine, 0, machine.frame, SIZE, NEXT, 0)),
        latched,
        Question(
            f"The ring has {NUM} descriptors. How often does the device load descriptor 0?",
            ("once", f"{NUM} times", f"{NUM + 1} times", "for ever"),
            _loads,
        ),
    )
    yield Step(
        "A good chain, too late",
        "The driver goes on as if nothing had happened, with a good chain and the doorbell. The queue is latched: it "
        "reads as empty. A ring that broke one rule cannot be trusted in any other.",
        "2.1.2",
        lambda: _offer(machine, 1, lambda: _describe(machine, 1, machine.frame, SIZE, 0, 0)),
        latched,
        yes_or_no("Does the device take this chain?", lambda frame: any(one.actor == "device" for one in frame.trace)),
    )
    yield reset()
    yield bring_up("Up again")
    yield Step(
        "A head out of range",
        f"The available ring names descriptor 9 of {NUM}. Behind the table is other memory: a device that did not "
        "check would take it for a descriptor.",
        "2.7.6",
        lambda: _offer(machine, 9, lambda: None),
        latched,
        yes_or_no(
            "Does the device load anything from the descriptor table?",
            lambda frame: any(
                name.startswith("desc") for one in frame.trace for name in one.names if one.act == "load"
            ),
        ),
    )
    yield reset()
    yield bring_up("Up for the last time")
    yield Step(
        "An unreachable address",
        f"The descriptor is sound, but at {WILD:#x} the driver's host has no memory. Neither side need have lied: the "
        "access just did not happen. The device cannot answer such a chain, so it stops in the same way.",
        "2.7.5.1",
        lambda: _offer(machine, 0, lambda: _describe(machine, 0, WILD, SIZE, 0, 0)),
        latched,
        yes_or_no("Does the device set NEEDS_RESET here, too?", needs_reset),
    )
    yield reset()


def _describe(machine: FunctionMachine, index: int, addr: int, size: int, flags: int, following: int) -> None:
    """Write a descriptor without any check."""
    words = machine.driver_memory.pin(Addr(machine.addrs.desc + DESC_SIZE * index), DESC_SIZE, "Q")
    words[0] = addr
    words[1] = size | flags << 32 | following << 48
    machine.driver_memory.unpin(words)


def _offer(machine: FunctionMachine, head: int, describe: Callable[[], None]) -> None:
    """Write a head into the available ring without any check, move the index, and notify the device."""
    describe()
    words = machine.driver_memory.pin(machine.addrs.driver, 4 + 2 * NUM, "H")
    index = machine.memory.view(machine.addrs.driver, 4)[2]
    words[2 + index % NUM] = head
    words[1] = index + 1
    machine.driver_memory.unpin(words)
    machine.driver_memory.fence()
    machine.ring_doorbell()


def _loads(frame: Frame) -> str:
    count = sum(one.act == "load" and "desc[0].addr" in one.names for one in frame.trace)
    return "once" if count == 1 else f"{count} times"


LESSON = Lesson("hostile", "A driver that breaks the rules, and what the device does", open_function, steps)
