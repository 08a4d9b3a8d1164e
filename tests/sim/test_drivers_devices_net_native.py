"""Both sides of a net device with the plain path in C, beside the same in Python: same frames, counters and ring."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import pytest

from drivers.flow.pump import QueueEnd
from rings.formats import FORMATS
from rings.memory import Addr
from rings.native import NATIVE
from support.native import NEEDS_NATIVE
from support.rigs.net_flows import NUM, SIZE, End, Stack, frames
from support.rigs.tun import IPV4, OWN, PEER, PLAIN, ipv6

if TYPE_CHECKING or NATIVE:
    from vnet.ports.packet.native import _frames

pytestmark = NEEDS_NATIVE


async def run(
    form: str, kind: str, filtered: bool, seed: int, native: Sequence[bool], watched: bool, size: int = SIZE
) -> list[Stack]:
    stacks = [Stack(form, kind, each, filtered, size) for each in native]
    for stack in stacks:
        await stack.start()
        if watched:
            stack.watch()
    rng = random.Random(seed)
    for _ in range(40):
        for end in (0, 1):
            for frame in frames(rng, kind, end):
                for stack in stacks:
                    stack.write(end, frame)
        for flow in rng.choices(range(4), k=6):
            moved = [stack.move(flow) for stack in stacks]
            assert moved[0] == moved[-1], flow
        if rng.random() < 0.1:
            for stack in stacks:
                stack.ports[0].set_mac(OWN)  # the caches are forgotten
        for end in (0, 1):
            came = [stack.read(end) for stack in stacks]
            assert came[0] == came[-1]
        assert stacks[0].figures() == stacks[-1].figures()
        assert stacks[0].seen == stacks[-1].seen
    assert bool(stacks[0].seen) == watched
    return stacks


@pytest.mark.parametrize("kind", ["tun", "tap"])
@pytest.mark.parametrize("form", ["split", "packed"])
@pytest.mark.parametrize("filtered", [False, True], ids=["unfiltered", "filtered"])
@pytest.mark.parametrize("watched", [False, True], ids=["unwatched", "watched"])
async def test_frames_and_figures_are_the_same_on_both_paths(
    form: str, kind: str, filtered: bool, watched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.ioctl", lambda *_: 0)
    moved = {"send_each": 0, "recv_each": 0}

    def counted(name: str) -> Callable[..., tuple[object, ...]]:
        function: Callable[..., tuple[object, ...]] = getattr(_frames, name)

        def call(*args: object) -> tuple[object, ...]:
            result = function(*args)
            moved[name] += len(result[0]) if isinstance(result[0], list) else cast(int, result[0])
            return result

        return call

    for name in moved:
        monkeypatch.setattr(_frames, name, counted(name))
    for seed in range(6):
        stacks = await run(form, kind, filtered, seed, (True, False), watched)
        assert all(each.packets > 50 for each in stacks[0].traffic)
        for stack in stacks:
            stack.close()
    assert all(frames > 500 for frames in moved.values()), moved


@pytest.mark.parametrize("form", ["split", "packed"])
async def test_a_frame_that_c_read_is_received_once(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python takes a chain for a frame that C read, then a chain that C does not take: no frame is left for it."""
    monkeypatch.setattr("fcntl.ioctl", lambda *_: 0)
    stack = Stack(form, "tap", native=True, filtered=False)
    await stack.start()
    memory, flow = stack.memory, stack.flows[2]
    area, data = memory.alloc(1 << 14, 4096), memory.alloc(3 * SIZE, 4096)
    addrs, _ = FORMATS[form].contiguous(NUM, area.addr, 4096)
    driver = FORMATS[form].driver(memory, NUM, addrs, event_idx=True)
    device = FORMATS[form].device(memory, NUM, addrs, event_idx=True, indirect=False)
    flow.queue = cast("QueueEnd", End(device))
    driver.add((), [(data.addr, SIZE)], 1)
    driver.add((), [(Addr(data.addr + SIZE), SIZE), (Addr(data.addr + 2 * SIZE), 64)], 2)
    driver.publish()
    memory.view(data.addr, 1)  # the region that C may access is the last one
    stack.write(1, PLAIN + OWN + PEER + IPV4 + bytes(60))
    assert flow.move() == (1, stack.ports[1].wait_readable)
    device.publish()
    assert driver.get_each(NUM) == [(1, 12 + 14 + 60)]
    assert stack.ports[1].statistics().rx_packets == stack.traffic[2].packets == 1
    driver.close()
    device.close()
    stack.close()


async def test_a_packet_without_all_of_its_header_is_dropped_behind_one_with_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fcntl.ioctl", lambda *_: 0)
    stacks = [Stack("split", "tun", native, filtered=False) for native in (True, False)]
    whole = PLAIN + ipv6("2001:2::")
    for stack in stacks:
        await stack.start()
        for burst in ([whole], [whole, whole[: 12 + 28], whole]):  # the missing bytes of its destination are zeros
            for frame in burst:
                stack.write(0, frame)
            stack.move(0)
        assert stack.ports[0].statistics().drops == {"too_short": 1}
        assert stack.traffic[0].packets == 3
    assert stacks[0].figures() == stacks[1].figures()
    for stack in stacks:
        stack.close()


@pytest.mark.parametrize("kind", ["tun", "tap"])
@pytest.mark.parametrize("form", ["split", "packed"])
async def test_buffers_that_not_every_frame_fits_have_the_same_outcome_on_both_paths(
    form: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.ioctl", lambda *_: 0)
    for seed in range(3):
        for stack in await run(form, kind, True, seed, (True, False), True, 2048):
            stack.close()
