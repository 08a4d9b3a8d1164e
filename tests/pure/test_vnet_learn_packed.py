"""The lesson about the packed ring: one word publishes, and flags invert behind the end."""

from __future__ import annotations

from support.lessons import frames


def test_a_packed_chain_becomes_available_by_one_word_and_flags_invert_behind_the_end() -> None:
    steps = frames("packed")
    assert steps[2].stores("driver") == ["desc[0].len", "desc[0].id", "desc[0].flags"]
    across = next(frame for frame in steps if frame.step.title == "A chain across the end")
    assert (across.value("desc[3].flags"), across.value("desc[0].flags")) == ("NEXT AVAIL", "WRITE USED")


def test_one_used_descriptor_stands_for_a_chain_of_two() -> None:
    used = frames("packed")[4]
    assert {name.partition(".")[0] for name in used.stores("device")} == {"answer", "desc[0]"}
    assert used.value("desc[0].flags") == "WRITE AVAIL USED"
