"""The virtio structures of a function: what their capabilities say (VIRTIO 1.4 section 4.1.4)."""

from __future__ import annotations

from functools import partial

from vnet.check.case import Table
from vnet.check.pci import VFIO_USER, F, Kind, PciFront, PciTrial, Structure
from vnet.check.verdicts import Broken, Level, Skipped
from vnet.vfio_user.constants import Region

__all__ = ["PCI_STRUCTURES"]

PCI_STRUCTURES = Table("pci", carrier=VFIO_USER)
add = PCI_STRUCTURES.add
MUST = Level.MUST
NOTIFICATION_DATA = 38
CAP_LEN = {Kind.COMMON: 16, Kind.NOTIFY: 20, Kind.ISR: 16, Kind.DEVICE: 16, Kind.PCI_CFG: 20, Kind.SHARED_MEMORY: 24}
"""Least cap_len of each type of structure."""
LEAST = {Kind.COMMON: 0x38, Kind.ISR: 1, Kind.NOTIFY: 2}
"""Least bytes of structures."""
IN_BAR = (Kind.COMMON, Kind.NOTIFY, Kind.ISR, Kind.DEVICE)


def _show(one: Structure) -> str:
    return f"at {one.at:#x}: type {one.kind}, BAR {one.bar}, {one.length:#x} bytes at {one.offset:#x}"


async def present(kind: Kind, trial: PciTrial) -> str:
    front = await trial.connect()
    if kind is Kind.DEVICE and not trial.kind.configured:
        raise Skipped(f"{trial.kind.name} devices have no configuration")
    structures = front.structures(kind)
    if not structures:
        raise Broken("there is none")
    return f"{len(structures)}, the first {_show(structures[0])}"


for _id, _kind, _title, _section in (
    ("PCI-DEV-11", Kind.COMMON, "common configuration", "4.1.4.3.1"),
    ("PCI-DEV-26", Kind.NOTIFY, "notification structure", "4.1.4.4.1"),
    ("PCI-DEV-35", Kind.ISR, "ISR status", "4.1.4.5.1"),
    ("PCI-DEV-40", Kind.DEVICE, "device configuration, if the type has one", "4.1.4.6"),
    ("PCI-DEV-47", Kind.PCI_CFG, "access to BARs by configuration space", "4.1.4.9.1"),
):
    add(_id, f"There is a capability for {_title}", _section, MUST)(partial(present, _kind))


@add("PCI-DEV-8", "cap_len covers all fields of a capability", "4.1.4.2", MUST)
async def lengths(trial: PciTrial) -> str:
    front = await trial.connect()
    for one in front.structures(*CAP_LEN):
        if one.size < CAP_LEN[Kind(one.kind)] or one.at + one.size > len(front.space):
            raise Broken(f"cap_len is {one.size}, and {CAP_LEN[Kind(one.kind)]} is least ({_show(one)})")
    return f"{len(front.structures(*CAP_LEN))} capabilities"


@add("PCI-DEV-8.inside", "Each structure lies in a BAR, and is as large as its fields", "4.1.4.2", MUST)
async def inside(trial: PciTrial) -> str:
    front = await trial.connect()
    for one in front.structures(*IN_BAR):
        if one.bar > 5:
            continue  # reserved: a driver ignores it
        if one.offset + one.length > front.sizes[one.bar]:
            raise Broken(f"BAR {one.bar} has {front.sizes[one.bar]:#x} bytes ({_show(one)})")
        if one.length < LEAST.get(Kind(one.kind), 1):
            raise Broken(f"{LEAST[Kind(one.kind)]:#x} bytes are least ({_show(one)})")
    return f"{len(front.structures(*IN_BAR))} structures"


async def aligned(kind: Kind, alignment: int, trial: PciTrial) -> str:
    return judge_alignment(await trial.connect(), kind, alignment)


def judge_alignment(front: PciFront, kind: Kind, alignment: int) -> str:
    """Raise Broken if the offset of a structure is no multiple of ``alignment``."""
    for one in front.structures(kind):
        if one.offset % alignment:
            raise Broken(_show(one))
    return "it is"


add("PCI-DEV-10", "The offset of the common configuration is a multiple of 4", "4.1.4.3.1", MUST)(
    partial(aligned, Kind.COMMON, 4)
)
add("PCI-DEV-27", "The offset of the notification structure is even", "4.1.4.4.1", MUST)(
    partial(aligned, Kind.NOTIFY, 2)
)
add("PCI-DEV-41", "The offset of the device configuration is a multiple of 4", "4.1.4.6.1", MUST)(
    partial(aligned, Kind.DEVICE, 4)
)


# Notification


async def with_data(trial: PciTrial) -> PciFront:
    """Return a connection to a function that offers NOTIFICATION_DATA. Raises Skipped."""
    front = await trial.connect()
    if not await front.read_features() >> NOTIFICATION_DATA & 1:
        raise Skipped("NOTIFICATION_DATA is not offered")
    return front


async def multiplier(least: int, trial: PciTrial) -> str:
    front = await (with_data(trial) if least == 4 else trial.connect())
    value = front.structure(Kind.NOTIFY).multiplier
    if value and (value & (value - 1) or value < least):
        raise Broken(f"it is {value}")
    return f"it is {value}"


async def room(size: int, trial: PciTrial) -> str:
    """Check that the notification structure has room for a write of ``size`` bytes for every queue."""
    front = await (with_data(trial) if size == 4 else trial.connect())
    place = front.structure(Kind.NOTIFY)
    count = await front.get(F.NUM_QUEUES)
    for index in range(count):
        off = await front.get_selected(index, F.QUEUE_NOTIFY_OFF)
        if off * place.multiplier + size > place.length:
            raise Broken(f"queue {index} is notified at {off} * {place.multiplier}, and it has {place.length:#x} bytes")
    return f"{count} queues"


async def length(size: int, trial: PciTrial) -> str:
    front = await (with_data(trial) if size == 4 else trial.connect())
    place = front.structure(Kind.NOTIFY)
    if place.length < size:
        raise Broken(_show(place))
    return f"it has {place.length:#x} bytes"


NOTIFY = "4.1.4.4.1"
_ODD = "notify_off_multiplier is 0 or a power of two of at least"
add("PCI-DEV-28", f"{_ODD} 2", NOTIFY, MUST)(partial(multiplier, 2))
add("PCI-DEV-29", "The notification structure has at least 2 bytes", NOTIFY, MUST)(partial(length, 2))
add("PCI-DEV-30", "The notification structure has 2 bytes for every queue", NOTIFY, MUST)(partial(room, 2))
add("PCI-DEV-31", f"{_ODD} 4 with NOTIFICATION_DATA", NOTIFY, MUST)(partial(multiplier, 4))
add("PCI-DEV-33", "The notification structure has at least 4 bytes with NOTIFICATION_DATA", NOTIFY, MUST)(
    partial(length, 4)
)
add("PCI-DEV-34", "The notification structure has 4 bytes for every queue with NOTIFICATION_DATA", NOTIFY, MUST)(
    partial(room, 4)
)


@add("PCI-DEV-32", "The offset of the notification structure is a multiple of 4 with NOTIFICATION_DATA", NOTIFY, MUST)
async def notify_aligned(trial: PciTrial) -> str:
    return judge_alignment(await with_data(trial), Kind.NOTIFY, 4)


# Shared memory and vendor data


@add("PCI-DEV-42", "Shared memory lies in its BAR", "4.1.4.7.1", MUST)
async def shared_memory(trial: PciTrial) -> str:
    front = await trial.connect()
    regions = shared(front)
    for one in regions:
        low, high = (int.from_bytes(front.space[one.at + at : one.at + at + 4], "little") for at in (16, 20))
        offset, size = one.offset | low << 32, one.length | high << 32
        if one.bar > 5 or offset + size > front.sizes[one.bar]:
            raise Broken(f"{size:#x} bytes at {offset:#x} of BAR {one.bar}, of {front.sizes.get(one.bar, 0):#x}")
    return f"{len(regions)} regions"


@add("PCI-DEV-43", "Each shared memory region has an id of its own", "4.1.4.7.1", MUST)
async def shared_memory_ids(trial: PciTrial) -> str:
    ids = [one.ident for one in shared(await trial.connect())]
    if len(set(ids)) != len(ids):
        raise Broken(f"their ids are {ids}")
    return f"ids {ids}"


def shared(front: PciFront) -> list[Structure]:
    return front.need_structures(Kind.SHARED_MEMORY, "shared memory")


@add("PCI-DEV-45", "The length of a vendor data capability is a multiple of 4", "4.1.4.8.1", MUST)
async def vendor_length(trial: PciTrial) -> str:
    front = await trial.connect()
    for one in vendors(front):
        if one.size % 4:
            raise Broken(f"cap_len is {one.size} at {one.at:#x}")
    return "it is"


@add("PCI-DEV-44", "The vendor id of a vendor data capability is not 0x1af4", "4.1.4.8.1", MUST)
async def vendor_id(trial: PciTrial) -> str:
    front = await trial.connect()
    for one in vendors(front):
        if (ident := int.from_bytes(front.space[one.at + 4 : one.at + 6], "little")) == 0x1AF4:
            raise Broken(f"it is {ident:#x} at {one.at:#x}")
    return "it is not"


def vendors(front: PciFront) -> list[Structure]:
    return front.need_structures(Kind.VENDOR, "vendor data capability")


# Access by configuration space

BAR_AT, OFFSET_AT, LENGTH_AT, DATA_AT = 4, 8, 12, 16
"""Fields of the access capability, from its beginning."""


async def aim(front: PciFront, bar: int, offset: int, size: int) -> int:
    """Write the place that the access capability reaches; return where its data are. Raises PeerError."""
    at = front.structure(Kind.PCI_CFG).at
    await front.config_write(at + BAR_AT, 1, bar)
    await front.config_write(at + OFFSET_AT, 4, offset)
    await front.config_write(at + LENGTH_AT, 4, size)
    return at + DATA_AT


@add("PCI-DEV-49", "A read of pci_cfg_data is a read of the BAR", "4.1.4.9.1", MUST)
async def read_by_config(trial: PciTrial) -> str:
    front = await trial.connect()
    common = front.structure(Kind.COMMON)
    for field in (F.NUM_QUEUES, F.DEVICE_FEATURE, F.DEVICE_STATUS):
        offset, size = field.value
        direct = await front.get(field)
        data = await aim(front, common.bar, common.offset + offset, size)
        value = await front.config_read(data, size)
        if value != direct:
            raise Broken(f"{field.name.lower()} is {value:#x} there, and {direct:#x} in the BAR")
    return "three fields"


@add("PCI-DEV-48", "A write of pci_cfg_data is a write of the BAR", "4.1.4.9.1", MUST)
async def write_by_config(trial: PciTrial) -> str:
    front = await trial.connect()
    common = front.structure(Kind.COMMON)
    offset, size = F.DRIVER_FEATURE_SELECT.value
    for select in (1, 0):
        data = await aim(front, common.bar, common.offset + offset, size)
        await front.config_write(data, size, select)
        value = await front.get(F.DRIVER_FEATURE_SELECT)
        if value != select:
            raise Broken(f"driver_feature_select is {value:#x} after {select} was written there")
    return "as it must be"


@add("S08.cfg", "An access by configuration space to an impossible place", "4.1.4.9")
async def access_nowhere(trial: PciTrial) -> str:
    front = await trial.connect()
    bar = front.structure(Kind.COMMON).bar
    for place in (
        (7, 0, 4),
        (bar, 0xFFFF_FFFC, 4),
        (bar, 0xFFFF_FFFF, 4),
        (bar, 0, 0),
        (bar, 0, 0xFFFF_FFFF),
        (bar, 1, 4),
    ):
        data = await aim(front, *place)
        await front.config_read(data, 4)
        await front.config_write(data, 4, 0xFFFF_FFFF)
    await front.set_status(0)
    return "answered all accesses"


@add("S08.space", "Reads and writes of the configuration space of every size and place", "4.1.1")
async def every_register(trial: PciTrial) -> str:
    front = await trial.connect()
    end = front.sizes[Region.CONFIG]
    for size in (1, 2, 4):
        for offset in range(0, min(end, 256), size):
            await front.config_read(offset, size)
    for offset in (end - 4, end - 1):
        await front.config_read(offset, end - offset)
    return f"{end} bytes"
