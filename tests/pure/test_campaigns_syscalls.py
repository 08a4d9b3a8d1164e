"""Failing system calls: the table of errors and the shim name the same calls, and each call is counted by its site."""

from __future__ import annotations

import errno
import os
import random
import re
import socket
from collections import Counter
from pathlib import Path

import pytest
from campaigns.syscalls import child
from campaigns.syscalls.campaign import Plan
from campaigns.syscalls.errors import BY_NUMBER, ERRORS, READS, WRITES, errors_of, kind_of
from campaigns.syscalls.machine import SOURCE, Fault

from vnet.linux.memory import HostMemory


def test_the_shim_wraps_the_calls_that_have_errors() -> None:
    wrapped = re.findall(r"\b(?:OF_\w+|RETURNS_\w+)\((\w+)\)", re.sub(r"#define.*", "", SOURCE.read_text()))
    by_hand = ["close", "mmap64", "syscall", "write"]
    listed = {*ERRORS, *READS, *WRITES, *(name for name, _ in BY_NUMBER), "close", "ioctl"}
    assert sorted([*wrapped, *by_hand]) == sorted(listed)
    assert all(f"Word {name}(" in SOURCE.read_text() for name in by_hand)


def test_errors_are_those_of_the_kind_of_file(tmp_path: Path) -> None:
    memory = HostMemory(1 << 20)
    ours, theirs = socket.socketpair()
    event, pipe = os.eventfd(0), os.pipe()
    with ours, theirs, (tmp_path / "file").open("wb") as file:
        assert errors_of("write", kind_of(file.fileno()), 0) == [errno.EINTR, errno.EIO, errno.ENOSPC]
        assert errors_of("close", kind_of(file.fileno()), 0) == [errno.EINTR, errno.EIO]
        assert errno.ECONNRESET in errors_of("recv", kind_of(ours.fileno()), 0)
        for fd in (ours.fileno(), event, pipe[0], memory.fd):
            assert errors_of("close", kind_of(fd), 0) == []  # Linux has none for these
        assert errors_of("epoll_ctl", "event", 1) == [errno.ENOMEM, errno.ENOSPC]
        assert errors_of("epoll_ctl", "event", 2) == []  # removing
    memory.close()
    for fd in (event, *pipe):
        os.close(fd)
    assert kind_of(event) == ""


def call(watch: child.Watch) -> int:
    return watch.decide(b"flock", -1, 0)


def test_one_call_of_one_site_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The site is named by the line that calls, and by the line that calls its function."""
    monkeypatch.setattr(child, "OWN", ("pure",))
    reader, writer = os.pipe()
    watch = child.Watch(None, writer)
    assert [call(watch) for _ in range(3)] == [0, 0, 0]
    [(site, (count, errors))] = watch.result()["sites"].items()
    assert re.fullmatch(r"flock < pure/test_campaigns_syscalls\.py:\d+ < pure/test_campaigns_syscalls\.py:\d+", site)
    assert (count, errors) == (3, [errno.EAGAIN, errno.EINTR, errno.ENOLCK])

    lines = site.rsplit(":", 1)[0]
    monkeypatch.setattr(child.Watch, "_site", lambda *_: lines)
    watch = child.Watch((lines, errno.ENOLCK, 2), writer)
    assert [call(watch) for _ in range(3)] == [0, errno.ENOLCK, 0]
    assert os.read(reader, 10) == b"hit\n"
    os.close(reader)
    os.close(writer)


def test_each_fault_comes_once_before_any_other_call_of_its_site() -> None:
    faults = [Fault("a", errno.EIO), Fault("b", errno.EIO)]
    plan = Plan(faults, {"a": 5, "b": 1}, Counter())
    dice = random.Random(1)
    assert [plan.pick(number, dice) for number in range(2)] == faults
    assert {plan.pick(2, dice).number for _ in range(99)} == {1, 2, 3, 4, 5}
    assert {plan.pick(3, dice).number for _ in range(9)} == {1}
