"""Other programs of the benchmark: each is waited for until it is ready, and one that is not says why."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import ip_interface
from pathlib import Path

import pytest
import trio

from vnet.bench import peers
from vnet.bench.peers import End, Program, open_dpdk, open_pasta, open_socat
from vnet.bench.processes import end_process
from vnet.errors import PrivilegeError, TrafficError

Open = Callable[[End, End], AbstractAsyncContextManager[tuple[int, ...]]]


@asynccontextmanager
async def running(script: str, folder: Path) -> AsyncIterator[Program]:
    """Run a script for the shell as a program called tool."""
    log = folder / "tool"
    with log.open("ab") as output:
        process = await trio.lowlevel.open_process(
            ["sh", "-c", script], stdin=subprocess.PIPE, stdout=output, stderr=output
        )
    try:
        yield Program(process, log)
    finally:
        await end_process(process, terminate=True)


async def never() -> bool:
    return False


async def test_a_program_is_waited_for_until_it_is_ready(tmp_path: Path) -> None:
    looks = iter([False, False, True])

    async def third() -> bool:
        return next(looks)

    async with running("exec sleep 60", tmp_path) as program:
        await program.wait_until(third)
    assert list(looks) == []


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo first; echo no such device >&2; exit 1", "no such device"),
        ("printf 'strange \\377'; exit 0", "strange \ufffd"),
        ("exit 1", "no output"),
    ],
)
async def test_a_program_that_ends_before_is_an_error_with_its_last_line(tmp_path: Path, script: str, why: str) -> None:
    async with running(script, tmp_path) as program:
        with pytest.raises(TrafficError, match=f"^tool is not ready: {why}$"):
            await program.wait_until(never)


async def test_a_program_that_never_is_ready_is_not_waited_for_any_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "START", 0.1)
    async with running("exec sleep 60", tmp_path) as program:
        with pytest.raises(TrafficError, match="tool is not ready: no output"):
            await program.wait_until(never)


@pytest.mark.parametrize(
    ("open_peer", "tool"), [(open_socat, "socat"), (open_pasta, "pasta"), (open_dpdk, "dpdk-testpmd")]
)
async def test_a_program_that_is_not_installed_is_an_error_before_anything_changes(
    open_peer: Open, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    rc, ep = (End(f"none-{at}", "vnet0", (ip_interface(f"198.18.0.{at}/24"),), None) for at in (1, 2))
    with pytest.raises(PrivilegeError, match=f"not installed: {tool}"):
        async with open_peer(rc, ep):
            pass
