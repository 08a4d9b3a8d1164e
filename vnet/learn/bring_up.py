"""Lesson: a virtio-pci device is brought up register by register."""

from __future__ import annotations

from collections.abc import Iterator

import trio

from drivers.transports.pci.registers import CfgType, Common
from rings.features import RingFeature, mask
from rings.split.virtqueue import SplitVirtqueue
from rings.status import Status
from vnet.learn.function_machine import FRAME, HEADER, FunctionMachine, open_function, status_names
from vnet.learn.step import Lesson, Question, Step, yes_or_no

__all__ = ["LESSON"]

NET_MAC = 1 << 5
"""VIRTIO_NET_F_MAC."""
ACCEPTED = mask((RingFeature.VERSION_1,)) | NET_MAC


def steps(machine: FunctionMachine) -> Iterator[Step]:
    """Yield the initialization of VIRTIO 1.4 section 3.1.1, then one frame, then a reset."""
    rings: list[SplitVirtqueue] = []

    yield Step(
        "Find the structures",
        "The function's configuration space has a vendor capability for each virtio structure: which BAR, which "
        "offset, how long. The driver uses the first of each kind that it can map.",
        "4.1.4",
        lambda: machine.structures,
        lambda structures: (
            "; ".join(
                f"{CfgType(kind).name} in BAR {at.bar} at {at.offset:#x}" for kind, at in sorted(structures.items())
            )
            + "."
        ),
    )
    yield Step(
        "Reset",
        "The driver writes 0 to device_status and reads it until it is 0: only then has the device stopped using "
        "memory.",
        "3.1.1",
        lambda: machine.set_status(0),
        lambda status: f"device_status reads {status_names(status)}.",
    )

    def acknowledge() -> int:
        machine.set_status(Status.ACKNOWLEDGE)
        return machine.set_status(Status.ACKNOWLEDGE | Status.DRIVER)

    yield Step(
        "ACKNOWLEDGE and DRIVER",
        "The driver has noticed the device, and knows how to drive it. Bits are only added; a single one is never "
        "cleared, except by a reset of all.",
        "2.1",
        acknowledge,
        lambda status: f"device_status reads {status_names(status)}.",
    )

    def offered() -> int:
        features = 0
        for select in (0, 1):
            machine.write(Common.DEVICE_FEATURE_SELECT, select)
            features |= machine.read(Common.DEVICE_FEATURE) << 32 * select
        return features

    yield Step(
        "Read the offered features",
        "The features are one number of 64 bits and more, seen through a window of 32 bits.",
        "4.1.4.3",
        offered,
        lambda features: f"The device offers {features:#x}; bit 32 is VERSION_1, bit 5 the MAC address.",
    )

    def refuse() -> int:
        machine.accept(NET_MAC)
        return machine.set_status(machine.device.status | Status.FEATURES_OK)

    yield Step(
        "A set that the device refuses",
        "This driver forgets VERSION_1. The device does not answer with an error: it leaves FEATURES_OK clear, so a "
        "driver must read device_status again.",
        "2.2.2",
        refuse,
        lambda status: f"device_status reads {status_names(status)}.",
        yes_or_no(
            "The driver accepts MAC alone. Is FEATURES_OK set when it reads device_status?",
            lambda frame: frame.result & Status.FEATURES_OK,
        ),
    )

    def accept() -> int:
        machine.accept(ACCEPTED)
        return machine.set_status(machine.device.status | Status.FEATURES_OK)

    yield Step(
        "A set that the device accepts",
        "VERSION_1 and MAC. From now on the features are fixed, and with them the format of the rings.",
        "3.1.1",
        accept,
        lambda status: f"device_status reads {status_names(status)}.",
        yes_or_no("Is FEATURES_OK set now?", lambda frame: frame.result & Status.FEATURES_OK),
    )

    def set_up() -> None:
        machine.enable_interrupts()
        rings.append(machine.new_ring())
        machine.set_up_queue()

    yield Step(
        "Set up a queue",
        "The driver selects queue 1 (transmitq1), reads the largest size and chooses its own, writes the addresses of "
        "the three areas and an interrupt vector, and reads the vector back: NO_VECTOR would mean that the device has "
        "none. queue_enable comes last.",
        "4.1.5.1.3",
        set_up,
        question=Question(
            "Which register does the driver write last?",
            ("queue_size", "queue_desc", "queue_msix_vector", "queue_enable"),
            lambda frame: [one.names[0] for one in frame.trace if one.act == "write"][-1],
        ),
    )
    yield Step(
        "DRIVER_OK",
        "The device is live. It enables notifications of the queue and looks whether there is work, before it waits.",
        "3.1.1",
        lambda: machine.set_status(machine.device.status | Status.DRIVER_OK),
        lambda status: f"device_status reads {status_names(status)}.",
        yes_or_no(
            "Does the device touch the ring before the first doorbell?",
            lambda frame: any(one.actor == "device" for one in frame.trace),
        ),
    )

    def add() -> bool:
        machine.fill_frame()
        rings[0].add([(machine.frame, len(HEADER) + len(FRAME))], [], 1)
        return rings[0].publish()

    yield Step(
        "A frame",
        "The buffer has a virtio_net_hdr of 12 bytes and an Ethernet frame. The device may not look yet: nothing has "
        "told it.",
        "5.1.6.2",
        add,
        lambda kick: f"The driver must notify the device: {'yes' if kick else 'no'}.",
    )

    def arrived(_: object) -> str:
        try:
            header, frame = machine.port.receive_nowait()
        except trio.WouldBlock:
            return "No frame arrived at the device's port."
        same = "as sent" if frame == FRAME else "not as sent"
        return f"At the device's port: a header of {len(header)} bytes and a frame of {len(frame)}, {same}."

    yield Step(
        "The doorbell",
        "The notification address of a queue is the structure's offset + queue_notify_off * multiplier. The device "
        "wakes, takes the chain through its window into the driver's memory, sends the frame from there, and "
        "interrupts.",
        "4.1.4.4",
        machine.ring_doorbell,
        arrived,
        Question(
            "What does the device write in used.idx?", ("0", "1", "2", "4"), lambda frame: frame.value("used.idx")
        ),
    )
    yield Step(
        "The driver gets its buffer back",
        "The interrupt is a message: a write into the host's memory range for interrupts, which the link keeps behind "
        "the used index.",
        "4.1.5.3",
        lambda: rings[0].get_each(8),
        lambda done: f"Token {done[0][0]} is back; the device wrote {done[0][1]} bytes.",
    )
    yield Step(
        "Reset again",
        "The status is 0 once the device's tasks have ended. Queue and features are forgotten.",
        "2.4",
        lambda: machine.write(Common.DEVICE_STATUS, 0),
        lambda _: f"device_status is {status_names(machine.device.status)}.",
    )


LESSON = Lesson("bring-up", "Bring-up of a virtio-pci device by its registers", open_function, steps)
