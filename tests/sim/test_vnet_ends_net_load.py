"""The loads of a network device notice frames that differ, come twice or are lost, and send again what was lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vnet.ports.packet.memory import MemoryPort
from vnet.sim.configuration import Configuration
from vnet.sim.trial import run_trial
from vnet.topology.samples import built_in

TRIAL = Configuration(built_in("net", keys='driver = { kind = "memory" }'), "FILE", seconds=1)
Change = Callable[[bytes], list[bytes]]


def run(monkeypatch: pytest.MonkeyPatch, load: str, change: Change, every: int = 10) -> dict[str, object]:
    """Run a trial with one load, in which ``change`` replaces each ``every``-th frame that is sent."""
    inject, calls = MemoryPort.inject, [0]

    def changed(self: MemoryPort, frame: bytes, header: bytes = bytes(12)) -> bool:
        calls[0] += 1
        return all(inject(self, each, header) for each in (change(frame) if not calls[0] % every else [frame]))

    monkeypatch.setattr(MemoryPort, "inject", changed)
    return run_trial(Configuration(TRIAL.topology, "FILE", seconds=1, loads=(load,)), 1, [])


def failure(result: dict[str, object]) -> str:
    assert isinstance(result["failure"], dict)
    assert result["failure"]["kind"] == "data"
    return str(result["failure"]["text"])


def flip(frame: bytes) -> list[bytes]:
    return [frame[:-1] + bytes((frame[-1] ^ 1,))]


def test_an_echo_with_other_data_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failure(run(monkeypatch, "ping", flip)).endswith("bytes arrived with other data")


def test_an_echo_that_arrives_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failure(run(monkeypatch, "ping", lambda frame: [frame] * 2)).endswith("arrived twice")


def test_echoes_that_are_lost_without_a_fault_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failure(run(monkeypatch, "ping", lambda frame: [], 1)) == "ping on net0: echoes are lost without a fault"


def test_a_segment_with_other_data_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "of the stream arrived with other data" in failure(run(monkeypatch, "tcp", flip, 7))


def test_lost_segments_are_sent_again_and_those_that_come_twice_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, "tcp", lambda frame: [frame, frame], 3)
    assert result["failure"] is None
    monkeypatch.undo()
    text = failure(run(monkeypatch, "tcp", lambda frame: [], 5))
    assert text == "tcp on net0: segments are lost without a fault"


def test_segments_are_cut_by_a_port_that_may_not_have_long_ones() -> None:
    keys = 'driver = { kind = "memory" }\nlocal_features_off = ["GUEST_TSO4"]'
    system = built_in("net", keys=keys, mode="mediated")
    result = run_trial(Configuration(system, "FILE", seconds=1, check=True, loads=("tcp",)), 1, [])
    assert result["failure"] is None
    assert result["loads"][0]["retries"] == 0
