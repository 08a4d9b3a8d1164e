"""SIGSTOP of a process for a while, then SIGCONT: the others answer meanwhile, no byte and no connection is lost."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from campaigns.load import PATIENCE
from campaigns.scenes import Victim, served
from campaigns.stage import Stage
from vnet.qmp.client import ask

__all__ = ["serve"]

SHORT = 0.1, 2.0
"""Seconds of most stops."""
LONG = 30.0
"""Seconds of the others: longer than a front end waits for an answer of its back end."""
EACH = 10
"""Stops of a process, of which the last one is long."""
MOMENT = 0.3


def serve(stage: Stage) -> None:
    """Stop the processes that serve a disk and a network, and their front end, in turn."""
    with served(stage) as scene:
        names = list(scene.victims)
        fds = scene.open_fds()
        for dice in stage.rounds():
            scene.wait_all()
            name = names[stage.round % len(names)]
            victim = scene.victims[name]
            is_long = stage.round // len(names) % EACH == EACH - 1
            time.sleep(dice.uniform(0, MOMENT))
            victim.process.process.send_signal(signal.SIGSTOP)
            begun = time.monotonic()
            scene.mark()
            seconds = LONG if is_long else dice.uniform(*SHORT)
            for key, load in scene.loads.items():
                if key not in victim.loads:
                    stage.time(f"{key} meanwhile", load.wait_back())
            _ask_witness(stage, victim)
            time.sleep(max(0.0, begun + seconds - time.monotonic()))
            victim.process.process.send_signal(signal.SIGCONT)
            scene.mark()
            for key, load in scene.loads.items():
                back = load.wait_back()
                if key in victim.loads:
                    stage.time(f"{key} back", back)
            assert scene.connections == 1, f"{name} was stopped: a client of the disk lost its connection"
            stage.add("long stops", is_long)
            for key, other in scene.victims.items():
                stage.raise_to(f"{key} KiB", _resident(other))
            scene.count(stage)
        scene.wait_fds(fds)


def _ask_witness(stage: Stage, victim: Victim) -> None:
    """Ask the system on the other side of a stopped one for something."""
    assert victim.witness is not None
    begun = time.monotonic()
    ask(victim.witness[0], "query-status", timeout=PATIENCE)
    stage.time("other side answers", time.monotonic() - begun)


def _resident(victim: Victim) -> int:
    """Return the resident memory of a process in KiB."""
    text = Path(f"/proc/{victim.process.process.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])
