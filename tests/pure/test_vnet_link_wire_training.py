"""Training of a link: two ports, lost ordered sets, recovery and hot reset."""

from __future__ import annotations

import pytest

from vnet.link.wire.training import SENT, TIMEOUT, TRANSITIONS, OrderedSet, Training, TrainingEvent, TrainingState

S, E = TrainingState, TrainingEvent


class TwoPorts:
    """Two ports; ``lost`` are the numbers of ordered sets that vanish."""

    def __init__(self, lost: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.ports = [Training(), Training()]
        self.lost, self.number, self.now = lost, 0, 0.0

    def settle(self, until: float = 200e6) -> None:
        """Exchange ordered sets until both ports are up, or in their first state, or the time is over."""
        while self.now < until:
            moved = False
            for at, port in enumerate(self.ports):
                symbols = port.take()
                if symbols is None:
                    continue
                moved, self.number = True, self.number + 1
                if self.number not in self.lost:
                    assert self.ports[1 - at].receive(symbols, self.now)
            if moved:
                continue
            if len({port.state for port in self.ports} | {S.L0, S.DETECT}) == 2:
                return
            self.now = min(port.deadline for port in self.ports)
            for port in self.ports:
                if port.deadline <= self.now:
                    port.expire(self.now)

    def train(self) -> TwoPorts:
        for port in self.ports:
            port.happen(E.PARTNER, self.now)
        self.settle()
        return self

    @property
    def states(self) -> list[TrainingState]:
        return [port.state for port in self.ports]


def test_two_ports_come_up() -> None:
    assert TwoPorts().train().states == [S.L0, S.L0]


@pytest.mark.parametrize("lost", range(1, 9))
def test_a_lost_ordered_set_is_repeated(lost: int) -> None:
    assert TwoPorts({lost}).train().states == [S.L0, S.L0]


def test_a_port_without_a_partner_gives_up() -> None:
    assert TwoPorts(set(range(10_000))).train().states == [S.DETECT, S.DETECT]


@pytest.mark.parametrize("lost", range(9))
def test_a_retrain_brings_both_ports_back(lost: int) -> None:
    ports = TwoPorts().train()
    ports.lost = {ports.number + lost}
    ports.ports[0].happen(E.RETRAIN, ports.now)
    ports.settle()
    assert ports.states == [S.L0, S.L0]
    assert ports.ports[0].retrains == 1


def test_a_recovery_without_an_answer_ends_in_the_first_state() -> None:
    ports = TwoPorts().train()
    ports.lost = set(range(ports.number, 10_000))
    ports.ports[0].happen(E.RETRAIN, ports.now)
    for _ in range(1000):
        ports.now = ports.ports[0].deadline
        if ports.now == float("inf"):
            break
        ports.ports[0].expire(ports.now)
    assert ports.ports[0].state is S.DETECT


def test_a_hot_reset_takes_both_ports_down() -> None:
    ports = TwoPorts().train()
    ports.ports[0].happen(E.BUS_RESET, ports.now)
    ports.settle()
    assert ports.states == [S.DETECT, S.DETECT]


def test_each_state_that_sends_has_a_time_out_and_a_way_out() -> None:
    assert set(SENT) == set(TIMEOUT)
    assert all((state, E.TIMEOUT) in TRANSITIONS for state in SENT)


def test_an_event_that_the_table_lacks_changes_nothing() -> None:
    port = Training()
    for event in E:
        if (port.state, event) not in TRANSITIONS:
            port.happen(event, 0)
    assert port.state is S.DETECT
    assert not port.receive(b"\xbc" + bytes(3), 0)
    assert len(OrderedSet.TS1.value) == 16
