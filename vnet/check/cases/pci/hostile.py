"""A driver that uses the registers of a function in a wrong way (hostile rows S03 to S13, R22, R23)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio

from vnet.check.case import Table
from vnet.check.front import NEEDS_RESET, Reaction
from vnet.check.pci import NO_VECTOR, VFIO_USER, F, PciTrial, areas, with_msix
from vnet.check.verdicts import Broken, Level

__all__ = ["PCI_HOSTILE"]

PCI_HOSTILE = Table("registers", carrier=VFIO_USER)
add = PCI_HOSTILE.add
MUST = Level.MUST
COMMON = "4.1.4.3.1"


@add("S03", "Status bits out of turn: DRIVER_OK first, FEATURES_OK left out, bits cleared", "2.1.1")
async def status_out_of_turn(trial: PciTrial) -> str:
    front = await trial.connect()
    seen = []
    for status in (4, 15, 7, 0xFF, 1, 11):
        await front.set(F.DEVICE_STATUS, status)
        seen.append(f"{status:#x} reads {await front.get(F.DEVICE_STATUS):#x}")
    await front.set_status(0)
    return ", ".join(seen)


@add("S04", "Features that change after FEATURES_OK", "2.2")
async def late_features(trial: PciTrial) -> str:
    front = await trial.up()
    await front.set(F.DRIVER_FEATURE_SELECT, 0)
    await front.set(F.DRIVER_FEATURE, 0xFFFF_FFFF)
    await trial.honest(front)
    return "served a request"


@add("S09", "Resets with requests in flight, 25 times", "2.4.1")
async def resets_in_flight(trial: PciTrial) -> str:
    front = await trial.up()
    vring = trial.main(front)
    front.note("25 times: a request, a kick, and a reset")
    for _ in range(25):
        request = trial.kind.request(front)
        vring.ring.submit(request.buffers)
        vring.kick()
        await front.set_status(0)
        before = vring.split.used_idx
        await trio.sleep(0.002)
        if vring.split.used_idx != before:
            raise Broken("used a buffer after the reset was done", MUST)
        front.arena.rewind()
        await trial.set_up_again(front)
        vring = trial.main(front)
    await trial.honest(front)
    return "served the next request"


@add("S13", "The vector of a queue changes while the device runs", "4.1.5.1.2.1")
async def vector_moves(trial: PciTrial) -> str:
    front = await with_msix(trial)
    await front.set(F.QUEUE_SELECT, trial.kind.main)
    for vector in (0, front.vectors - 1, NO_VECTOR, 0x1234):
        await front.set(F.QUEUE_MSIX_VECTOR, vector)
        await trial.honest(front)
    return "served each time"


async def changed_while_enabled(field: F, values: list[int], trial: PciTrial) -> str:
    front = await trial.up()
    await trial.honest(front)
    await front.set(F.QUEUE_SELECT, trial.kind.main)
    for value in values:
        await front.set(field, value)
    try:
        await trial.honest(front)
    except Broken:
        if (await front.get(F.DEVICE_STATUS)) & NEEDS_RESET:
            return "set NEEDS_RESET"
        return "serves the ring no longer"
    return "kept the value that runs"


for _name, _field, _values in (
    ("size", F.QUEUE_SIZE, [1, 0, 0xFFFF]),
    ("desc", F.QUEUE_DESC, [0, (1 << 64) - 16]),
    ("driver", F.QUEUE_DRIVER, [0, (1 << 64) - 2]),
    ("device", F.QUEUE_DEVICE, [0, (1 << 64) - 4]),
    ("enable", F.QUEUE_ENABLE, [0, 2, 1]),
):
    add(f"S05.{_name}", f"{_field.name.lower()} changes while the queue runs", COMMON)(
        partial(changed_while_enabled, _field, _values)
    )


@add("S06", "Every field of a queue that does not exist is written and read", COMMON)
async def fields_of_no_queue(trial: PciTrial) -> str:
    front = await trial.up()
    fields = [field for field in F if field.name.startswith("QUEUE_") and field is not F.QUEUE_SELECT]
    for index in (await front.get(F.NUM_QUEUES), 0xFFFF):
        await front.set(F.QUEUE_SELECT, index)
        for field in fields:
            await front.set(field, 1)
            await front.get(field)
    await trial.honest(front)
    return "served a request"


@add("S07", "Notifications of queues that do not exist, at odd places, and of every size", "4.1.5.2")
async def notifications_of_nothing(trial: PciTrial) -> str:
    front = await trial.up()
    bar, offset = front.doorbells[trial.kind.main]
    end = front.sizes[bar]
    front.note(f"writes of 1, 2 and 4 bytes behind BAR {bar}+{offset:#x}")
    for place in (offset + 1, offset + 2, offset + 0x100, end - 4):
        for size in (1, 2, 4):
            front.post(bar, place, b"\xff" * size)
    await trial.honest(front)
    return "served a request"


@add("S07.stopped", "Notifications of a queue that is not enabled", "4.1.5.2")
async def notifications_of_stopped(trial: PciTrial) -> str:
    front = await trial.negotiated()
    await front.accept()
    for index in trial.kind.rings:
        await front.set_up(front.new_ring(index, trial.kind.size))
    vring = trial.main(front)
    front.submit(vring, trial.kind.request(front).buffers)
    await front.driver_ok()
    vring.kick()
    if await front.reaction(vring, 0.2) is Reaction.ANSWERED:
        raise Broken("used a buffer of a queue that is not enabled", MUST)
    return "left it alone"


@add(
    "S08.device",
    "Device configuration: accesses of 3 and of 64 bytes, at odd places, and writes of all of it",
    "4.1.3.1",
)
async def odd_accesses(trial: PciTrial) -> str:
    front = await trial.up()
    for offset, size in ((0, 3), (1, 2), (1, 4), (3, 8), (0, 64)):
        await front.config_at(offset, size)
    await front.write_config(4, b"\xff" * 4)
    await trial.honest(front)
    return "served a request"


async def bad_queue_size(num: int, trial: PciTrial) -> str:
    front = await trial.negotiated()
    await front.accept()
    most = await front.get_selected(trial.kind.main, F.QUEUE_SIZE)
    vring = front.new_ring(trial.kind.main, 4)
    await front.set_up(vring)
    await front.set(F.QUEUE_SIZE, num)
    await front.set(F.QUEUE_ENABLE, 1)
    await front.driver_ok()
    front.submit(vring, trial.kind.request(front).buffers[:1])
    vring.kick()
    seen = await front.reaction(vring, 0.2)
    return f"{seen.value}; the size is {await front.get(F.QUEUE_SIZE)}, at most {most}"


for _num in (0, 3, 0xFFFF):
    add(f"R23.register{_num}", f"queue_size of {_num} descriptors", "2.7")(partial(bad_queue_size, _num))


async def bad_place(change: Callable[[int, int], int], trial: PciTrial) -> str:
    """Enable a queue whose areas are where ``change`` says, of the address of each and the end of the memory."""
    front = await trial.negotiated()
    await front.accept()
    vring = front.new_ring(trial.kind.main, trial.kind.size)
    await front.set_up(vring)
    for field, addr in areas(vring.ring):
        await front.set(field, change(addr, front.arena.end))
    await front.set(F.QUEUE_ENABLE, 1)
    await front.driver_ok()
    vring.kick()
    return (await front.reaction(vring, 0.2)).value


for _name, _title, _change in (
    ("unaligned", "unaligned areas", lambda addr, end: addr + 1),
    ("outside", "areas outside of the memory", lambda addr, end: end),
    ("end", "areas that end outside of the memory", lambda addr, end: end - 16),
    ("zero", "areas at 0", lambda addr, end: 0),
    ("far", "areas at the end of all addresses", lambda addr, end: (1 << 64) - 16),
):
    add(f"R22.register-{_name}", f"A queue with {_title}", COMMON)(partial(bad_place, _change))
