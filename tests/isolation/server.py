"""``python -m isolation.server FOLDER``: a process with a disk for the victim, and everything that attacks hit.

It prints a line once it serves. For each line on its standard input it prints its counters since the line before.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import trio
from trio.abc import Instrument

from vnet.qmp.server import ControlServer
from vnet.system.export_topology import DeviceExport
from vnet.system.exports import open_export_system
from vnet.system.world import open_world
from vnet.topology import parse, parse_device

DISK = """
[hosts.rc]
[hosts.ep]
[links.pcie0]
root = "rc"
endpoint = "ep"
[devices.disk0]
type = "blk"
link = "pcie0"
device = {{ store = "memory", size = 64 }}
driver = {{ nbd = "{folder}/nbd.sock" }}
"""
MEMORY = {"store": "memory", "size": 64}
DEVICES: dict[str, dict[str, Any]] = {
    "victim": {"type": "blk", "device": MEMORY},
    "blk": {"type": "blk", "queues": 2, "queue_size": 1024, "device": {"store": "file", "size": 1024}},
    "scsi": {"type": "scsi", "queue_size": 1024, "device": {"luns": [MEMORY]}},
    "rpmsg": {"type": "rpmsg", "device": {"channels": [{"name": "echo", "surface": "echo"}]}},
    "net": {"type": "net", "device": {"kind": "tun", "addresses": ["198.18.87.1/24", "2001:2:87::1/64"]}},
    "function": {"type": "blk", "device": MEMORY},
}
"""Served devices. The last one is a function for vfio-user clients."""


class Steps(Instrument):
    """The longest step of a task, in seconds of processor time."""

    def __init__(self) -> None:
        self._started = 0.0
        self.longest, self.name, self.count = 0.0, "", 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._started = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        took = time.thread_time() - self._started
        self.count += 1
        if took > self.longest:
            self.longest, self.name = took, task.name

    def take(self) -> dict[str, object]:
        """Return the counters, and begin again."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        counters = {
            "steps": self.count,
            "longest_step_ms": round(1000 * self.longest, 2),
            "longest_step": self.name,
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
            "rss_kib": int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4,
            "fds": len(list(Path("/proc/self/fd").iterdir())),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
        }
        self.longest, self.name, self.count = 0.0, "", 0
        return counters


def exports(folder: Path, number: int) -> dict[str, DeviceExport]:
    """Return the devices of a process with this number, each at a socket of its name."""
    keys = {"net": {"ifname": f"iso{number}"}, "blk": {"path": str(folder / "blk.img")}}
    made = {}
    for name, table in DEVICES.items():
        spec = parse_device({**table, "device": {**table["device"], **keys.get(name, {})}}, "")
        made[name] = DeviceExport(spec, folder / f"{name}.sock", vfio_user=name == "function")
    return made


class Lines(logging.Handler):
    """Counts the lines of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


async def serve(folder: Path, number: int, steps: Steps) -> None:
    lines, logger = Lines(), logging.getLogger("vnet")
    logger.addHandler(lines)
    logger.propagate = False
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_export_system(exports(folder, number), f"iso{number}"))
        topology = parse(DISK.format(folder=folder), "disk.toml")
        world = await stack.enter_async_context(open_world(topology, f"isodisk{number}"))
        await world.wait_up()
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(ControlServer(world).serve, folder / "control.sock")
        print("serving", flush=True)
        read: Callable[[], Any] = partial(trio.to_thread.run_sync, sys.stdin.readline, abandon_on_cancel=True)
        while await read():
            print(json.dumps({**steps.take(), "lines": lines.count}), flush=True)
            lines.count = 0
        nursery.cancel_scope.cancel()


def main(folder: Path, number: int, cpu: int) -> None:
    os.sched_setaffinity(0, [cpu])
    steps = Steps()
    trio.run(serve, folder, number, steps, instruments=[steps])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
