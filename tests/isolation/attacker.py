"""``python -m isolation.attacker NAME FOLDER CPU``: run an attack until SIGTERM, then print its actions."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import trio

from isolation.front import bring_up, wait
from isolation.table import ATTACKS, NOTHING, Attack


def steps(attack: Attack, folder: Path) -> Iterator[int]:
    """Yield the number of actions of an attack since the last time, and wait when there is nothing to do."""
    if attack.on_sockets is not None:
        yield from attack.on_sockets(folder)
    assert attack.device is not None
    assert attack.on_queues is not None
    device = attack.device
    front = trio.run(bring_up, folder / f"{device.name}.sock", device.kind, device.rings, device.features)
    for count in attack.on_queues(front):
        yield count
        if not count:
            wait(front)


def main(name: str, folder: Path, cpu: int) -> None:
    os.sched_setaffinity(0, [cpu])

    def end(*_: object) -> None:
        os.write(1, f"{actions}\n".encode())
        os._exit(0)  # wherever it is: a client that hangs up in disorder

    attack = steps(ATTACKS.get(name, NOTHING), folder)
    actions = next(attack)
    signal.signal(signal.SIGTERM, end)
    print("attacking", flush=True)
    for count in attack:
        actions += count


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
