"""The lesson about the split ring: the index comes last, and counts requests."""

from __future__ import annotations

from support.lessons import frames
from vnet.learn.step import Cell


def test_an_index_is_stored_after_everything_it_publishes() -> None:
    add, publish = frames("split")[1:3]
    assert "avail.idx" not in add.stores("driver")
    assert publish.stores("driver") == ["avail.idx"]
    assert list(publish.changes) == [Cell("avail.idx", "0", "1")]


def test_the_used_length_is_what_the_device_wrote() -> None:
    answer = frames("split")[4]
    assert answer.value("used.ring[0].len") == str(len(answer.value("answer")) - len("''"))


def test_the_fifth_request_is_in_the_first_entry_again() -> None:
    last = frames("split")[-1]
    assert last.value("avail.idx") == "5"
    assert "avail.ring[0]" in last.stores("driver")
