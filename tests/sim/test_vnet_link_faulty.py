"""A link with faults: requests and interrupts that are lost, delayed or poisoned, each counted."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from rings.memory import Addr
from support.rigs.faulty_link import ERRORS, FAILED_READS, FAULTY, faulty, open_bench
from vnet.errors import PoisonedData
from vnet.link.base import Direction
from vnet.link.faults import POSSIBLE, Action, LinkRequest, Rule, rates
from vnet.link.faulty import COMPLETION_TIMEOUT
from vnet.spec import FaultSpec, LinkSpec
from vnet.testing import FRAME, NetPair, Options, bounded, open_pair, unharmed, until

UP, DOWN = Direction.UPSTREAM, Direction.DOWNSTREAM
RAM = Addr(0x4000_0000)
TRACED = LinkSpec(root="rc", endpoint="ep", trace="/dev/null")
TIMED = LinkSpec(root="rc", endpoint="ep", generation=3)


def rescues(pair: NetPair) -> tuple[int, int]:
    """Found by the driver, and by the device, without being told."""
    queues = pair.virtio.queues, pair.vhost.queues
    driver, device = (sum(queue.signal.rescues for queue in side) for side in queues)
    return driver, device


# Requests


def test_an_impossible_fault_is_refused() -> None:
    for request in LinkRequest:
        for action in Action:
            if action not in POSSIBLE[request]:
                with pytest.raises(ValueError, match="can't be"):
                    Rule(request, action)
    with pytest.raises(ValueError, match="no probability"):
        Rule(LinkRequest.READ, Action.TIME_OUT, rate=1.5)


@pytest.mark.parametrize("action", FAILED_READS)
@pytest.mark.parametrize("size", [1, 2, 4, 8])
async def test_a_register_read_that_fails_gives_all_ones_and_is_counted(action: Action, size: int) -> None:
    async with open_bench(Rule(LinkRequest.READ, action, nth={2})) as bench:
        right = bench.registers.value & (1 << 8 * size) - 1
        assert [bench.read(size) for _ in range(3)] == [right, (1 << 8 * size) - 1, right]
        assert bench.faults == {f"read {action.value}": 1}


@pytest.mark.parametrize("action", FAILED_READS)
async def test_a_memory_read_that_fails_raises_its_own_error_and_gives_no_byte(action: Action) -> None:
    async with open_bench(Rule(LinkRequest.DMA_READ, action, nth={2})) as bench:
        window = bench.link.map(UP, RAM, 4096)
        window.view(RAM, 64)
        with pytest.raises(ERRORS[action]) as raised:
            window.view(Addr(RAM + 64), 64)
        assert (raised.value.addr, raised.value.size, raised.value.write) == (RAM + 64, 64, False)
        with pytest.raises(ERRORS[action]):
            window.segments(Addr(RAM + 64), 64)  # the same request, asked for in pieces
        window.view(RAM, 64)
        await trio.sleep(0.01)
        window.view(Addr(RAM + 64), 64)
        assert bench.faults == {f"DMA read {action.value}": 1}


@pytest.mark.hostile("L05")
async def test_a_completion_that_comes_late_is_dropped_and_counted() -> None:
    async with open_bench(Rule(LinkRequest.READ, Action.COME_LATE, nth={1})) as bench:
        assert bench.read() == 0xFFFF_FFFF
        assert bench.registers.reads == 1  # it was served: what the read does is done
        assert bench.faults == {"read late": 1}
        await trio.sleep(COMPLETION_TIMEOUT)
        await trio.testing.wait_all_tasks_blocked()
        assert bench.faults == {"read late": 1, "completion unexpected": 1}
        assert bench.read() == 0x5566_7788


@pytest.mark.hostile("L07")
async def test_a_poisoned_write_is_dropped_and_the_next_one_arrives() -> None:
    async with open_bench(Rule(LinkRequest.WRITE, Action.POISON, nth={1})) as bench:
        bench.link.mem_write(DOWN, 0, 4, 1)
        assert bench.read() == 0x5566_7788
        bench.link.mem_write(DOWN, 0, 4, 2)
        assert bench.read() == 2
        window = bench.link.map(UP, RAM, 4096)
        bench.link.add(Rule(LinkRequest.DMA_WRITE, Action.POISON, nth={1}))
        with pytest.raises(PoisonedData):
            window.view(RAM, 8, True)
        assert bench.faults == {"write poisoned": 1, "DMA write poisoned": 1}


async def test_configuration_requests_fail_by_script_only() -> None:
    by_chance = rates(timeouts=1.0, unsupported=1.0, aborted=1.0, poisoned=1.0)
    assert by_chance
    affected = frozenset().union(*(rule.requests for rule in by_chance))
    assert not affected & {LinkRequest.CONFIG_READ, LinkRequest.CONFIG_WRITE}
    async with open_pair(Options(link=FAULTY)) as pair:
        link, command = faulty(pair), pair.function.config_read(4, 2)
        link.add(
            Rule(LinkRequest.CONFIG_READ, Action.TIME_OUT, nth={1}),
            Rule(LinkRequest.CONFIG_WRITE, Action.REFUSE, nth={1}),
        )
        assert link.config_read(0, 4, 2) == 0xFFFF
        link.config_write(0, 4, 2, 0)
        assert link.config_read(0, 4, 2) == command


@pytest.mark.hostile("L09")
async def test_unanswered_requests_are_counted_through_every_wrapper() -> None:
    spec = LinkSpec("rc", "ep", generation=3, faults=FaultSpec(), trace="/dev/null")
    async with open_pair(Options(link=spec)) as pair:
        before = pair.link.statistics()
        assert pair.link.config_read(5, 0, 4) == 0xFFFF_FFFF  # no such function
        bar = pair.function.bars[0]
        for addr in (bar.address - 8, bar.address + (1 << 40)):
            assert pair.link.mem_read(DOWN, addr, 4) == 0xFFFF_FFFF
            pair.link.mem_write(DOWN, addr, 4, 0)
        pair.link.mem_write(UP, 0x10, 4, 0)
        after = pair.link.statistics()
        assert after.config.unsupported - before.config.unsupported == 1
        assert after.downstream.unsupported - before.downstream.unsupported == 4
        assert after.upstream.unsupported - before.upstream.unsupported == 1
        await pair.transfer()


async def test_the_same_seed_and_the_same_requests_give_the_same_faults() -> None:
    async def course(seed: int) -> list[int]:
        rules = Rule(LinkRequest.READ, Action.TIME_OUT, rate=0.3), Rule(LinkRequest.READ, Action.ABORT, rate=0.1)
        async with open_bench(*rules, seed=seed) as bench:
            return [bench.read() for _ in range(100)]

    assert await course(1) == await course(1) != await course(2)


async def test_a_rule_holds_in_its_time_and_up_to_its_limit() -> None:
    rule = Rule(LinkRequest.READ, Action.TIME_OUT, rate=1, start=1, stop=3, limit=2)
    async with open_bench(rule) as bench:
        lost = []
        for _ in range(5):
            lost.append(bench.read() == 0xFFFF_FFFF)
            await trio.sleep(0.75)  # at 0, 0.75, 1.5, 2.25, 3
        assert lost == [False, False, True, True, False]


async def test_nothing_fails_on_a_link_that_is_down() -> None:
    async with open_bench(Rule(LinkRequest.READ, Action.TIME_OUT, rate=1)) as bench:
        bench.link.bring_down()
        assert bench.read() == 0xFFFF_FFFF
        assert bench.faults == {}
        assert bench.link.statistics().downstream.dropped == 1


# Doorbells and interrupts


@pytest.mark.parametrize("transport", ["pci", "epf_mailbox"])
async def test_lost_doorbells_cost_time_and_are_counted(transport: str) -> None:
    async with open_pair(Options(link=FAULTY, transport=transport)) as pair, unharmed(pair):
        faulty(pair).add(Rule(LinkRequest.DOORBELL, Action.LOSE, rate=1, limit=5))
        began = trio.current_time()
        await pair.transfer()
        lost = faulty(pair).statistics().faults["doorbell lost"]
        assert 1 <= lost <= 5
        assert rescues(pair) == (0, lost)
        assert trio.current_time() - began <= lost * 0.011


@pytest.mark.parametrize("transport", ["pci", "epf_mailbox"])
async def test_lost_interrupts_cost_time_and_are_counted(transport: str) -> None:
    async with open_pair(Options(link=FAULTY, transport=transport)) as pair, unharmed(pair):
        faulty(pair).add(Rule(LinkRequest.INTERRUPT, Action.LOSE, rate=1, limit=5))
        await pair.transfer()
        assert faulty(pair).statistics().faults["interrupt lost"] == 5
        driver, device = rescues(pair)
        assert 1 <= driver <= 5  # two queues may be looked at together
        assert device == 0


async def test_a_lost_configuration_interrupt_is_made_up_for_by_a_look_at_the_status() -> None:
    async with open_pair(Options(link=FAULTY)) as pair:
        faulty(pair).add(Rule(LinkRequest.INTERRUPT, Action.LOSE, rate=1, limit=1))
        pair.vhost.fail("told in vain")
        await until(lambda: pair.virtio.restarts == 1)
        await pair.world.wait_up()
        await pair.transfer()


async def test_a_delayed_interrupt_arrives_and_one_of_an_epoch_that_is_over_does_not() -> None:
    async with open_pair(Options(link=FAULTY)) as pair:
        faulty(pair).add(Rule(LinkRequest.INTERRUPT, Action.DELAY, rate=1))
        calls = pair.virtio.queues[0].calls
        pair.device_port.inject(FRAME)
        await trio.testing.wait_all_tasks_blocked()
        assert pair.virtio.queues[0].calls == calls
        await trio.sleep(0.005)
        await trio.testing.wait_all_tasks_blocked()
        assert pair.virtio.queues[0].calls == calls + 1
        await pair.transfer()
        pair.device_port.inject(FRAME)
        await trio.testing.wait_all_tasks_blocked()
        pair.link.bring_down()
        pair.link.bring_up()
        delivered = pair.rc.rc.statistics().msi
        await trio.sleep(0.006)
        assert pair.rc.rc.statistics().msi == delivered


@pytest.mark.parametrize("link", [LinkSpec("rc", "ep"), TIMED, TRACED], ids=["ideal", "timed", "traced"])
async def test_without_losses_there_is_no_re_check(link: LinkSpec) -> None:
    async with open_pair(Options(link=link)) as pair:
        await pair.transfer()
        assert rescues(pair) == (0, 0)
        assert {queue.signal.recheck for queue in pair.virtio.queues} == {None}
        assert {queue.signal.recheck for queue in pair.vhost.queues} == {None}
        assert pair.virtio.changed.recheck is None


async def test_a_topology_that_asks_for_losses_gets_traffic_through_them() -> None:
    faults = FaultSpec(seed=3, lost_doorbells=0.3, lost_interrupts=0.3, delayed_interrupts=0.3)
    async with open_pair(Options(link=LinkSpec("rc", "ep", faults=faults))) as pair:
        with bounded(1_000_000, seconds=60):
            while not {"doorbell lost", "interrupt lost"} <= pair.link.statistics().faults.keys():
                await pair.transfer()
        assert sum(rescues(pair)) > 0
        assert pair.virtio.restarts == 0


@pytest.mark.hostile("T04")
async def test_a_topology_that_loses_doorbells_of_an_ntb_loses_them_and_a_beat_finds_them() -> None:
    faults = FaultSpec(seed=3, lost_doorbells=0.2)
    async with open_pair(Options(link=LinkSpec("rc", "ep", faults=faults), transport="ntb")) as pair:
        with bounded(1_000_000, seconds=60):
            while pair.link.statistics().faults.get("doorbell lost", 0) < 10:
                await pair.transfer(100_000)
        assert pair.virtio.restarts == 0
