"""The lesson about bring-up: the status moves in order, and a frame goes through the queue."""

from __future__ import annotations

from support.lessons import live_frames, titled


async def test_bring_up_moves_the_status_in_order_and_a_frame_through_the_queue() -> None:
    done = await live_frames("bring-up")
    moves = [frame.value("device_status") for frame in done]
    assert list(dict.fromkeys(moves)) == [
        "0",
        "ACKNOWLEDGE DRIVER",
        "ACKNOWLEDGE DRIVER FEATURES_OK",
        "ACKNOWLEDGE DRIVER FEATURES_OK DRIVER_OK",
    ]
    assert moves[-1] == "0"
    refused = titled(done, "A set that the device refuses")
    assert refused.value("device_status") == "ACKNOWLEDGE DRIVER"
    doorbell = titled(done, "The doorbell")
    assert doorbell.outcome.endswith("a frame of 60, as sent.")
    assert [one.text for one in doorbell.trace if one.act == "interrupt"] == ["MSI-X vector 1: transmitq1"]
    acts = [one.act for one in doorbell.trace]
    assert acts.index("notify") < acts.index("map") < acts.index("interrupt")


async def test_registers_in_the_picture_are_those_that_the_driver_wrote() -> None:
    frame = titled(await live_frames("bring-up"), "Set up a queue")
    written = dict(one.text.split(" = ") for one in frame.trace if one.act == "write")
    for name in ("size", "desc", "driver", "device", "msix_vector", "enable"):
        assert frame.value(f"queue1.{name}") == written[f"queue_{name}"]
