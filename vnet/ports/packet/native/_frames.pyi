# `_frames.c` describes each function.

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from drivers.contracts.ports import KnownHeads
from rings.memory import Addr

def send_each(
    fd: int,
    view: memoryview,
    frames: Sequence[tuple[int, ...]],
    known: KnownHeads,
    heads: Mapping[bytes, bytes] | None,
    exceptions: AbstractSet[bytes] | None,
    single: bool,
    pitch: int,
    /,
) -> tuple[int, int]: ...
def recv_each(
    fd: int,
    view: memoryview,
    targets: Sequence[object],
    limit: int,
    budget: int,
    addrs: Sequence[Addr] | None,
    base: int,
    room: int,
    fronts: Mapping[object, bytes],
    front_size: int,
    size_max: float,
    verdicts: Mapping[bytes, str] | None,
    one_buffer: bool,
    /,
) -> tuple[list[tuple[int, ...]], int, int]: ...
