# `_rings.c` describes each function.

from collections.abc import Sequence
from typing import TypeAlias

from rings.chain import Chain
from rings.memory import Addr

_Plain: TypeAlias = list[tuple[int, int, int]]

def split_take(
    desc: memoryview,
    avail: memoryview,
    states: list[int],
    in_flight: int,
    base: int,
    size: int,
    num: int,
    first: int,
    count: int,
    batch: int,
    writable: bool,
    /,
) -> _Plain: ...
def split_tables(
    desc: memoryview,
    avail: memoryview,
    states: list[int],
    in_flight: int,
    base: int,
    view: memoryview,
    may_write: bool,
    longest: int,
    num: int,
    first: int,
    count: int,
    batch: int,
    budget: int,
    /,
) -> tuple[list[Chain], int]: ...
def split_complete(
    elems: memoryview,
    states: list[int],
    in_flight: int,
    batch: int,
    done: Sequence[tuple[int, ...]],
    num: int,
    used: int,
    count: int,
    unwritten: bool,
    /,
) -> bool: ...
def split_add(
    desc: memoryview,
    avail: memoryview,
    buffers: Sequence[tuple[Addr, int, int]],
    room: list[int],
    counts: list[int],
    tokens: list[int | None],
    following: list[int],
    num: int,
    head: int,
    added: int,
    writable: bool,
    /,
) -> int | None: ...
def split_get(
    elems: memoryview,
    room: list[int],
    counts: list[int],
    tokens: list[int | None],
    following: list[int],
    num: int,
    first: int,
    count: int,
    free: int,
    /,
) -> tuple[list[tuple[int, int]], int]: ...
def packed_take(
    desc: memoryview,
    states: list[int],
    counts: list[int],
    in_flight: int,
    base: int,
    size: int,
    num: int,
    slot: int,
    lap: int,
    limit: int,
    batch: int,
    writable: bool,
    /,
) -> _Plain: ...
def packed_tables(
    desc: memoryview,
    states: list[int],
    counts: list[int],
    in_flight: int,
    base: int,
    view: memoryview,
    may_write: bool,
    longest: int,
    num: int,
    slot: int,
    lap: int,
    limit: int,
    batch: int,
    budget: int,
    /,
) -> tuple[list[Chain], int]: ...
def packed_complete(
    desc: memoryview,
    states: list[int],
    counts: list[int],
    in_flight: int,
    batch: int,
    done: Sequence[tuple[int, ...]],
    num: int,
    slot: int,
    lap: int,
    first_slot: int,
    count: int,
    unwritten: bool,
    /,
) -> tuple[int, int, int, int] | None: ...
def packed_add(
    desc: memoryview,
    buffers: Sequence[tuple[Addr, int, int]],
    room: list[int],
    counts: list[int],
    tokens: list[int | None],
    ids: list[int],
    num: int,
    slot: int,
    lap: int,
    first_slot: int,
    writable: bool,
    /,
) -> tuple[int, int, int] | None: ...
def packed_get(
    desc: memoryview,
    room: list[int],
    counts: list[int],
    tokens: list[int | None],
    ids: list[int],
    num: int,
    slot: int,
    lap: int,
    in_flight: int,
    limit: int,
    /,
) -> tuple[list[tuple[int, int]], int, int, bool]: ...
