"""The lesson about hostile chains: the device latches the queue, says why, and recovers by a reset."""

from __future__ import annotations

import pytest

from support.lessons import live_frames, titled


@pytest.mark.parametrize(
    ("title", "reason"),
    [
        ("A loop", "transmitq1: chain 0: loops, or is longer than 4 descriptors"),
        ("A head out of range", "transmitq1: available entry 0 names descriptor 9 of 4"),
        ("An unreachable address", "transmitq1: read of 72 bytes at 0xdead0000: no memory there"),
    ],
)
async def test_a_hostile_chain_latches_the_queue_until_a_reset(title: str, reason: str) -> None:
    done = await live_frames("hostile")
    broken = titled(done, title)
    assert broken.value("device_status").endswith("NEEDS_RESET")
    assert broken.outcome.endswith(f"The device's reason: {reason}.")
    assert broken.trace[-1].text == "MSI-X vector 0: configuration or status"
    reset = next(frame for frame in done[broken.number :] if frame.step.title == "Reset")
    assert reset.value("device_status") == "0"


async def test_a_latched_queue_takes_no_chain() -> None:
    late = titled(await live_frames("hostile"), "A good chain, too late")
    assert {one.actor for one in late.trace} == {"driver"}
