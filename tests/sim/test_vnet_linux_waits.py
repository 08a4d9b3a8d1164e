"""Waits for descriptors while the kernel lacks memory."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable

import pytest
import trio

from vnet.linux.waits import RETRY, wait_readable, wait_writable

Wait = Callable[[socket.socket], Awaitable[None]]


@pytest.mark.parametrize("wait", [wait_readable, wait_writable])
async def test_a_wait_outlasts_a_shortage_of_memory_and_of_watches(wait: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [errno.ENOMEM, errno.ENOSPC]

    async def fail_first(_: socket.socket) -> None:
        if errors:
            number = errors.pop(0)
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(trio.lowlevel, wait.__name__, fail_first)
    began = trio.current_time()
    with socket.socket() as source:
        await wait(source)
    assert trio.current_time() - began == pytest.approx(2 * RETRY)
    assert not errors


async def test_a_wait_for_a_closed_descriptor_fails_at_once() -> None:
    source = socket.socket()
    source.close()
    with pytest.raises((OSError, ValueError)):
        await wait_readable(source)
