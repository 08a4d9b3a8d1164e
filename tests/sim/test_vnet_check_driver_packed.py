"""The watched packed ring: each clause about lists, tables and flags that a driver by hand breaks, and its laps."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drivers.transports.vhost_user.constants import FrontendRequest
from support.rigs.watching import Watch, check_broken, watching
from vnet.check.front import EVENT_IDX, INDIRECT_DESC, RING_PACKED
from vnet.check.split import INDIRECT, NEXT, WRITE, Desc
from vnet.check.verdicts import exit_status


def _list(*flags: int) -> Callable[[Watch], None]:
    """A list of one descriptor of 16 bytes for each of ``flags``, the first one last."""

    def write(watch: Watch) -> None:
        ring, addr = watch.main.as_packed, watch.front.arena.alloc(64 * len(flags))
        for at in reversed(range(len(flags))):
            ring.write(at, addr + 64 * at, 16, 1, flags[at] | ring.available(at))

    return write


def _unmarked(watch: Watch) -> None:
    ring, addr = watch.main.as_packed, watch.front.arena.alloc(64)
    ring.write(1, addr, 16, 1, WRITE)
    ring.write(0, addr, 16, 1, WRITE | NEXT | ring.available(0))


def _table(flags: int, inner: int = WRITE) -> Callable[[Watch], None]:
    def write(watch: Watch) -> None:
        ring, arena = watch.main.as_packed, watch.front.arena
        table = arena.put(Desc(arena.alloc(16), 16, 0, inner).emit(), 16)
        ring.write(1, arena.alloc(16), 16, 1, WRITE | ring.available(1))
        ring.write(0, table, 16, 1, INDIRECT | flags | ring.available(0))

    return write


def _flags(watch: Watch) -> None:
    watch.main.as_packed.suppress(0, 3)
    _list(WRITE)(watch)


@pytest.mark.parametrize(
    ("ident", "write", "features"),
    [
        ("PACKED-DRV-4", _unmarked, ()),
        ("PACKED-DRV-7", _flags, (EVENT_IDX,)),
        ("PACKED-DRV-13", _list(*[NEXT | WRITE] * 16), ()),
        ("PACKED-DRV-14", _list(NEXT | WRITE, 0), ()),
        ("PACKED-DRV-18", _table(0), ()),
        ("PACKED-DRV-19", _table(0, NEXT), (INDIRECT_DESC,)),
        ("PACKED-DRV-21", _table(NEXT), (INDIRECT_DESC,)),
    ],
)
async def test_a_bad_list_is_a_finding(ident: str, write: Callable[[Watch], None], features: tuple[int, ...]) -> None:
    async with watching("rng", RING_PACKED, *features) as watch:
        write(watch)
        watch.main.kick()
    check_broken(watch, ident, "")


async def test_a_new_ring_whose_place_has_no_used_half_begins_in_the_first_lap() -> None:
    async with watching("rng", RING_PACKED) as watch:
        await watch.front.ask(FrontendRequest.GET_VRING_BASE, bytes(8))
        watch.front.new_ring(0, 16, packed=True)
        await watch.front.start(watch.main, 1 << 15)
        for _ in range(20):
            assert await watch.serve(watch.kind.request(watch.front)) == ""


async def test_a_notification_comes_when_a_used_descriptor_passes_the_position() -> None:
    """Over two laps, with positions of this lap and of the former one."""
    async with watching("rng", RING_PACKED, EVENT_IDX) as watch:
        ring = watch.main.as_packed
        for ahead in (0, 1, 2, 5) * 6:
            position = ring.next_used + ahead
            ring.suppress(position % ring.num | ring.lap(position) << 15, 2)
            watch.main.calls()
            assert await watch.serve(watch.kind.request(watch.front)) == ""
            assert bool(watch.main.calls()) is (ahead < 2)  # a request has two descriptors
    assert exit_status(watch.results().values(), strict=True) == 0
