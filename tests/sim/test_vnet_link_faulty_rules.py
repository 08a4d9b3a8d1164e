"""Rules of faults that come and go while a link is used: what each does, and what is left once it is cleared."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from drivers.contracts.events import Event, FaultInjected, FaultRuleEnded, FaultRuleSet, Topic
from rings.memory import Addr
from support.rigs.faulty_link import ERRORS, Bench, open_bench
from vnet.link.base import Direction
from vnet.link.faults import FAULTS, Action, Flap, Rule
from vnet.system.events import EventHub
from vnet.testing import FRAME, NetPair, Options, bounded, open_pair, unharmed
from vnet.views.link import FaultRuleView

UP, DOWN = Direction.UPSTREAM, Direction.DOWNSTREAM
RAM = Addr(0x4000_0000)


def named(fault: str, **amount: object) -> Rule:
    kind = FAULTS[fault]
    return Rule(kind.requests, kind.action, name=fault, **amount)  # type: ignore[arg-type]


def only(bench: Bench) -> FaultRuleView:
    [rule] = bench.link.rules()
    return rule


def lost(bench: Bench, reads: int) -> int:
    """How many of so many reads fail."""
    return sum(bench.read() == 0xFFFF_FFFF for _ in range(reads))


# Measurements of what is set


@pytest.mark.parametrize("rate", [0.01, 0.25, 0.5, 0.9])
async def test_a_probability_is_the_part_of_requests_that_fail(rate: float) -> None:
    async with open_bench() as bench:
        bench.link.add(named("timeouts", rate=rate))
        failed = lost(bench, 10_000)
        assert only(bench).requests == 10_000
        assert only(bench).faults == failed == bench.faults["read timed out"]
        assert failed == pytest.approx(10_000 * rate, abs=4 * (10_000 * rate * (1 - rate)) ** 0.5)


async def test_a_count_is_shared_by_all_requests_of_a_fault() -> None:
    async with open_bench() as bench:
        window = bench.link.map(UP, RAM, 4096)
        bench.link.add(named("unsupported", rate=1, limit=3))
        assert lost(bench, 1) == 1
        with pytest.raises(ERRORS[Action.REFUSE]):
            window.view(RAM, 64)
        assert lost(bench, 5) == 1
        assert (only(bench).count, only(bench).faults, only(bench).state) == (3, 3, "spent")
        assert bench.faults == {"read unsupported": 2, "DMA read unsupported": 1}


async def test_numbers_are_those_of_the_requests_since_the_rule_was_added() -> None:
    async with open_bench() as bench:
        lost(bench, 5)
        bench.link.add(named("aborted", nth=(2, 4)))
        assert [bench.read() == 0xFFFF_FFFF for _ in range(5)] == [False, True, False, True, False]
        assert (only(bench).nth, only(bench).state) == ((2, 4), "spent")


async def test_a_rule_waits_then_ends_by_the_clock_of_the_system() -> None:
    async with open_bench() as bench:
        bench.link.add(named("timeouts", rate=1, start=1, stop=3))
        assert (only(bench).state, only(bench).left) == ("waits", 3)
        assert lost(bench, 1) == 0
        await trio.sleep(1)
        assert (only(bench).state, only(bench).left) == ("in force", 2)
        assert lost(bench, 1) == 1
        await trio.sleep(1.999)
        assert lost(bench, 1) == 1
        await trio.sleep(0.002)
        assert bench.link.rules() == ()
        assert lost(bench, 1) == 0


@pytest.mark.parametrize("delay", [0.001, 0.02, 0.3])
async def test_an_interrupt_is_late_by_the_time_that_was_set(delay: float) -> None:
    async with open_pair() as pair:
        faults = pair.world.faults["link0"]
        faults.add(named("delayed_interrupts", rate=1, delay=delay))
        for _ in range(3):
            began = trio.current_time()
            pair.device_port.inject(FRAME)
            await pair.driver_port.receive()
            assert trio.current_time() - began == pytest.approx(delay, abs=1e-6)
        faults.clear()
        began = trio.current_time()
        pair.device_port.inject(FRAME)
        await pair.driver_port.receive()
        assert trio.current_time() == began


async def test_flaps_come_by_hand_and_stop_when_they_are_cleared() -> None:
    async with open_bench() as bench:
        bench.link.add(Flap(0.5, 0.1, 0.5, float("inf")))
        await trio.sleep(1.7)
        assert (only(bench).every_ms, only(bench).flap_ms, only(bench).faults) == (500, 100, 3)
        assert bench.link.epoch == 4
        bench.link.clear()
        await trio.sleep(5)
        assert (bench.link.up, bench.link.epoch) == (True, 4)


async def test_a_link_that_is_down_in_a_flap_comes_up_after_the_rule_was_cleared() -> None:
    async with open_bench() as bench:
        bench.link.add(Flap(0.5, 0.1, 0.5, float("inf")))
        await trio.sleep(0.55)
        assert not bench.link.up
        bench.link.clear()
        await trio.sleep(0.1)
        assert bench.link.up


# Links that are in use already


@pytest.mark.every_transport(but=("mmio", "vhost_user"))
async def test_any_link_takes_rules_while_it_carries_traffic_and_stays_the_same_object() -> None:
    async with open_pair() as pair, unharmed(pair):
        link = pair.link
        await pair.transfer(50_000)
        faults = pair.world.faults["link0"]
        faults.add(named("lost_interrupts", rate=0.2), named("lost_doorbells", rate=0.2))
        await pair.transfer(50_000)
        faults.clear()
        assert pair.link is link
        assert pair.world.faults["link0"] is faults
        with bounded():
            await pair.transfer(50_000)


@pytest.mark.hostile("T04")
@pytest.mark.parametrize("link", ["link0", "link1"])
async def test_an_ntb_that_loses_all_doorbells_by_hand_delays_each_frame_by_less_than_100_ms(link: str) -> None:
    async with open_pair(Options(transport="ntb")) as pair:
        faults = pair.world.faults[link]
        faults.add(named("lost_doorbells", rate=1), named("lost_interrupts", rate=1))
        for source, sink in ((pair.driver_port, pair.device_port), (pair.device_port, pair.driver_port)):
            for _ in range(3):
                began = trio.current_time()
                source.inject(FRAME)
                await sink.receive()
                assert trio.current_time() - began < 0.1
        assert sum(rule.faults for rule in faults.rules()) > 0
        faults.clear()
        await pair.transfer(50_000)


@pytest.mark.hostile("L11")
async def test_a_bounce_storm_by_hand_under_load_ends_in_a_system_that_works() -> None:
    async with open_pair() as pair, unharmed(pair):
        device, epoch, faults = pair.virtio, pair.link.epoch, pair.world.faults["link0"]
        faults.add(Flap(0.01, 0.005, 0.01, float("inf"), stop=1))
        with trio.move_on_after(1.1):
            while True:
                pair.driver_port.inject(FRAME)
                pair.device_port.inject(FRAME)
                await trio.sleep(0.001)
        await pair.world.wait_up()
        assert pair.link.epoch - epoch == pytest.approx(100, abs=1)
        assert faults.rules() == ()
        assert pair.virtio is device


# Re-checks


def rechecks(pair: NetPair) -> set[float | None]:
    signals = [queue.signal for side in (pair.virtio.queues, pair.vhost.queues) for queue in side]
    return {pair.virtio.changed.recheck, *(signal.recheck for signal in signals)}


@pytest.mark.parametrize("transport", ["pci", "epf_mailbox"])
async def test_queues_are_re_checked_only_while_a_notification_can_get_lost(transport: str) -> None:
    async with open_pair(Options(transport=transport)) as pair:
        faults = pair.world.faults["link0"]
        assert rechecks(pair) == {None}
        faults.add(named("delayed_interrupts", rate=1), named("timeouts", rate=0.1), Flap(1000, 0.1))
        assert rechecks(pair) == {None}
        faults.add(named("lost_doorbells", rate=0.5, stop=10))
        assert rechecks(pair) == {0.01, 0.1}
        await pair.reset()  # new queues, at a time at which the link loses some
        assert rechecks(pair) == {0.01, 0.1}
        await trio.sleep(10.001)
        assert rechecks(pair) == {None}
        await pair.reset()
        assert rechecks(pair) == {None}


@pytest.mark.parametrize("transport", ["pci", "epf_mailbox"])
@pytest.mark.parametrize("fault", ["lost_doorbells", "lost_interrupts"])
async def test_traffic_returns_when_the_rule_is_cleared_before_a_re_check(transport: str, fault: str) -> None:
    async with open_pair(Options(transport=transport)) as pair:
        faults = pair.world.faults["link0"]
        faults.add(named(fault, rate=1))
        inject, sink = (
            (pair.driver_port, pair.device_port) if fault == "lost_doorbells" else (pair.device_port, pair.driver_port)
        )
        inject.inject(FRAME)
        await trio.testing.wait_all_tasks_blocked()
        assert faults.rules()[0].faults == 1
        began = trio.current_time()
        faults.clear()
        await sink.receive()
        assert trio.current_time() == began


# Names, origins and events


async def test_a_rule_by_hand_replaces_those_by_hand_for_the_same_fault_and_no_others() -> None:
    async with open_bench(named("timeouts", rate=0.5)) as bench:
        link = bench.link
        link.replace({"timeouts"}, [named("timeouts", rate=0.1)])
        link.add(named("aborted", rate=0.1))
        assert [rule.name for rule in link.rules()] == ["timeouts", "timeouts-2", "aborted"]
        link.replace({"timeouts"}, [named("timeouts", nth=(1,)), named("timeouts", nth=(2,))])
        assert [rule.name for rule in link.rules()] == ["timeouts", "aborted", "timeouts-2", "timeouts-3"]
        assert [rule.origin for rule in link.rules()] == ["topology", "hand", "hand", "hand"]


async def test_clearing_leaves_the_rules_of_the_topology_unless_they_are_named() -> None:
    async with open_bench(named("timeouts", rate=1)) as bench:
        bench.link.add(named("aborted", rate=1))
        bench.link.clear()
        assert [rule.name for rule in bench.link.rules()] == ["timeouts"]
        assert lost(bench, 2) == 2
        bench.link.clear("timeouts")
        assert bench.link.rules() == ()
        assert lost(bench, 2) == 0


async def test_each_change_is_an_event_and_each_fault_names_its_rule() -> None:
    hub, taken = EventHub(), list[Event]()
    async with open_bench(events=hub) as bench:
        with hub.listen(taken.append, [Topic.LINKS]):
            bench.link.add(named("timeouts", rate=1, limit=2, stop=4))
            bench.read()
            bench.link.replace({"timeouts"}, [named("timeouts", rate=1, stop=2)])
            await trio.sleep(2.1)
            bench.link.add(named("aborted", rate=0.5))
            bench.link.clear()
    changes = [event for event in taken if isinstance(event, FaultRuleSet | FaultRuleEnded)]
    assert [(type(event).__name__, event.rule, event.time) for event in changes] == [
        ("FaultRuleSet", "timeouts", 0.0),
        ("FaultRuleEnded", "timeouts", 0.0),
        ("FaultRuleSet", "timeouts", 0.0),
        ("FaultRuleEnded", "timeouts", 2.0),
        ("FaultRuleSet", "aborted", 2.1),
        ("FaultRuleEnded", "aborted", 2.1),
    ]
    ends = [(event.cause, event.requests, event.faults) for event in changes if isinstance(event, FaultRuleEnded)]
    assert ends == [("replaced", 1, 1), ("expired", 0, 0), ("cleared", 0, 0)]
    assert [event.rule for event in taken if isinstance(event, FaultInjected)] == ["timeouts"]
    assert {event.source.link for event in taken} == {"link0"}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (named("timeouts", rate=0.25), "probability 0.25"),
        (named("timeouts", rate=1), "all"),
        (named("timeouts", rate=1, limit=1), "the next one"),
        (named("timeouts", rate=1, limit=3), "the next 3"),
        (named("timeouts", nth=(7,)), "number 7"),
        (named("timeouts", nth=(7, 3)), "numbers 3, 7"),
        (named("delayed_interrupts", rate=0.5, delay=0.02), "probability 0.5, by 20 ms"),
        (named("delayed_interrupts", rate=0.5), "probability 0.5, by 5 ms"),
        (Flap(1, 0.05), "once, for 50 ms"),
        (Flap(1, 0.05, 1, 9), "every 1000 ms, for 50 ms"),
    ],
)
async def test_a_rule_says_which_requests_it_affects(rule: Rule | Flap, words: str) -> None:
    async with open_bench(rule) as bench:
        assert only(bench).amount == words
