"""The load of an rpmsg device notices a message that differs, one that comes late, and one that is lost at the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drivers.devices.rpmsg import Endpoint
from vnet.sim.configuration import Configuration
from vnet.sim.trial import run_trial
from vnet.topology.samples import built_in

TRIAL = Configuration(built_in("rpmsg"), "FILE", seconds=1)


def failure(monkeypatch: pytest.MonkeyPatch, change: Callable[[list[bytes]], list[bytes]]) -> str:
    """Return the failure if ``change`` replaces what arrived so far, the 20th message of an endpoint last."""
    take, arrived = Endpoint.take, dict[int, list[bytes]]()

    def changed(self: Endpoint, src: int, data: bytes, /) -> bool:
        own = arrived.setdefault(id(self), [])
        own.append(data)
        if len(own) < 20:
            return take(self, src, data)
        return all(take(self, src, message) for message in change(own))

    monkeypatch.setattr(Endpoint, "take", changed)
    result = run_trial(TRIAL, 1, [])
    assert result["failure"]["kind"] == "data"
    return str(result["failure"]["text"])


def test_a_changed_message_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = failure(monkeypatch, lambda messages: [messages[-1] + b"x"])
    assert "has other data than were sent" in text


def test_a_message_that_arrives_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "arrived after message" in failure(monkeypatch, lambda messages: messages[-1:] * 2)


def test_a_message_that_is_lost_without_a_fault_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failure(monkeypatch, lambda messages: []) == "rpmsg on rpmsg0: messages are lost without a fault"


def test_messages_over_a_mediator_arrive() -> None:
    result = run_trial(Configuration(built_in("rpmsg", mode="mediated"), "FILE", seconds=1, check=True), 1)
    assert result["failure"] is None
    assert result["loads"][0]["bytes"] > 1000
