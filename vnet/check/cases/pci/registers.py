"""The common configuration of a function (VIRTIO 1.4 section 4.1.4.3)."""

from __future__ import annotations

from functools import partial

from vnet.check.case import Table
from vnet.check.front import RING_PACKED
from vnet.check.pci import NO_VECTOR, VFIO_USER, F, PciFront, PciTrial, with_msix
from vnet.check.verdicts import Broken, Level, Skipped

__all__ = ["PCI_REGISTERS"]

PCI_REGISTERS = Table("registers", carrier=VFIO_USER)
add = PCI_REGISTERS.add
MUST = Level.MUST
COMMON = "4.1.4.3.1"
RING_RESET = 40


# Features


@add("PCI-DEV-12", "device_feature shows the bits of each device_feature_select, and 0 beyond the last", COMMON, MUST)
async def offered_words(trial: PciTrial) -> str:
    front = await trial.connect()
    words = []
    for select in (0, 1, 0, 1, 4, 0x8000_0000, 0xFFFF_FFFF):
        await front.set(F.DEVICE_FEATURE_SELECT, select)
        words.append(await front.get(F.DEVICE_FEATURE))
    if words[:2] != words[2:4]:
        raise Broken(f"words 0 and 1 are {words[0]:#x} and {words[1]:#x}, then {words[2]:#x} and {words[3]:#x}")
    if any(words[4:]):
        raise Broken(f"the words of bits that do not exist are {', '.join(map(hex, words[4:]))}")
    return f"words {words[0]:#x} and {words[1]:#x}"


@add("PCI-DEV-13", "driver_feature reads back what was written for each driver_feature_select", COMMON, MUST)
async def accepted_words(trial: PciTrial) -> str:
    front = await trial.negotiated()
    features = front.features
    await front.write_features(features)
    for select in (1, 0, 2):
        await front.set(F.DRIVER_FEATURE_SELECT, select)
        value = await front.get(F.DRIVER_FEATURE)
        if value != features >> 32 * select & 0xFFFF_FFFF:
            raise Broken(f"word {select} reads {value:#x} after features {features:#x}")
    return "it does"


@add("FEAT-DEV-3.register", "FEATURES_OK stays clear after features that were not offered", "2.2.2", MUST)
async def not_offered(trial: PciTrial) -> str:
    front = await trial.negotiated()
    bit = next(bit for bit in (60, 50, 23, 127) if not front.offered >> bit & 1)
    if await front.write_features(front.features | 1 << bit) & 8:
        raise Broken(f"it is set after bit {bit} was accepted, which is not offered")
    return "it does"


# Status and reset


@add("PCI-DEV-15", "device_status is 0 after 0 was written, once the reset is done", COMMON, MUST)
async def reset_status(trial: PciTrial) -> str:
    front = await trial.up()
    for _ in range(3):
        await trial.honest(front)
        await front.set(F.DEVICE_STATUS, 0)
        if not await front.wait_for(F.DEVICE_STATUS, 0xFF, 0, front.patience):
            raise Broken(f"it is {await front.get(F.DEVICE_STATUS):#x} after {front.patience:g} s")
        await trial.set_up_again(front)
    return "three times"


async def judge_queues(trial: PciTrial, front: PciFront, field: F, expected: int) -> None:
    """Raise Broken if a field of a queue has another value."""
    for index in trial.kind.rings:
        value = await front.get_selected(index, field)
        if value != expected:
            raise Broken(f"{field.name.lower()} of queue {index} is {value:#x}")


async def zero_after_reset(field: F, trial: PciTrial) -> str:
    front = await trial.up()
    await trial.honest(front)
    await front.set_status(0)
    await judge_queues(trial, front, field, 0)
    return "it is"


add("PCI-DEV-16", "queue_enable is 0 after a reset", COMMON, MUST)(partial(zero_after_reset, F.QUEUE_ENABLE))
add("PCI-DEV-17", "queue_reset is 0 after a reset", COMMON, MUST)(partial(zero_after_reset, F.QUEUE_RESET))


@add("PCI-DEV-57", "No event has a vector after a reset", "4.1.5.1.2.1", MUST)
async def unmapped(trial: PciTrial) -> str:
    front = await with_msix(trial)
    await front.set_status(0)
    value = await front.get(F.CONFIG_MSIX_VECTOR)
    if value != NO_VECTOR:
        raise Broken(f"config_msix_vector is {value:#x}")
    await judge_queues(trial, front, F.QUEUE_MSIX_VECTOR, NO_VECTOR)
    return "none has"


# Queues


@add("PCI-DEV-22", "queue_size is 0 for a queue that does not exist", COMMON, MUST)
async def no_such_queue(trial: PciTrial) -> str:
    front = await trial.connect()
    count = await front.get(F.NUM_QUEUES)
    for index in {count, count + 1, 0x7FFF, 0xFFFF}:
        value = await front.get_selected(index, F.QUEUE_SIZE)
        if value:
            raise Broken(f"it is {value} for queue {index} of {count}")
    return f"there are {count} queues"


@add("PCI-DEV-23", "queue_size is 0 or a power of two", COMMON, MUST)
async def queue_sizes(trial: PciTrial) -> str:
    front = await trial.connect()
    if await front.read_features() >> RING_PACKED & 1:
        raise Skipped("RING_PACKED is offered")
    sizes = [await front.get_selected(index, F.QUEUE_SIZE) for index in range(await front.get(F.NUM_QUEUES))]
    for index, size in enumerate(sizes):
        if size & (size - 1) or size > 0x8000:
            raise Broken(f"it is {size} for queue {index}")
    return ", ".join(map(str, sizes))


@add("PCI-DEV-7", "The halves of 64-bit fields are written and read on their own", "4.1.3.2", MUST)
async def halves(trial: PciTrial) -> str:
    front = await trial.negotiated()
    await front.accept()
    await front.set(F.QUEUE_SELECT, trial.kind.main)
    for field in (F.QUEUE_DESC, F.QUEUE_DRIVER, F.QUEUE_DEVICE):
        for order in ((0, 4), (4, 0)):
            values = {0: 0x1234_5000, 4: 0x0000_6789}
            await front.set(field, 0)
            for at in order:
                await front.set_part(field, at, 4, values[at])
            read = {at: await front.get_part(field, at, 4) for at in (0, 4)}
            if read != values:
                raise Broken(f"the halves of {field.name.lower()} read {read[0]:#x} and {read[4]:#x}")
    return "three fields"


@add("PCI-DEV-14", "config_generation changes with the device configuration", COMMON, MUST)
async def generation(trial: PciTrial) -> str:
    front = await trial.up()
    before, config = await front.get(F.CONFIG_GENERATION), await front.config_at(0, 8)
    for _ in range(10):
        now, again = await front.get(F.CONFIG_GENERATION), await front.config_at(0, 8)
        after = await front.get(F.CONFIG_GENERATION)
        if again != config and after == before:
            raise Broken(f"the configuration changed from {config.hex()} to {again.hex()}, and it is {after} as before")
        before, config = now, again
    return "as it must be"


# Reset of one queue


async def with_queue_reset(trial: PciTrial) -> PciFront:
    """Return a running device with RING_RESET, its main queue selected. Raises Skipped."""
    front = await trial.up(RING_RESET)
    await trial.honest(front)
    await front.set(F.QUEUE_SELECT, trial.kind.main)
    return front


async def reset_queue(front: PciFront) -> None:
    """Reset the selected queue, and wait for the end of it. Raises Broken."""
    await front.set(F.QUEUE_RESET, 1)
    if not await front.wait_for(F.QUEUE_RESET, 0xFFFF, 0, front.patience):
        raise Broken(f"queue_reset is 1 after {front.patience:g} s")


@add("PCI-DEV-18", "queue_reset is 0 once a queue is enabled again", COMMON, MUST)
async def queue_reset_enabled(trial: PciTrial) -> str:
    front = await with_queue_reset(trial)
    await reset_queue(front)
    await front.start(front.new_ring(trial.kind.main, trial.kind.size))
    value = await front.get(F.QUEUE_RESET)
    if value:
        raise Broken(f"it is {value}")
    return "it is"


@add("PCI-DEV-19", "A queue is reset when 1 is written to queue_reset: it uses no buffer any more", COMMON, MUST)
async def queue_reset_idle(trial: PciTrial) -> str:
    front = await with_queue_reset(trial)
    await reset_queue(front)
    await trial.stays_idle(front, "of a queue that was reset", 0.1)
    return "it uses none"


@add("PCI-DEV-21", "queue_reset and queue_enable are 0 after a queue was reset", COMMON, MUST)
async def queue_reset_done(trial: PciTrial) -> str:
    front = await with_queue_reset(trial)
    await reset_queue(front)
    enabled = await front.get(F.QUEUE_ENABLE)
    if enabled:
        raise Broken(f"queue_enable is {enabled}")
    return "both are"


@add("S10", "A queue is reset and started again three times, with another size", "2.6.1", MUST)
async def queue_reset_again(trial: PciTrial) -> str:
    front = await with_queue_reset(trial)
    for num in (8, 16, 4):
        await front.set(F.QUEUE_SELECT, trial.kind.main)
        await reset_queue(front)
        await front.start(front.new_ring(trial.kind.main, num))
        await trial.honest(front)
    return "served each time"
