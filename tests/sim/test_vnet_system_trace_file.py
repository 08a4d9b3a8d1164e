"""A link's trace in a file that takes no more: the link goes on without it, and says so once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from vnet.cli.tree import tree
from vnet.errors import ConfigError
from vnet.spec import LinkSpec
from vnet.system.snapshot import take_snapshot
from vnet.system.trace_file import BUFFER, TraceFile
from vnet.system.world import World, open_world
from vnet.testing import Options
from vnet.topology import Topology
from vnet.views.plain import to_plain


def traced(path: object) -> Topology:
    return Options(queue_size=16, link=LinkSpec("rc", "ep", trace=str(path))).topology()


async def flap(world: World, times: int) -> None:
    for _ in range(times):
        world.links["link0"].bring_down()
        await trio.sleep(0.1)
        world.links["link0"].bring_up()
        await world.wait_up()


@pytest.mark.hostile("C07")
async def test_a_full_disk_ends_the_trace_and_nothing_else() -> None:
    reports: list[str] = []
    async with open_world(traced("/dev/full"), "test", report=reports.append) as world:
        await world.wait_up()
        await flap(world, 5)
        actual: Any = to_plain(take_snapshot(world))
        trace = actual["links"]["link0"]["trace"]
        reason = os.strerror(errno.ENOSPC)
        assert (trace["path"], trace["lines"], trace["error"]) == ("/dev/full", 0, reason)
        assert trace["lost"] > 500
        assert f"trace /dev/full: 0 lines; it ended: {reason}, {trace['lost']} lines lost" in "\n".join(
            tree(take_snapshot(world))
        )
    assert reports == [f"links.link0.trace: /dev/full: {reason}; the link goes on without a trace"]


async def test_a_reader_of_a_pipe_that_leaves_or_stands_still_ends_the_trace_and_nothing_else(tmp_path: Path) -> None:
    for reads in (True, False):
        path = tmp_path / f"pipe{reads}"
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        reports: list[str] = []
        async with open_world(traced(path), "test", report=reports.append) as world:
            await world.wait_up()
            if reads:
                os.close(reader)
            await flap(world, 30)
            assert world.traces["link0"].statistics().error
        assert len(reports) == 1
        if not reads:
            os.close(reader)


async def test_a_pipe_that_no_process_reads_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in ((tmp_path / "pipe", errno.ENXIO), (tmp_path / "none" / "trace", errno.ENOENT)):
        with pytest.raises(ConfigError) as caught:
            async with open_world(traced(path), "test"):
                pass
        assert str(caught.value) == f"topology: links.link0.trace = '{path}': {os.strerror(reason)}"


def test_every_line_is_in_the_file_or_counted_as_lost(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("of an earlier run\n")
    reports: list[str] = []
    file = TraceFile(str(path), reports.append)
    lines = [f"{number} {'x' * (number % 100)}" for number in range(1000)]
    for line in lines:
        file.write(line)
    file.close()
    assert path.read_text().splitlines() == lines
    assert (file.statistics().lines, file.statistics().lost, reports) == (1000, 0, [])
    full = TraceFile("/dev/full", reports.append)
    for line in lines:
        full.write(line)
    full.close()
    assert (full.statistics().lines, full.statistics().lost, len(reports)) == (0, 1000, 1)
    late = TraceFile("/dev/full", reports.append)
    late.write("x" * (BUFFER // 2))
    late.close()
    assert (late.statistics().lines, late.statistics().lost, len(reports)) == (0, 1, 2)
