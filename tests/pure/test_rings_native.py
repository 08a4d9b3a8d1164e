"""The plain path in C: where it is used, and where it is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rings.errors import LocalRingError
from rings.layout import INDIRECT, NEXT, WRITE
from rings.native.device import PlainFirst
from rings.observers.live import watch_device
from rings.observers.observed import Observer
from support.native import NEEDS_NATIVE
from support.rigs.twin import PAYLOAD, Call, every_batch_in_c, play, twin

pytestmark = NEEDS_NATIVE


@pytest.mark.parametrize("form", ["split", "packed"])
def test_the_calls_that_are_compared_do_run_in_c(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the ten functions moves chains over several laps, with a chain for Python in between."""
    from rings.native import _rings

    moved: dict[str, int] = {}

    def counted(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            result = function(*args)
            first = result[0] if isinstance(result, tuple) else result
            moved[name] = moved.get(name, 0) + (first is not None and first is not False and first != [])
            return result

        return call

    for name in ("take", "tables", "complete", "add", "get"):
        monkeypatch.setattr(_rings, f"{form}_{name}", counted(name, getattr(_rings, f"{form}_{name}")))
    lap: list[Call] = [
        ("add", (0, 16, 3, 0)),
        ("publish", ()),
        ("take", (8,)),
        ("complete", (8, 0, 0, 0)),
        ("call", ()),
    ]
    more: list[Call] = [
        *lap,
        ("get", (8,)),
        ("chain", (1, 1)),
        ("publish", ()),
        ("take", (8,)),
        ("complete", (8, 1, 0, 0)),
    ]
    native, _ = play(form, 4, False, [*more, ("call", ()), ("get", (8,))] * 5)
    assert native.driver.num_free == 4
    assert native.driver.statistics().returned == 20
    assert all(moved[name] >= 5 for name in ("take", "complete", "add", "get")), moved
    assert moved["tables"] == 4, "the first was Python's, which found a table"


@pytest.mark.parametrize("form", ["split", "packed"])
def test_a_ring_that_is_watched_takes_nothing_in_c(form: str) -> None:
    ring, _ = play(form, 4, False, [("add", (0, 16, 3, 0)), ("publish", ())])
    assert ring.device.native
    end = watch_device(ring.device, lambda _: Observer())
    assert not ring.device.native
    assert not ring.device.getplain(4, False)[1]
    end()
    assert ring.device.native
    ring.memory.view(PAYLOAD, 1)
    assert len(ring.device.getplain(4, False)[1]) == 3


@pytest.mark.parametrize("form", ["split", "packed"])
def test_a_released_view_raises_as_in_python(form: str) -> None:
    native, python = twin(form, 4, False, True), twin(form, 4, False, False)
    words = []
    for ring in (native, python):
        ring.memory.close()
        with every_batch_in_c(), pytest.raises(ValueError, match="released") as caught:
            ring.device.getdescs(4)
        words.append(str(caught.value))
    assert words[0] == words[1]


@pytest.mark.parametrize("form", ["split", "packed"])
def test_a_chain_that_is_not_in_flight_is_our_own_error(form: str) -> None:
    native, _ = play(form, 4, False, [("add", (0, 16, 2, 0)), ("publish", ()), ("take", (2,))])
    with pytest.raises(LocalRingError, match="was not taken"):
        native.device.complete_each([(native.heads[0], 0), (3, 0)])
    with pytest.raises(IndexError):
        native.device.complete_each([(99, 0)])


WORDS = [
    0,
    (1 << 64) - 1,
    PAYLOAD,
    PAYLOAD + 4095,
    *(
        16 | flags << at | following << 48
        for at in (32, 48)
        for flags in (0, NEXT, WRITE, NEXT | WRITE, INDIRECT, INDIRECT | NEXT)
        for following in ((0, 1, 2, 3, 4, 0xFFFF) if at == 32 else (0,))
    ),
    1 << 32,
    (1 << 32) - 1 | NEXT << 32 | 1 << 48,
]
"""Words that a hostile driver puts into an indirect table: addresses, and sizes with flags of either format."""


@pytest.mark.hostile("R08", "R09", "R12", "R13")
@pytest.mark.parametrize("form", ["split", "packed"])
@pytest.mark.parametrize("readable", [1, 2])
def test_a_hostile_table_has_the_same_outcome(form: str, readable: int) -> None:
    taken: list[Call] = [("chain", (readable, 2)), ("publish", ())]
    lap: list[Call] = [*taken, ("take", (8,)), ("complete", (8, 0, 0, 0)), ("call", ()), ("get", (8,))]
    for at in range(8):
        for word in WORDS:
            native, _ = play(form, 4, False, [*lap, *taken, *taken, ("word", (3, at, word, 3)), ("take", (8,))])
            assert isinstance(native.device, PlainFirst)
            assert native.device._last_tables
