"""Load without a fault, for long: each byte is checked, each packet accounted for, and the process does not grow."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from campaigns.disk import BLOCK, DISK_MIB, NbdClient, content
from campaigns.load import PATIENCE
from campaigns.scenes import LINK, PREFIX, namespace, write_topology
from campaigns.stage import Stage
from support.cli import READY, left_behind
from support.machine import ip
from support.paths import VNET
from vnet.linux.netns import run_in_netns
from vnet.nbd import CommandType
from vnet.qmp.client import ask

__all__ = ["Growth", "packets", "requests"]

NAME = f"{PREFIX}soak"
PROBE = Path(__file__).with_name("probe.py")
PACKETS, WINDOW = 10_000, 64
"""Packets of a round, half of them in each direction, and most of them that are on their way in each direction."""
REQUESTS, DEPTH = 1_000, 32
"""Requests of a disk in a round, and those that are under way at once."""
SLOPE_MAX = 0.1
"""Bytes of memory for each packet or request."""
WARM = 0.2
"""Part of a run in which memory may still grow: caches fill."""
JUDGED = 10_000_000
"""Packets or requests of a run whose growth is judged: in fewer, a single page counts for too much."""


@attrs.define
class Growth:
    """Resident memory of a process over the packets that it moved."""

    samples: list[tuple[int, int]] = attrs.field(factory=list)
    """Packets and bytes of memory."""

    def slope(self) -> float:
        """Return the bytes for each packet: the line of least squares without the first part of the run."""
        points = self.samples[int(len(self.samples) * WARM) :]
        count = len(points)
        mean_x = sum(x for x, _ in points) / count
        mean_y = sum(y for _, y in points) / count
        spread = sum((x - mean_x) ** 2 for x, _ in points)
        return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


@attrs.frozen
class State:
    """Resources of a process at rest."""

    fds: int
    tasks: int
    heads: Mapping[str, int]
    """Chains in flight by device, side and queue, as that side counts them."""


class Soak:
    """A ``vnet up`` with a network and a disk."""

    def __init__(self, stage: Stage, front: str, back: str) -> None:
        self.folder = stage.folder
        self._report = stage.folder / "probe"
        file = write_topology(stage, LINK, link="", front=front, back=back, size=str(DISK_MIB))
        self.process = subprocess.Popen(
            [VNET, "--load", str(PROBE), "up", str(file), "--name", NAME],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "VNET_PROBE": str(self._report)},
        )
        assert self.process.stdout is not None
        assert any(READY in line for line in self.process.stdout), "it ended"

    def memory(self) -> int:
        """Return the resident memory in bytes, without files and shared memory, whose pages are those of guests."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(text.partition("RssAnon:")[2].split()[0]) << 10

    def view(self) -> Any:
        return ask(NAME, "query-vnet", timeout=PATIENCE)

    def state(self) -> State:
        """Return what the process has at rest."""
        self._report.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        _wait(self._report.exists, "the process did not write its report")
        devices = self.view()["devices"]
        heads = {
            f"{device} {side} {queue['name']}": queue["ring"]["in_flight"]
            for device in ("net0", "disk0")
            for side in ("driver", "device")
            for queue in devices[device][side]["queues"]
            # A driver takes the buffers of sent packets back only when it sends the next one.
            if queue["ring"] is not None and (side, queue["name"][:8]) != ("driver", "transmit")
        }
        fds = sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())
        return State(fds, int(self._report.read_text()), heads)

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0


@contextmanager
def _soak(stage: Stage, counter: str) -> Iterator[tuple[Soak, str, str, Growth]]:
    """Yield a system, its namespaces, and the growth of its process, which is judged at the end of the rounds."""
    with namespace("f") as front, namespace("b") as back:
        soak, growth = Soak(stage, front, back), Growth()
        try:
            yield soak, front, back, growth
            slope = growth.slope()
            stage.raise_to("KiB", soak.memory() >> 10)
            stage.raise_to(f"bytes per million {counter}s", max(0, round(slope * 1e6)))
            assert growth.samples[-1][0] < JUDGED or slope <= SLOPE_MAX, f"grew by {slope:.3f} bytes per {counter}"
            soak.end()
        finally:
            soak.process.kill()
            soak.process.wait()
            assert soak.process.stdout is not None
            soak.process.stdout.close()
    assert not left_behind(PREFIX)


def packets(stage: Stage) -> None:
    """Send numbered datagrams in both directions, and account for each packet."""
    with _soak(stage, "packet") as (soak, front, back, growth):
        ends = [
            run_in_netns(netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for netns in (front, back)
        ]
        addresses = [("198.18.0.1", 5000), ("198.18.0.2", 5000)]
        for end, address in zip(ends, addresses, strict=True):
            end.bind(address)
            end.settimeout(PATIENCE)
        for end, address in zip(ends, reversed(addresses), strict=True):
            end.connect(address)
        try:
            moved = 0
            ip(
                "netns", "exec", front, "ping", "-n", "-c", "1", "-w", "60", "198.18.0.2"
            )  # so that neighbours are known
            _exchange(ends, 0, WINDOW, 18)
            before = _settled(soak)
            for dice in stage.rounds():
                size = dice.choice((18, 100, 512, 1472))
                for at in range(0, PACKETS // 2, WINDOW):
                    moved += _exchange(ends, moved, min(WINDOW, PACKETS // 2 - at), size)
                growth.samples.append((moved, soak.memory()))
                stage.add("packets", PACKETS)
            _check_accounts(stage, soak)
            _check_state(soak, before)
        finally:
            for end in ends:
                end.close()


def _exchange(ends: list[socket.socket], number: int, count: int, size: int) -> int:
    """Send datagrams with numbers from both ends, and check what arrives there. Returns how many there were in all."""
    texts = [(number + each).to_bytes(8, "little") * (size // 8 + 1) for each in range(count)]
    for end in ends:
        for text in texts:
            end.send(text[:size])
    for end in ends:
        for text in texts:
            try:
                data = end.recv(2048)
            except TimeoutError:
                raise AssertionError(f"lost: packet {int.from_bytes(text[:8], 'little')}") from None
            assert data == text[:size], f"packet {int.from_bytes(text[:8], 'little')}: {data[:16].hex()} came instead"
    return 2 * count


def _check_accounts(stage: Stage, soak: Soak) -> None:
    """Wait until both ports have as many packets in as out and dropped. Raises AssertionError."""
    sums: list[tuple[int, int, int]] = []

    def balanced() -> bool:
        device = soak.view()["devices"]["net0"]
        sides = [device[side] for side in ("driver", "device")]
        dropped = sum(
            sum(drops.values()) for side in sides for drops in (side["port"]["drops"], *_queue_drops(side["queues"]))
        )
        ports = [side["port"] for side in sides]
        sums[:] = [(ports[at]["rx_packets"], ports[1 - at]["tx_packets"], dropped) for at in range(2)]
        return sum(went_in for went_in, _, _ in sums) == sum(came_out for _, came_out, _ in sums) + dropped

    _wait(balanced, lambda: f"in, out and dropped: {sums}")
    stage.raise_to("dropped", sums[0][2])


def _queue_drops(queues: list[dict[str, Any]]) -> list[dict[str, int]]:
    return [queue["drops"] for queue in queues]


def _settled(soak: Soak) -> State:
    """Return the state at rest: the kernel's own packets may be under way for a moment."""
    state = soak.state()
    for _ in range(100):
        time.sleep(0.05)
        former, state = state, soak.state()
        if former == state:
            break
    return state


def _check_state(soak: Soak, before: State) -> None:
    after = _settled(soak)
    assert after == before, f"at rest there are {after}, and there were {before}"


def requests(stage: Stage) -> None:
    """Write, read and flush blocks of a disk over NBD, and compare each block that is read."""
    with _soak(stage, "request") as (soak, _, _, growth):
        client = NbdClient(soak.folder / "nbd.sock", "disk0", lambda: False)
        try:
            moved = version = 0
            client.run(CommandType.FLUSH, [0])
            before = _settled(soak)
            for dice in stage.rounds():
                for _ in range(0, REQUESTS, 2 * DEPTH):
                    version += 1
                    blocks = dice.sample(range((DISK_MIB << 20) // BLOCK), DEPTH)
                    client.run(CommandType.WRITE, blocks, [content(block, version) for block in blocks])
                    for block, data in client.run(CommandType.READ, blocks).items():
                        assert data == content(block, version), f"block {block}, version {version}: {data[:32].hex()}"
                    moved += 2 * DEPTH
                client.run(CommandType.FLUSH, [0])
                growth.samples.append((moved, soak.memory()))
                stage.add("requests", 2 * DEPTH * -(-REQUESTS // (2 * DEPTH)) + 1)
            _check_state(soak, before)
        finally:
            client.close()


def _wait(done: Callable[[], object], why: str | Callable[[], str]) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, why if isinstance(why, str) else why()
        time.sleep(0.01)
