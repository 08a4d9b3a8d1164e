"""Buffers of a packed ring that the network device must not write, or not read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.rigs.net_flows import Stack
from support.rigs.tun import PLAIN, ipv4

ROOM = 200


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    monkeypatch.setattr("fcntl.ioctl", lambda *_: 0)
    stack = Stack("packed", "tun", False, False)
    yield stack
    stack.close()


@pytest.mark.virtio("PACKED-DEV-10", "PACKED-DEV-11")
@pytest.mark.parametrize("readable", [True, False])
def test_a_frame_with_a_writable_part_is_dropped_and_neither_part_is_touched(stack: Stack, readable: bool) -> None:
    frame = PLAIN + ipv4()
    buffers = [stack.memory.alloc(ROOM), stack.memory.alloc(ROOM)]
    sent, room = (stack.memory.view(buffer.addr, ROOM, True) for buffer in buffers)
    sent[: len(frame)] = room[: len(frame)] = frame
    driver = stack.rings[0]
    parts = [(buffers[0].addr, len(frame))] if readable else []
    driver.add(parts, [(buffers[1].addr, ROOM)], 0)  # type: ignore[union-attr]
    driver.publish()
    stack.move(1)
    assert stack.traffic[1].drops == {"writable": 1}
    assert stack.read(1) == []
    assert sent[: len(frame)] == room[: len(frame)] == frame
    assert not any(room[len(frame) :])
