"""Requests of SCSI host devices (VIRTIO 1.4 section 5.6, hostile rows K01 to K03)."""

from __future__ import annotations

import struct
from functools import partial

from vnet.check.case import Table
from vnet.check.kinds import Request
from vnet.check.kinds.scsi import CONTROL, INQUIRY, REQUEST, UNWRITTEN, command, lun, response, response_name
from vnet.check.split import Buffer
from vnet.check.trial import Trial
from vnet.check.verdicts import Broken, Level

__all__ = ["SCSI"]

SCSI = Table("scsi", "scsi")
add = SCSI.add
MUST, SHOULD = Level.MUST, Level.SHOULD
QUEUES = "5.6.6.1.1"
READ_10 = bytes.fromhex("28000000000000000100")


async def responded(trial: Trial, cdb: bytes, room: int, address: bytes | None = None) -> tuple[str, int, int]:
    """Make a request; return its response, its SCSI status and its residual."""
    front = await trial.up()
    request, answer = command(front, cdb, room, address)
    await trial.serve(front, front.rings[REQUEST], request, succeeds=False)
    code, status, residual = response(front, answer)
    if code == UNWRITTEN:
        raise Broken("gave the request back without a response", MUST)
    return response_name(code), status, residual


@add("SCSI-DEV-12", "A request to a target that is not there", QUEUES, MUST)
async def bad_target(trial: Trial) -> str:
    seen, _, _ = await responded(trial, INQUIRY, 36, address=lun(target=255))
    if seen != "BAD_TARGET":
        raise Broken(f"responded {seen}")
    return seen


@add("SCSI-DEV-9", "Response OK and a valid status for an INQUIRY", QUEUES, MUST)
async def inquiry(trial: Trial) -> str:
    seen, status, residual = await responded(trial, INQUIRY, 36)
    if (seen, status) != ("OK", 0):
        raise Broken(f"responded {seen} with status {status:#x}")
    return f"residual {residual}"


@add("SCSI-DEV-8", "CHECK CONDITION for an unknown command", QUEUES, MUST)
async def unknown_command(trial: Trial) -> str:
    seen, status, _ = await responded(trial, b"\xff" * 6, 0)
    if seen != "OK" or status != 2:
        raise Broken(f"responded {seen} with status {status:#x}, and OK with CHECK CONDITION is right")
    return "OK with CHECK CONDITION"


@add("SCSI-DEV-7", "The residual of a short answer", "5.6.6.1", MUST)
async def residual(trial: Trial) -> str:
    seen, status, left = await responded(trial, INQUIRY, 512)
    if seen != "OK" or status or not 512 - 36 <= left < 512:
        raise Broken(f"responded {seen}, status {status:#x}, residual {left} of 512 bytes for an INQUIRY of 36")
    return f"{left} of 512 bytes"


@add("SCSI-DEV-10", "A buffer that is smaller than the data of a READ", QUEUES, MUST)
async def overrun(trial: Trial) -> str:
    seen, status, _ = await responded(trial, READ_10, 16)
    if seen != "OVERRUN" and not status:
        raise Broken(f"responded {seen} with status {status:#x} for a READ into 16 bytes")
    return f"{seen}, status {status:#x}"


async def bad_lun(address: bytes, trial: Trial) -> str:
    seen, status, _ = await responded(trial, INQUIRY, 36, address=address)
    return f"{seen}, status {status:#x}"


for _name, _address in (
    ("zero", bytes(8)), ("ones", b"\xff" * 8), ("lun", lun(0, 16383)), ("format", bytes((1, 0, 0xC1, 1)) + bytes(4)),
):  # fmt: skip
    add(f"K01.{_name}", f"A request to the address {_address.hex()}", "5.6.6.1")(partial(bad_lun, _address))


async def bad_cdb(cdb: bytes, room: int, trial: Trial) -> str:
    seen, status, _ = await responded(trial, cdb, room)
    return f"{seen}, status {status:#x}"


for _name, _cdb, _room in (
    ("zero", b"", 0),
    ("read", bytes.fromhex("28000000000000ffff00"), 512),
    ("beyond", bytes.fromhex("8800ffffffffffffffff0000ffff0000"), 512),
    ("select", bytes.fromhex("550000000000000fff00"), 0),
    ("luns", bytes.fromhex("a0000000000000000000ffff"), 8),
    ("inquiry", bytes.fromhex("12ffff00ff00"), 4),
):
    add(f"K02.{_name}", f"A CDB {_cdb.hex() or 'of zeros'} with a buffer of {_room} bytes", "5.6.6.1")(
        partial(bad_cdb, _cdb, _room)
    )


async def bad_shape(readable: int, writable: int, trial: Trial) -> str:
    front = await trial.up()
    vring = front.rings[REQUEST]
    buffers = [Buffer(front.arena.put(lun().ljust(max(readable, 8), b"\0")), readable)] if readable else []
    if writable:
        buffers.append(Buffer(front.arena.alloc(writable), writable, True))
    front.submit(vring, buffers)
    return await trial.refuses(front, vring)


for _name, _readable, _writable in (
    ("short", 8, 108),
    ("norequest", 0, 108),
    ("noresponse", 51, 0),
    ("response", 51, 4),
):
    add(f"K01.{_name}", f"A request of {_readable} bytes with room for {_writable}", "5.6.6.1")(
        partial(bad_shape, _readable, _writable)
    )


async def task_management(kind: int, subtype: int, trial: Trial) -> str:
    front = await trial.up()
    vring = front.rings[CONTROL]
    answer = front.arena.put(bytes((UNWRITTEN,)))
    body = struct.pack("<II", kind, subtype) + lun() + struct.pack("<Q", 77)
    request = Request([Buffer(front.arena.put(body), len(body)), Buffer(answer, 1, True)], lambda _: "")
    await trial.serve(front, vring, request)
    code = front.arena.read(answer, 1)[0]
    if code == UNWRITTEN:
        raise Broken("gave the command back without a response", MUST)
    await trial.honest(front)
    return f"response {code}, and the next request is served"


for _name, _subtype in (("abort", 0), ("lunreset", 5), ("nexusreset", 4), ("unknown", 99)):
    add(f"K03.{_name}", f"A task management function of subtype {_subtype}", "5.6.6.2")(
        partial(task_management, 0, _subtype)
    )


@add("SCSI-DEV-2", "The configuration begins with sense_size 96 and cdb_size 32", "5.6.4", MUST)
async def sizes(trial: Trial) -> str:
    front = await trial.negotiated()
    sense, cdb = struct.unpack("<II", await front.config(20, 8))
    if (sense, cdb) != (96, 32):
        raise Broken(f"sense_size is {sense}, cdb_size {cdb}")
    return "it does"


@add("SCSI-DEV-3", "max_channel is 0, max_target at most 255, max_lun at most 16383", "5.6.4", SHOULD)
async def limits(trial: Trial) -> str:
    front = await trial.negotiated()
    channel, target, unit = struct.unpack("<HHI", await front.config(28, 8))
    if channel or target > 255 or unit > 16383:
        raise Broken(f"max_channel {channel}, max_target {target}, max_lun {unit}")
    return f"max_target {target}, max_lun {unit}"
