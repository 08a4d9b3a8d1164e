"""The configuration space of a function: header, capabilities, BARs, command, MSI-X, reset (VIRTIO 1.4 section 4.1)."""

from __future__ import annotations

import struct

import trio

from vnet.check.case import Table
from vnet.check.pci import BUS_MASTER, CAP_MSIX, COMMAND, MEMORY, VFIO_USER, F, PciFront, PciTrial
from vnet.check.verdicts import Broken, Level, Skipped
from vnet.vfio_user.constants import IrqType

__all__ = ["PCI_SPACE"]

PCI_SPACE = Table("pci", carrier=VFIO_USER)
add = PCI_SPACE.add
MUST, SHOULD = Level.MUST, Level.SHOULD
DISCOVERY, CONFORMING, VECTORS = "4.1.2.1", "4.1.1", "4.1.5.1.2.1"
VENDOR, FIRST_ID, LAST_ID = 0x1AF4, 0x1040, 0x107F
TRANSITIONAL = {1: 0x1000, 2: 0x1001, 5: 0x1002, 3: 0x1003, 8: 0x1004, 4: 0x1005}
"""Transitional PCI device ids by virtio device id."""
STATUS, BARS, HEADER_END = 0x06, 0x10, 0x40
CAPABILITY_LIST, WRITABLE = 0x10, MEMORY | BUS_MASTER
RESERVED_COMMAND, ERRORS = 0xF800, 0xF900
"""Bits of the command register that are reserved, and bits of the status register that are cleared by writing 1."""
CAP_EXPRESS, DEVICE_CAPS, DEVICE_CONTROL, CAN_FLR, FLR = 0x10, 4, 8, 1 << 28, 1 << 15
TABLE_SIZE, MSIX_ENTRY, MASKED = 0x7FF, 16, 1


def field(front: PciFront, offset: int, size: int = 2) -> int:
    """Return a field of the configuration space as it was at first."""
    return int.from_bytes(front.space[offset : offset + size], "little")


# Identity


@add("PCI-DEV-2", "The PCI vendor id is 0x1af4", DISCOVERY, MUST)
async def vendor(trial: PciTrial) -> str:
    front = await trial.connect()
    if field(front, 0) != VENDOR:
        raise Broken(f"it is {field(front, 0):#x}")
    return "it is"


@add("PCI-DEV-3", "The PCI device id is 0x1040 and the virtio device id, or its transitional one", DISCOVERY, MUST)
async def device_id(trial: PciTrial) -> str:
    front = await trial.connect()
    virtio = trial.kind.device_id
    if field(front, 2) not in (FIRST_ID + virtio, TRANSITIONAL.get(virtio)):
        raise Broken(f"it is {field(front, 2):#x}, and {FIRST_ID + virtio:#x} is right")
    return f"it is {field(front, 2):#x}"


async def modern(trial: PciTrial) -> PciFront:
    """Return a connection to a function that is not transitional. Raises Skipped."""
    front = await trial.connect()
    if field(front, 2) in TRANSITIONAL.values():
        raise Skipped("it is a transitional device")
    return front


@add("PCI-DEV-4", "The PCI device id is one of 0x1040 to 0x107f", DISCOVERY, SHOULD)
async def device_id_range(trial: PciTrial) -> str:
    front = await modern(trial)
    if not FIRST_ID <= field(front, 2) <= LAST_ID:
        raise Broken(f"it is {field(front, 2):#x}")
    return "it is"


@add("PCI-DEV-5", "The PCI revision is 1 or more", DISCOVERY, SHOULD)
async def revision(trial: PciTrial) -> str:
    front = await modern(trial)
    if not field(front, 8, 1):
        raise Broken("it is 0")
    return f"it is {field(front, 8, 1)}"


@add("PCI-DEV-6", "The PCI subsystem device id is 0x40 or more", DISCOVERY, SHOULD)
async def subsystem(trial: PciTrial) -> str:
    front = await modern(trial)
    if field(front, 0x2E) < 0x40:
        raise Broken(f"it is {field(front, 0x2E):#x}")
    return f"it is {field(front, 0x2E):#x}"


# Registers of every function


@add(
    "PCI-DEV-1.chain",
    "The list of capabilities is announced, aligned, ends, and lies behind the header",
    CONFORMING,
    MUST,
)
async def chain(trial: PciTrial) -> str:
    front = await trial.connect()
    if not field(front, STATUS) & CAPABILITY_LIST:
        raise Broken(f"the status is {field(front, STATUS):#x}, without the bit for capabilities")
    places = [one.at for one in front.capabilities()]
    if len(set(places)) != len(places):
        raise Broken(f"the list has a loop: capabilities at {', '.join(map(hex, places[:8]))}, ...")
    bad = [at for at in places if at < HEADER_END or at % 4]
    if bad:
        raise Broken(f"a capability is at {bad[0]:#x}")
    return f"{len(places)} capabilities"


READ_ONLY = ((0, 4, "ids"), (8, 4, "revision and class"), (0x2C, 4, "subsystem ids"), (0x34, 1, "capability pointer"))


@add("PCI-DEV-1.readonly", "Ids, revision, class and capability pointer are read-only", CONFORMING, MUST)
async def read_only(trial: PciTrial) -> str:
    front = await trial.connect()
    for offset, size, name in READ_ONLY:
        await front.config_write(offset, size, field(front, offset, size) ^ (1 << 8 * size) - 1)
        value = await front.config_read(offset, size)
        if value != field(front, offset, size):
            raise Broken(f"{name} at {offset:#x} changed from {field(front, offset, size):#x} to {value:#x}")
    return f"{len(READ_ONLY)} registers are as before"


@add("PCI-DEV-1.bars", "BARs show their size after ones were written, and keep an address", CONFORMING, MUST)
async def bars(trial: PciTrial) -> str:
    front = await trial.connect()
    await front.command(0)
    seen, index = [], 0
    while index < 6:
        place, size = BARS + 4 * index, front.sizes[index]
        wide = field(front, place, 4) & 7 == 4
        width, flags = (8 if wide else 4), 3 if field(front, place, 4) & 1 else 15
        await _write_bar(front, place, width, (1 << 8 * width) - 1)
        mask = await _read_bar(front, place, width)
        expected = (1 << 8 * width) - size | field(front, place, 4) & flags if size else 0
        if size & (size - 1) or mask != expected:
            raise Broken(f"BAR {index} of {size:#x} bytes reads {mask:#x} after ones, and {expected:#x} is right")
        address = (0xA000_0000 & -size) if size else 0
        await _write_bar(front, place, width, address)
        value = await _read_bar(front, place, width)
        if size and value & ~flags != address:
            raise Broken(f"BAR {index} reads {value:#x} after {address:#x} was written")
        seen += [f"BAR {index} {size:#x}"] if size else []
        index += 2 if wide else 1
    return ", ".join(seen)


async def _write_bar(front: PciFront, place: int, width: int, value: int) -> None:
    for at in range(0, width, 4):
        await front.config_write(place + at, 4, value >> 8 * at & 0xFFFF_FFFF)


async def _read_bar(front: PciFront, place: int, width: int) -> int:
    return sum([await front.config_read(place + at, 4) << 8 * at for at in range(0, width, 4)])


@add("PCI-DEV-1.command", "The bits for memory and bus mastering are writable, reserved bits are 0", CONFORMING, MUST)
async def command_bits(trial: PciTrial) -> str:
    front = await trial.connect()
    for bits in (0, MEMORY, WRITABLE, 0xFFFF):
        await front.command(bits)
        value = await front.config_read(COMMAND, 2)
        if value & WRITABLE != bits & WRITABLE or value & RESERVED_COMMAND:
            raise Broken(f"the command register reads {value:#x} after {bits:#x} was written")
    return "they are"


@add("PCI-DEV-1.status", "Writes of ones to the status register set no bit", CONFORMING, MUST)
async def status_bits(trial: PciTrial) -> str:
    front = await trial.connect()
    before = await front.config_read(STATUS, 2)
    await front.config_write(STATUS, 2, 0xFFFF)
    after = await front.config_read(STATUS, 2)
    if after != before & ~ERRORS:
        raise Broken(f"the status changed from {before:#x} to {after:#x}")
    return f"it is {after:#x}"


# MSI-X


async def msix_place(trial: PciTrial) -> tuple[PciFront, int]:
    """Return a connection and the place of the MSI-X capability. Raises Skipped."""
    front = await trial.connect()
    at = front.capability(CAP_MSIX)
    if at is None:
        raise Skipped("the function has no MSI-X")
    return front, at


def table_size(front: PciFront, at: int) -> int:
    """Return the vectors of the MSI-X table, as its capability at ``at`` says."""
    return (field(front, at + 2) & TABLE_SIZE) + 1


def tables(front: PciFront, at: int) -> list[tuple[str, int, int, int]]:
    """Return name, BAR, offset and bytes of the MSI-X table and of the pending bits."""
    count = table_size(front, at)
    sizes = ("table", at + 4, MSIX_ENTRY * count), ("pending bits", at + 8, -(-count // 64) * 8)
    return [(name, field(front, place, 4) & 7, field(front, place, 4) & ~7, size) for name, place, size in sizes]


@add("PCI-DEV-1.msix", "The MSI-X table and its pending bits lie in BARs, apart from each other", CONFORMING, MUST)
async def msix_places(trial: PciTrial) -> str:
    front, at = await msix_place(trial)
    both = tables(front, at)
    for name, bar, offset, size in both:
        if offset + size > front.sizes.get(bar, 0):
            raise Broken(f"the {name} have {size} bytes at {offset:#x} of BAR {bar}, of {front.sizes.get(bar, 0):#x}")
    (_, bar, offset, size), (_, other, pending, bits) = both
    if bar == other and offset < pending + bits and pending < offset + size:
        raise Broken(f"the table has {size} bytes at {offset:#x}, and the pending bits are at {pending:#x}")
    return f"BAR {bar}"


@add("PCI-DEV-1.masked", "Every vector of the MSI-X table is masked after a reset", CONFORMING, MUST)
async def msix_masked(trial: PciTrial) -> str:
    front, at = await msix_place(trial)
    _, bar, offset, size = tables(front, at)[0]
    table = await front.read(bar, offset, size)
    controls = [control for (control,) in struct.iter_unpack("<12xI", table)]
    if any(not control & MASKED for control in controls):
        vector = [control & MASKED for control in controls].index(0)
        # Over vfio-user most clients have a table of their own: drivers never see this one.
        raise Broken(f"vector {vector} is not: {table[:64].hex()}", SHOULD)
    return f"{len(controls)} vectors"


@add("PCI-DEV-1.control", "MSI-X enable and function mask are writable, the table size is not", CONFORMING, MUST)
async def msix_control(trial: PciTrial) -> str:
    front, at = await msix_place(trial)
    size = field(front, at + 2) & TABLE_SIZE
    for bits in (0xC000, 0x8000, 0x4000, 0):
        await front.config_write(at + 2, 2, bits | (~size & TABLE_SIZE))
        value = await front.config_read(at + 2, 2)
        if value != bits | size:
            raise Broken(f"the control register reads {value:#x} after {bits:#x}, and its table size is {size}")
    return "they are"


@add("PCI-DEV-51", "A function with MSI-X has 2 to 2048 vectors", VECTORS, SHOULD)
async def vector_count(trial: PciTrial) -> str:
    front, at = await msix_place(trial)
    count = table_size(front, at)
    if count < 2:
        raise Broken(f"it has {count}")
    return f"it has {count}"


@add("PCI-DEV-52", "The MSI-X table size is the number of vectors", VECTORS, MUST)
async def vector_count_true(trial: PciTrial) -> str:
    front, at = await msix_place(trial)
    count = table_size(front, at)
    if front.irqs.get(IrqType.MSIX) != count:
        raise Broken(f"the table has {count} vectors, and the server has {front.irqs.get(IrqType.MSIX)} interrupts")
    return f"both are {count}"


# Bus mastering and reset


@add(
    "S14.master",
    "Without bus mastering nothing is read or written, and with it again the device serves",
    CONFORMING,
    MUST,
)
async def bus_master(trial: PciTrial) -> str:
    front = await trial.up()
    await trial.honest(front)
    await front.command(MEMORY)
    await trial.stays_idle(front, "without bus mastering", 0.15)
    await front.command(WRITABLE)
    vring = trial.main(front)
    vring.kick()
    await trio.sleep(0.05)
    if vring.ring.pending:
        return "left the request alone, and served it later"
    front.note("the function is reset and set up again")
    await trial.set_up_again(front)
    await trial.honest(front)
    return "left the request alone, and served another one after a reset"


async def after_function_reset(trial: PciTrial, front: PciFront, name: str) -> str:
    """Judge a function after its reset: registers as at first, nothing touched, and it works again."""
    if value := await front.config_read(COMMAND, 2) & WRITABLE:
        raise Broken(f"the command register is {value:#x} after {name}")
    await front.command(WRITABLE)
    if not await front.wait_for(F.DEVICE_STATUS, 0xFF, 0, front.patience):
        raise Broken(f"device_status is {await front.get(F.DEVICE_STATUS):#x} {front.patience:g} s after {name}")
    await trial.stays_idle(front, f"after {name}", 0.1)
    await trial.set_up_again(front)
    await trial.honest(front)
    return f"serves after {name}"


@add("S14.flr", "A function level reset resets the device, which can be set up again", CONFORMING, MUST)
async def function_level_reset(trial: PciTrial) -> str:
    front = await trial.up()
    at = front.capability(CAP_EXPRESS)
    if at is None or not field(front, at + DEVICE_CAPS, 4) & CAN_FLR:
        raise Skipped("the function has no function level reset")
    await trial.honest(front)
    control = await front.config_read(at + DEVICE_CONTROL, 2)
    await front.config_write(at + DEVICE_CONTROL, 2, control | FLR)
    await trio.sleep(0.1)  # the time that a function has
    return await after_function_reset(trial, front, "a function level reset")


@add(
    "S14.reset", "DEVICE_RESET resets the device, which can be set up again", "vfio-user: VFIO_USER_DEVICE_RESET", MUST
)
async def device_reset(trial: PciTrial) -> str:
    front = await trial.up()
    await trial.honest(front)
    await front.reset()
    return await after_function_reset(trial, front, "DEVICE_RESET")
