"""Two data link layers and the wires between them, with faults: every TLP arrives once and in order, or is reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

import pytest

from vnet.link.datalink.dllps import Ack, emit
from vnet.link.datalink.errors import DataLinkError
from vnet.link.datalink.frames import frame_dllp, frame_tlp
from vnet.link.datalink.layer import DataLink, DataLinkState, DataLinkTimes
from vnet.link.datalink.replay import ReplayBuffer
from vnet.link.transaction.codec import emit as emit_tlp
from vnet.link.transaction.flow import Credits, Flow, taken_by
from vnet.link.transaction.packets import Header, MemoryWrite

TIMES = DataLinkTimes(ack_latency=500, replay_timeout=3000)
GRANTED = {flow: Credits(8, 64) for flow in Flow}
HOP = 100
Fault = Callable[[bytes], list[bytes]]
"""Returns the frames that arrive for one that was sent."""


def tlp(number: int, size: int = 16) -> bytes:
    data = number.to_bytes(4, "big") * (size // 4)
    return emit_tlp(MemoryWrite(header=Header(0x0100), address=0x1000, last=0xF if size > 4 else 0, data=data))


def is_tlp(frame: bytes) -> bool:
    return frame[0] == 0xFB


class Wires:
    """Two layers, 0 and 1. Frames take `HOP` nanoseconds, one after the other."""

    def __init__(self, fault: Fault = lambda frame: [frame]) -> None:
        self.errors: Counter[DataLinkError] = Counter()
        self.retrains = 0
        self.now = 0
        self.fault = fault
        self.layers = [DataLink(TIMES, GRANTED, report=self._report, retrain=self._retrain, room=32) for _ in range(2)]
        self.delivered: list[list[bytes]] = [[], []]
        for layer in self.layers:
            layer.link_up(self.now)

    def _report(self, error: DataLinkError) -> None:
        self.errors[error] += 1

    def _retrain(self) -> None:
        self.retrains += 1

    def step(self) -> bool:
        """Send a frame each way, or let time pass until a deadline."""
        self.now += HOP
        moved = False
        for number, layer in enumerate(self.layers):
            frame = layer.take(self.now)
            for arriving in [] if frame is None else self.fault(frame):
                packet = self.layers[1 - number].receive(arriving, self.now)
                if packet is not None:
                    self.delivered[1 - number].append(packet)
                    self.layers[1 - number].free(taken_by(packet))
            moved |= frame is not None
        if not moved:
            self.now = max(self.now, int(min(min(layer.deadline, layer.ready) for layer in self.layers)))
        for layer in self.layers:
            if self.now >= layer.deadline:
                layer.expire(self.now)
        return moved

    def run(self, done: Callable[[], bool], steps: int = 200_000) -> None:
        for _ in range(steps):
            if done():
                return
            self.step()
        raise AssertionError("it takes too long")

    def activate(self) -> Wires:
        self.run(lambda: all(layer.active for layer in self.layers))
        return self

    def send(self, count: int) -> None:
        """Send TLPs in both directions; the independent observer is the comparison of the two lists."""
        sent: list[list[bytes]] = [[], []]
        waiting: list[Iterator[bytes]] = [
            (tlp(number, 4 + 4 * (number % 40)) for number in range(count)) for _ in range(2)
        ]
        nexts = [next(each, None) for each in waiting]

        def feed() -> bool:
            for number, layer in enumerate(self.layers):
                packet = nexts[number]
                while packet is not None and layer.accepts(packet):
                    layer.send(packet)
                    sent[number].append(packet)
                    packet = next(waiting[number], None)
                nexts[number] = packet
            for number in range(2):
                arrived = self.delivered[1 - number]
                assert arrived == sent[number][: len(arrived)], "a TLP arrived twice or out of order"
            return nexts == [None, None] and all(
                len(self.delivered[1 - number]) == len(sent[number]) == count for number in range(2)
            )

        self.run(feed)
        self.run(lambda: not any(layer.sender.unacknowledged for layer in self.layers))


def test_credits_are_initialised_before_the_first_tlp() -> None:
    wires = Wires()
    assert not wires.layers[0].accepts(tlp(0))
    wires.activate()
    assert [layer.state for layer in wires.layers] == [DataLinkState.ACTIVE] * 2
    assert wires.layers[0].accepts(tlp(0))


def test_sequence_numbers_go_round_without_a_fault() -> None:
    wires = Wires().activate()
    wires.send(5000)
    assert not wires.errors
    assert not wires.retrains
    assert not any(layer.sender.repeated or layer.receiver.duplicates for layer in wires.layers)


def damage(frame: bytes, random: Random) -> bytes:
    bit = random.randrange(len(frame) * 8)
    return (int.from_bytes(frame, "big") ^ 1 << bit).to_bytes(len(frame), "big")


class Bad:
    """A wire with each fault at a rate: damaged, lost, duplicated."""

    def __init__(self, seed: int, rate: float) -> None:
        self.random, self.rate = Random(seed), rate

    def __call__(self, frame: bytes) -> list[bytes]:
        chance = self.random.random() / self.rate
        if chance < 1:
            return [damage(frame, self.random)]
        if chance < 2:
            return []
        if chance < 3:
            return [frame, frame]
        return [frame]


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05])
@pytest.mark.parametrize("seed", range(5))
def test_on_bad_wires_each_tlp_arrives_once_and_in_order(rate: float, seed: int) -> None:
    wires = Wires(Bad(seed, rate)).activate()
    wires.send(600)
    assert DataLinkError.PROTOCOL not in wires.errors
    assert DataLinkError.OVERFLOW not in wires.errors
    if rate == 0.05:
        assert {DataLinkError.BAD_TLP, DataLinkError.BAD_DLLP} <= set(wires.errors)


def once(kind: Callable[[bytes], bool], *result: Callable[[bytes], bytes], times: int = 1) -> Fault:
    """Return the fault of the first ``times`` frames of a kind."""
    left = [times]

    def fault(frame: bytes) -> list[bytes]:
        if left[0] and kind(frame):
            left[0] -= 1
            return [change(frame) for change in result]
        return [frame]

    return fault


def same(frame: bytes) -> bytes:
    return frame


def is_ack(frame: bytes) -> bool:
    return not is_tlp(frame) and frame[1] == 0


def test_a_damaged_tlp_is_repeated_after_a_nak() -> None:
    wires = Wires().activate()
    wires.fault = once(is_tlp, lambda frame: damage(frame[:10], Random(1)) + frame[10:])
    wires.send(3)
    assert wires.errors[DataLinkError.REPLAY_TIMEOUT] == 0
    assert sum(wires.errors.values()) == 1


def test_a_lost_tlp_is_noticed_by_the_number_of_the_next_one() -> None:
    wires = Wires().activate()
    wires.fault = once(is_tlp)
    wires.send(3)
    assert wires.errors[DataLinkError.BAD_TLP] == 1


def test_a_lost_last_tlp_is_noticed_by_the_replay_timer() -> None:
    wires = Wires().activate()
    wires.fault = once(is_tlp, times=2)
    wires.send(1)
    assert wires.errors == {DataLinkError.REPLAY_TIMEOUT: 2}


def test_a_lost_ack_costs_a_replay_that_the_receiver_drops() -> None:
    wires = Wires().activate()
    wires.fault = once(is_ack)
    wires.send(1)
    assert sum(layer.receiver.duplicates for layer in wires.layers) >= 1


def test_a_duplicate_is_dropped_without_an_error() -> None:
    wires = Wires().activate()
    wires.fault = once(is_tlp, same, same)
    wires.send(2)
    assert not wires.errors
    assert sum(layer.receiver.duplicates for layer in wires.layers) == 1


def test_four_replays_without_progress_retrain_the_link() -> None:
    wires = Wires().activate()
    wires.fault = once(is_ack, times=8)
    wires.send(1)
    assert wires.errors[DataLinkError.REPLAY_ROLLOVER] == wires.retrains > 0


def test_a_lost_update_of_credits_is_repeated() -> None:
    wires = Wires().activate()
    wires.fault = once(lambda frame: not is_tlp(frame) and frame[1] >> 6 == 2, times=30)
    wires.send(100)
    assert not wires.errors


def test_silence_about_credits_retrains_the_link() -> None:
    wires = Wires().activate()
    wires.fault = lambda frame: []
    wires.run(lambda: wires.retrains > 0)


def test_an_ack_of_a_tlp_that_was_not_sent_is_a_protocol_error() -> None:
    wires = Wires().activate()
    wires.layers[0].receive(frame_dllp(emit(Ack(5))), wires.now)
    assert wires.errors == {DataLinkError.PROTOCOL: 1}


def test_a_tlp_without_credits_overflows_the_receiver() -> None:
    wires = Wires().activate()
    for number in range(9):
        arrived = wires.layers[0].receive(frame_tlp(number, tlp(number)), wires.now)
        assert (arrived is None) == (number == 8)
    assert wires.errors == {DataLinkError.OVERFLOW: 1}


@pytest.mark.parametrize("room", [0, 2048])
def test_a_replay_buffer_is_smaller_than_half_of_the_sequence_numbers(room: int) -> None:
    with pytest.raises(ValueError, match="must be 1 to 2047"):
        ReplayBuffer(1000, room)


def test_a_layer_that_is_down_takes_nothing_and_forgets_all() -> None:
    wires = Wires().activate()
    layer = wires.layers[0]
    layer.send(tlp(0))
    layer.link_down()
    assert layer.take(wires.now) is None
    assert layer.receive(frame_tlp(0, tlp(0)), wires.now) is None
    assert not layer.sender.unacknowledged
