"""Threads that the kernel refuses to start."""

from __future__ import annotations

import threading
from typing import NoReturn

import pytest
import trio

from vnet.linux.netns import run_in_netns
from vnet.linux.threads import NO_THREAD, NoThread, run_in_thread, run_in_thread_or_here, start_thread
from vnet.ports.disk.store import FileStore


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse all threads, as Python says it at the limit of processes."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(trio.to_thread, "run_sync", refuse)


@pytest.mark.usefixtures("no_threads")
async def test_a_thread_that_is_refused_is_an_error_of_the_system() -> None:
    with pytest.raises(NoThread, match="ulimit -u"):
        await run_in_thread(int)
    with pytest.raises(NoThread, match="ulimit -u"):
        start_thread(threading.Thread(target=int))
    with pytest.raises(OSError, match="ulimit -u"):
        run_in_netns("any", int)


@pytest.mark.usefixtures("no_threads")
async def test_clean_up_happens_even_so() -> None:
    assert await run_in_thread_or_here(int, "7") == 7


@pytest.mark.usefixtures("no_threads")
async def test_a_request_of_a_disk_fails_alone() -> None:
    store = FileStore(-1, None, 1)  # type: ignore[arg-type]
    for _ in range(2):  # the second one finds the first one's place free
        with pytest.raises(OSError, match=NO_THREAD.partition(";")[0]):
            await store.flush()


async def test_errors_of_the_call_stay_as_they_are() -> None:
    def fail() -> NoReturn:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        await run_in_thread(fail)
    assert await run_in_thread(int, "7") == 7
