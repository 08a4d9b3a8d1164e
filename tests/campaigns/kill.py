"""kill -9 of processes at random moments: it is noticed, the service is back, no flushed byte is lost."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing

from campaigns.events import Events
from campaigns.scenes import Scene, System, Victim, both_sides, halves, served
from campaigns.stage import Stage

__all__ = ["kill_rounds", "link", "serve", "up"]

MOMENT = 0.3
"""Most seconds between the return of the service and the next kill."""
AT_ONCE, SOON = 0.2, 0.05
"""Probability of a second kill, and most seconds after the first process is ready again."""
DOWN = 0.2
"""Probability that ``vnet down`` cleans up in between, if nothing else of the system runs."""
NOTICED_MAX = 0.2
"""Seconds after which a noticed end counts as late."""
Open = Callable[[Stage], AbstractContextManager[Scene]]


def serve(stage: Stage) -> None:
    """Kill the processes that serve a disk and a network, and their front end, in turn."""
    kill_rounds(stage, served)


def up(stage: Stage) -> None:
    """Kill a process with both sides of a link."""
    kill_rounds(stage, both_sides)


def link(stage: Stage) -> None:
    """Kill the processes of a link's two sides in turn."""
    kill_rounds(stage, halves)


def kill_rounds(stage: Stage, open_scene: Open) -> None:
    """Kill the victims of a scene in turn, and measure how its loads are served again."""
    with open_scene(stage) as scene:
        names = list(scene.victims)
        fds = scene.open_fds()
        for dice in stage.rounds():
            scene.wait_all()
            time.sleep(dice.uniform(0, MOMENT))
            name = names[stage.round % len(names)]
            victim = scene.victims[name]
            connections = scene.connections
            until_ready = _kill_one(stage, scene, victim, dice)
            stage.add(f"{name} killed")
            for key, load in scene.loads.items():
                back = load.wait_back()
                if key in victim.loads:
                    stage.time(f"{key} back", back)
                    stage.time(f"{key} after ready", max(0.0, back - until_ready))
            assert victim.has_clients or scene.connections == connections, f"{name}: a client of the disk lost it"
            scene.count(stage)
        scene.wait_fds(fds)


def _kill_one(stage: Stage, scene: Scene, victim: Victim, dice: random.Random) -> float:
    """Kill a process and start it again, perhaps twice; return the seconds from the last kill until it was ready."""
    process = victim.process
    if victim.witness is None:
        begun = _end(scene, victim)
        if isinstance(process, System) and dice.random() < DOWN:
            process.down()
            scene.check_nothing_left()
            stage.add("vnet down")
    else:
        with closing(Events(*victim.witness)) as events:
            clock = time.time()
            begun = _end(scene, victim)
            noticed = events.wait(clock)
            stage.time("noticed", noticed)
            stage.add("noticed late", noticed > NOTICED_MAX)
    started = time.monotonic()
    process.start()
    stage.time("start", time.monotonic() - started)
    if scene.survives_handshake and dice.random() < AT_ONCE:
        time.sleep(dice.uniform(0, SOON))
        begun = _end(scene, victim)
        process.start()
        stage.add("killed at once")
    return time.monotonic() - begun


def _end(scene: Scene, victim: Victim) -> float:
    """Kill a process and return when. Loads are marked once it is dead, so that they wait for the next one."""
    begun = time.monotonic()
    victim.process.end(signal.SIGKILL)
    scene.mark(begun)
    return begun
