"""A foreign program: whether it lives, how it ended, what it uses, and that all it has started ends with it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import trio

from vnet.check.program import Figures, Program
from vnet.check.wire import PeerError


def test_a_process_that_is_known_by_its_id_lives_until_it_is_a_zombie() -> None:
    process = subprocess.Popen(["sleep", "1000"])
    program = Program(pid=process.pid)
    assert program.alive()
    assert not program.spawned
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not program.alive()
    process.wait()
    assert not program.alive()
    assert program.end() == "ended"


def test_an_unknown_process_is_taken_to_live_and_has_no_figures() -> None:
    program = Program()
    assert program.alive()
    assert program.figures() is None
    assert program.output() == ""


async def test_all_that_a_program_started_ends_with_it(tmp_path: Path) -> None:
    """``timeout`` has a process group of its own."""
    place = tmp_path / "pid"
    program = Program(command=["sh", "-c", f"timeout 1000 sh -c 'echo $$ > {place}; exec sleep 1000'"])
    try:
        program.spawn()
        while not (place.exists() and place.read_text().endswith("\n")):  # noqa: ASYNC110  another process writes it
            await trio.sleep(0.01)
        child = Program(pid=int(place.read_text()))
        assert child.alive()
        await program.stop()
        while child.alive():  # noqa: ASYNC110  until init reaps it
            await trio.sleep(0.01)
    finally:
        await program.stop()
        program.close()


def test_a_program_that_does_not_exist_can_not_be_started() -> None:
    program = Program(command=["/no/such/program"])
    with pytest.raises(PeerError, match="/no/such/program can't be started: No such file or directory"):
        program.spawn()
    program.close()


class Measured(Program):
    """A program whose seconds of CPU a test chooses; None: it is gone."""

    def __init__(self, *cpu: float | None) -> None:
        super().__init__()
        self.cpu = iter(cpu)

    def figures(self) -> Figures | None:
        cpu = next(self.cpu)
        return None if cpu is None else Figures(cpu, 0, 0)


@pytest.mark.parametrize(("before", "after", "spins"), [(5, 1000, True), (5, 5, False), (5, None, False)])
async def test_a_program_spins_if_it_uses_most_of_a_core(before: float, after: float | None, spins: bool) -> None:
    assert await Measured(before, after).spins(0.01) is spins
