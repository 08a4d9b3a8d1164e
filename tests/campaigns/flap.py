"""Link flaps in real time, under a connection, requests over HTTP, a disk and an rpmsg channel at once."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from campaigns.channel import ChannelLoad
from campaigns.disk import DISK_MIB, DiskLoad
from campaigns.load import PATIENCE
from campaigns.network import HttpLoad, TcpLoad
from campaigns.scenes import (
    LINK,
    PREFIX,
    Processes,
    Scene,
    System,
    Victim,
    check_scene,
    namespace,
    run_loads,
    write_topology,
)
from campaigns.stage import Stage
from vnet.qmp.client import connect

__all__ = ["flaps"]

NAME = f"{PREFIX}flap"
MOMENT = 0.1
"""Most seconds between the return of all services and the next flap."""
DOWN = 0.001, 0.3
"""Seconds that the link is down."""
CHANNEL = """\
[devices.rpmsg0]
type = "rpmsg"
link = "pcie0"
function = 3
driver = {{ channels = [{{ name = "echo", surface = "socket", path = "{folder}/echo.sock" }}] }}
device = {{ channels = [{{ name = "echo", surface = "echo" }}] }}
"""


def flaps(stage: Stage) -> None:
    """Take the link down and up again; all services must come back, and no connection may break."""
    with _system(stage) as scene, connect(NAME, PATIENCE) as control:
        fds = scene.open_fds()
        for dice in stage.rounds():
            scene.wait_all()
            time.sleep(dice.uniform(0, MOMENT))
            control.ask("set_link", {"name": "pcie0", "up": False})
            time.sleep(dice.uniform(*DOWN))
            begun = time.monotonic()
            control.ask("set_link", {"name": "pcie0", "up": True})
            scene.mark(begun)
            _count_timers(stage, scene)
            for name, load in scene.loads.items():
                stage.time(f"{name} back", load.wait_back())
            assert scene.connections == 1, "the disk's client was disconnected"
            scene.count(stage)
        scene.wait_fds(fds)


def _count_timers(stage: Stage, scene: Scene) -> None:
    """Count how often TCP is back later than the disk, and whether it waited for its retransmission timer then."""
    disk, tcp = scene.loads["disk"], scene.loads["tcp"]
    assert isinstance(tcp, TcpLoad)
    disk.wait_back()
    if not tcp.is_back:
        stage.add("tcp later than the disk")
        stage.add("tcp waits for its timer", tcp.is_repeating)


@contextmanager
def _system(stage: Stage) -> Iterator[Scene]:
    folder, dice = stage.folder, random.Random(stage.seed)
    with namespace("f") as front, namespace("b") as back, Processes() as add:
        file = write_topology(stage, LINK + CHANNEL, link="", front=front, back=back, size=str(DISK_MIB))
        up = add(System(NAME, file))
        loads = {
            "disk": DiskLoad(folder / "nbd.sock", "disk0", dice),
            "tcp": TcpLoad(front, back, "198.18.0.2", dice),
            "http": HttpLoad(front, back, "198.18.0.2"),
            "rpmsg": ChannelLoad(folder / "echo.sock", dice),
        }
        with run_loads(Scene({"up": Victim(up, ())}, loads, folder)) as scene:
            yield scene
    check_scene(scene)
