"""The lesson about EVENT_IDX: a notification is due only if an event is passed."""

from __future__ import annotations

from support.lessons import frames


def test_event_idx_suppresses_all_notifications_but_two() -> None:
    notified = [frame.step.title for frame in frames("event-idx") if frame.outcome.endswith("notify the device: yes.")]
    called = [frame.step.title for frame in frames("event-idx") if frame.outcome.endswith("notify the driver: yes.")]
    assert notified == ["The driver publishes entry 0"]
    assert called == ["The device uses the other two"]


def test_the_look_after_the_event_finds_the_chain_that_was_not_notified() -> None:
    missed, look = frames("event-idx")[4:6]
    assert (missed.result, look.result) == (False, True)
    assert [one.act for one in look.trace] == ["store", "fence", "load"]
