"""The commands in which system calls fail, and how each is used while it runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

import attrs
import trio

from support.rigs.nbd import FLUSH, KIB, OK, TRIM, WRITE, ZEROES, Client
from vnet.check.case import Case, select
from vnet.check.cases import CASES
from vnet.check.front import Front
from vnet.check.kinds import KINDS
from vnet.check.pci import PciFront
from vnet.check.peer import Peer
from vnet.check.trial import Options, Trial
from vnet.check.verdicts import Skipped
from vnet.check.vhost_user import VhostUserFront
from vnet.qmp.client import ask

__all__ = ["NAME", "SCENARIOS", "Scenario"]

NAME = "faulty"
"""Name of the system."""
PATIENCE = 10.0
"""Seconds that the whole use of a command may take, on a busy machine as well."""
RINGS = ("V12.restart", "SPLIT-DEV-14.full", "CFG-DEV-1")
SHARED = ("V19", "V08.slots")
"""Cases in which a front end shares a dirty log and further regions."""
PING = "ip netns exec {}-rc ping -n -c 2 -i 0.05 -w 5 198.18.0.2"


@attrs.frozen
class Scenario:
    """A command line of ``vnet``, run in a folder of its own."""

    command: str
    use: Callable[[Path], Awaitable[None]]
    """Use it as its clients do; raises any error if it does not serve them."""
    files: Mapping[str, str] = {}
    """Files in the folder, by name."""
    ends: bool = False
    """Whether the command ends by itself, instead of serving until a signal."""


async def check(kind: str, words: tuple[str, ...], carrier: type[Front], folder: Path) -> None:
    """Run cases of the conformance checker against the device. Raises Broken, PeerError."""
    peer = Peer(folder / "s.sock")
    chosen: list[Case] = select(CASES, words)
    for case in chosen:
        trial = Trial(peer, KINDS[kind], Options(patience=PATIENCE, destructive=True), carrier)
        try:
            await case.run(trial)
        except Skipped:
            pass
        finally:
            trial.close()


async def ask_all(_: Path) -> None:
    """Ask the control socket for all that shows a system."""
    for command in ("query-status", "query-vnet", "query-vnet-status", "query-config-space"):
        await trio.to_thread.run_sync(partial(ask, NAME, command, timeout=PATIENCE))


async def served(kind: str, words: tuple[str, ...], carrier: type[Front], folder: Path) -> None:
    """Check the device, then ask the control socket."""
    await check(kind, words, carrier, folder)
    await ask_all(folder)


async def ping(folder: Path) -> None:
    """Ping through both hosts before and after a flap of the link, then ask the control socket."""
    run = partial(subprocess.run, PING.format(NAME).split(), check=True, capture_output=True)
    await trio.to_thread.run_sync(run)
    for up in (False, True):
        await trio.to_thread.run_sync(partial(ask, NAME, "set_link", {"name": "pcie0", "up": up}, PATIENCE))
    await trio.to_thread.run_sync(run)
    await ask_all(folder)


async def nbd(folder: Path) -> None:
    """Write, flush, read, trim and zero the disk over NBD, then ask the control socket."""
    data = os.urandom(64 * KIB)
    async with await trio.open_unix_socket(folder / "nbd.sock") as stream:
        stream_client = Client(trio.SocketStream(stream.socket), structured=True)
        await stream_client.begin()
        assert await stream_client.do(WRITE, 0, data=data) == OK
        assert await stream_client.do(FLUSH) == OK
        assert await stream_client.read(0, len(data)) == data
        assert await stream_client.do(ZEROES, 0, len(data)) == OK
        assert await stream_client.read(0, len(data)) == bytes(len(data))
        assert await stream_client.do(TRIM, 0, len(data)) == OK
    await ask_all(folder)


async def nothing(_: Path) -> None:
    """The command needs no clients."""


LINKED = '[hosts.rc]\n[hosts.ep]\n\n[links.pcie0]\nroot = "rc"\nendpoint = "ep"\n\n'
DISK = (
    LINKED + '[devices.disk0]\ntype = "blk"\ntransport = "pci"\nlink = "pcie0"\nqueues = 2\n'
    'driver = { nbd = "nbd.sock" }\ndevice = { store = "file", path = "disk.img", size = 1 }\n'
)
SERVE = f"--vhost-user s.sock --name {NAME}"
FUNCTION = f"--vfio-user s.sock --name {NAME}"

SCENARIOS: Mapping[str, Scenario] = {
    "serve-blk": Scenario(
        f"serve blk --file disk.img --queues 2 {SERVE}",
        partial(
            served,
            "blk",
            (*RINGS, *SHARED, "V11.again", "BLK-DEV-21", "BLK-DEV-22", "SPLIT-DEV-1.write"),
            VhostUserFront,
        ),
    ),
    "up-net": Scenario(f"up --name {NAME}", ping),
    "up-blk": Scenario(f"up disk.toml --name {NAME}", nbd, {"disk.toml": DISK}),
    "serve-net": Scenario(
        f"serve net --tap faulty0 --address 198.18.0.1/24 --mtu 9000 --pairs 2 {SERVE}",
        partial(served, "net", (*RINGS, *SHARED, "NET-DEV-28", "N05.13"), VhostUserFront),
    ),
    "serve-scsi": Scenario(
        f"serve scsi --lun path=disk.img {SERVE}",
        partial(served, "scsi", (*RINGS, *SHARED, "SCSI-DEV-9", "SCSI-DEV-10", "K03.lunreset"), VhostUserFront),
    ),
    "serve-function": Scenario(
        f"serve blk --file disk.img {FUNCTION}",
        partial(served, "blk", ("SPLIT-DEV-14.full", "BLK-DEV-22", "RESET-DEV-1"), PciFront),
    ),
    "demo-scsi": Scenario(f"demo --device scsi --seconds 1 --name {NAME}", nothing, ends=True),
    "demo-rpmsg": Scenario(f"demo --device rpmsg --seconds 1 --name {NAME}", nothing, ends=True),
}
