"""A watched memory passes every access on, and logs it."""

from __future__ import annotations

from rings.memory import Addr, MappedMemory
from rings.watched import Access, Act, Watched

BASE = Addr(0x1000)


def test_words_views_and_fences_are_logged_in_their_order() -> None:
    memory = MappedMemory()
    memory.add(BASE, memoryview(bytearray(64)))
    watched = Watched(memory)
    words = watched.pin(BASE, 16, "I")
    words[1] = 7
    watched.fence()
    assert words[1] == 7
    assert watched.view(Addr(BASE + 4), 1)[0] == 7
    assert watched.log == [
        Access(Act.STORE, BASE + 4, 4),
        Access(Act.FENCE),
        Access(Act.LOAD, BASE + 4, 4),
        Access(Act.READ, BASE + 4, 1),
    ]
    watched.unpin(words)
