"""Commands that set and clear faults and times of links: what they refuse, and measurements of what is set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from drivers.contracts.events import Event, LinkTimingChanged, Topic
from support.commands import command
from vnet.link.base import Direction
from vnet.link.faults import FAULTS
from vnet.link.tlp import TIMING_KEYS, PcieParameters
from vnet.qmp.codec import QmpError
from vnet.qmp.fault_records import NAMES, RULES_MAX
from vnet.qmp.session import Session
from vnet.spec import FaultSpec, LinkSpec, WireSpec
from vnet.testing import NetPair, Options, open_pair

LINK = "link0"
TIMED = LinkSpec("rc", "ep", generation=3, lanes=8)


@pytest.fixture
async def pair() -> AsyncIterator[NetPair]:
    async with open_pair() as pair:
        yield pair


async def rules(pair: NetPair) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = await command(pair.world, "query-faults", name=LINK)
    return answer


def reads(pair: NetPair, count: int) -> int:
    """How many of so many reads of a register fail."""
    address = pair.function.bars[0].address
    return sum(pair.link.mem_read(Direction.DOWNSTREAM, address, 4) == 0xFFFF_FFFF for _ in range(count))


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({}, "rules.0.fault': must be given"),
        ({"fault": "moon", "rate": 1}, f"rules.0.fault': must be one of {', '.join(NAMES)}"),
        ({"fault": "timeouts"}, "rules.0': one of rate, count, nth must be given"),
        ({"fault": "timeouts", "rate": 1, "count": 1}, "rules.0': one of rate, count, nth must be given"),
        ({"fault": "timeouts", "rate": 1.5}, "rules.0.rate': must be between 0 and 1 (a probability)"),
        ({"fault": "timeouts", "rate": -0.1}, "rules.0.rate': must be between 0 and 1 (a probability)"),
        ({"fault": "timeouts", "rate": float("nan")}, "rules.0.rate': must be between 0 and 1 (a probability)"),
        ({"fault": "timeouts", "rate": "1"}, "rules.0.rate': must be a number"),
        ({"fault": "timeouts", "count": 0}, "rules.0.count': must be between 1 and 1000000000 (requests)"),
        ({"fault": "timeouts", "count": 1.5}, "rules.0.count': must be a whole number"),
        ({"fault": "timeouts", "nth": [0]}, "rules.0.nth': must be numbers between 1 and 1000000000"),
        ({"fault": "timeouts", "rate": 1, "seconds": 0}, "rules.0.seconds': must be above 0 and at most 10000000 (s)"),
        ({"fault": "timeouts", "rate": 1, "after": -1}, "rules.0.after': must be between 0 and 10000000 (s)"),
        ({"fault": "timeouts", "rate": 1, "delay": 5}, "rules.0.delay': must be absent for timeouts"),
        ({"fault": "timeouts", "rate": 1, "every": 5}, "rules.0.every': must be absent for timeouts"),
        ({"fault": "timeouts", "rate": 1, "length": 5}, "rules.0.length': must be absent for timeouts"),
        ({"fault": "flap_every_ms"}, "rules.0.every': must be given for flap_every_ms"),
        ({"fault": "flap_every_ms", "every": 9, "rate": 1}, "rules.0.rate': must be absent for flap_every_ms"),
        (
            {"fault": "flap_every_ms", "every": 9, "length": 9},
            "rules.0.every': must be above 9 (length), or the link is never up",
        ),
        ({"fault": "timeouts", "rate": 1, "frob": 1}, "rules.0.frob': unknown key; known are fault, rate, count, nth"),
    ],
)
async def test_a_rule_that_can_not_be_is_refused_and_none_of_its_command_is_set(
    pair: NetPair, rule: dict[str, object], why: str
) -> None:
    good = {"fault": "aborted", "rate": 0.5}
    with pytest.raises(QmpError) as caught:
        await command(pair.world, "fault-set", name=LINK, rules=[rule, good])
    assert caught.value.desc.removeprefix("Parameter '").startswith(why)
    assert "\n" not in caught.value.desc
    assert await rules(pair) == []


@pytest.mark.parametrize("name", ["query-faults", "fault-set", "fault-clear", "link-set"])
async def test_an_unknown_link_is_refused_with_the_names_of_all_links(pair: NetPair, name: str) -> None:
    more: dict[str, dict[str, object]] = {
        "fault-set": {"rules": [{"fault": "timeouts", "rate": 1}]},
        "link-set": {"setting": "lanes", "value": "4"},
    }
    with pytest.raises(QmpError) as caught:
        await command(pair.world, name, name="moon", **more.get(name, {}))
    assert (caught.value.desc, caught.value.kind) == ("link 'moon': must be one of link0", "DeviceNotFound")


async def test_an_unknown_rule_is_refused_with_the_names_of_all_rules(pair: NetPair) -> None:
    for known, why in (([], "there is no rule"), (["timeouts", "aborted"], "must be one of timeouts, aborted")):
        if known:
            some = [{"fault": fault, "rate": 0.1} for fault in known]
            await command(pair.world, "fault-set", name=LINK, rules=some)
        with pytest.raises(QmpError) as caught:
            await command(pair.world, "fault-clear", name=LINK, rules=["moon"])
        assert caught.value.desc == f"link0: rule 'moon': {why}"


async def test_the_number_of_rules_by_hand_is_limited(pair: NetPair) -> None:
    many = [{"fault": "timeouts", "nth": [1000 + number]} for number in range(RULES_MAX)]
    await command(pair.world, "fault-set", name=LINK, rules=many)
    with pytest.raises(QmpError, match=f"there are {RULES_MAX} rules by hand, and at most {RULES_MAX} are possible"):
        await command(pair.world, "fault-set", name=LINK, rules=[{"fault": "aborted", "rate": 1}])
    await command(pair.world, "fault-set", name=LINK, rules=many)  # instead of those for the same fault
    with pytest.raises(QmpError, match="rules': must not be empty"):
        await command(pair.world, "fault-set", name=LINK, rules=[])


async def test_a_rule_does_what_was_set(pair: NetPair) -> None:
    one = {"fault": "timeouts", "rate": 0.25, "after": 1, "seconds": 2}
    [shown] = await command(pair.world, "fault-set", name=LINK, rules=[one])
    assert (shown["name"], shown["rate"], shown["state"], shown["left"]) == ("timeouts", 0.25, "waits", 3.0)
    assert reads(pair, 100) == 0
    await trio.sleep(1)
    failed = reads(pair, 4000)
    assert failed == pytest.approx(1000, abs=110)
    [shown] = await rules(pair)
    assert (shown["requests"], shown["faults"], shown["state"], shown["left"]) == (4000, failed, "in force", 2.0)
    await command(pair.world, "fault-set", name=LINK, rules=[{"fault": "timeouts", "count": 3}])
    assert reads(pair, 100) == 3
    [shown] = await rules(pair)
    assert (shown["count"], shown["faults"], shown["state"]) == (3, 3, "spent")
    await command(pair.world, "fault-set", name=LINK, rules=[{"fault": "timeouts", "rate": 0}])
    assert await rules(pair) == []
    assert reads(pair, 100) == 0


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_fault_of_the_table_can_be_set_and_cleared(pair: NetPair, fault: str) -> None:
    [shown] = await command(pair.world, "fault-set", name=LINK, rules=[{"fault": fault, "nth": [100_000]}])
    assert (shown["fault"], shown["name"], shown["nth"]) == (fault, fault, [100_000])
    await pair.transfer(50_000)
    [cleared] = await command(pair.world, "fault-clear", name=LINK)
    assert cleared["requests"] > 0 or fault == "lost_doorbells"
    assert await rules(pair) == []


async def test_a_rule_outlives_its_client_and_ends_by_the_clock(pair: NetPair) -> None:
    client, served = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Session(served, pair.world, trio.Event()).run)
        rule = b'{"fault": "timeouts", "rate": 1, "seconds": 5}'
        await client.send_all(b'{"execute": "qmp_capabilities"}')
        await client.send_all(b'{"execute": "fault-set", "arguments": {"name": "link0", "rules": [' + rule + b"]}}")
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()
    await trio.sleep(4.9)
    assert [each["name"] for each in await rules(pair)] == ["timeouts"]
    await trio.sleep(0.2)
    assert await rules(pair) == []


async def test_clearing_leaves_the_rules_of_the_file() -> None:
    link = LinkSpec("rc", "ep", faults=FaultSpec(lost_interrupts=0.5, flap_every_ms=3_600_000))
    async with open_pair(Options(link=link)) as pair:
        await command(pair.world, "fault-set", name=LINK, rules=[{"fault": "aborted", "nth": [9]}])
        assert [each["origin"] for each in await rules(pair)] == ["topology", "topology", "hand"]
        assert [each["name"] for each in await command(pair.world, "fault-clear", name=LINK)] == ["aborted"]
        assert [each["name"] for each in await rules(pair)] == ["lost_interrupts", "flap_every_ms"]
        cleared = await command(pair.world, "fault-clear", name=LINK, rules=["lost_interrupts"])
        assert [each["name"] for each in cleared] == ["lost_interrupts"]
        assert [each["name"] for each in await rules(pair)] == ["flap_every_ms"]


async def test_the_links_of_an_ntb_take_rules_and_times() -> None:
    async with open_pair(Options(transport="ntb", link=TIMED)) as pair:
        for name in pair.world.links:
            await command(pair.world, "fault-set", name=name, rules=[{"fault": "lost_interrupts", "rate": 0.1}])
        await pair.transfer(50_000)
        view = await command(pair.world, "query-vnet")
        assert {name: len(link["rules"]) for name, link in view["links"].items()} == {"link0": 1, "link1": 1}
        await command(pair.world, "link-set", name=LINK, setting="lanes", value="1")
        assert pair.world.timed[LINK].parameters.lanes == 1


# The time that a link takes


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("moon", "1", f"link0: unknown setting moon; known are {', '.join(TIMING_KEYS)}"),
        ("lanes", "3", "link0: lanes '3': must be one of 1, 2, 4, 8, 16"),
        ("lanes", "x", "link0: lanes 'x': must be a whole number"),
        ("lanes", "", "link0: lanes '': must be a whole number"),
        ("generation", "6", "link0: generation '6': must be one of 1, 2, 3, 4, 5"),
        ("read_latency_ns", "-1", "link0: read_latency_ns '-1': must be between 0 and 1000000000 (ns)"),
        ("max_payload", "100", "link0: max_payload '100': must be one of 128, 256, 512, 1024, 2048, 4096"),
        ("completion_boundary", "1", "link0: completion_boundary '1': must be 64 or 128"),
    ],
)
async def test_a_time_that_can_not_be_is_refused(setting: str, value: str, why: str) -> None:
    async with open_pair(Options(link=TIMED)) as pair:
        with pytest.raises(QmpError) as caught:
            await command(pair.world, "link-set", name=LINK, setting=setting, value=value)
        assert caught.value.desc == why
        assert pair.world.timed[LINK].parameters == PcieParameters()


async def test_a_link_whose_accesses_take_no_time_has_none_to_change(pair: NetPair) -> None:
    with pytest.raises(QmpError, match="link0: its accesses take no time; a topology file that sets lanes"):
        await command(pair.world, "link-set", name=LINK, setting="lanes", value="4")


async def test_a_wire_keeps_its_packets_and_its_rate_and_changes_its_read_latency() -> None:
    async with open_pair(Options(link=attrs.evolve(TIMED, wire=WireSpec()))) as pair:
        for setting, value in (("max_payload", "128"), ("lanes", "1"), ("generation", "1")):
            with pytest.raises(QmpError, match=f"link0: {setting} stays as it is: the ports of a wire keep the rate"):
                await command(pair.world, "link-set", name=LINK, setting=setting, value=value)
        await command(pair.world, "link-set", name=LINK, setting="read_latency_ns", value="700")
        timing = pair.link.statistics().timing
        assert timing is not None
        assert timing.read_latency == pytest.approx(7e-7)


async def test_bandwidth_and_latency_change_while_traffic_runs_and_are_measured() -> None:
    taken = list[Event]()
    async with open_pair(Options(link=TIMED)) as pair:
        world = pair.world

        async def write(size: int) -> float:
            """The seconds that a write of so many bytes takes."""
            meter = pair.link.meter(Direction.UPSTREAM)
            assert meter is not None
            began = trio.current_time()
            meter.write(size)
            await pair.link.settle()
            return trio.current_time() - began

        async def read() -> float:
            meter = pair.link.meter(Direction.UPSTREAM)
            assert meter is not None
            began = trio.current_time()
            meter.read(64)
            await pair.link.settle()
            return trio.current_time() - began

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.transfer)
            await trio.sleep(1e-5)
            with world.events.listen(taken.append, [Topic.LINKS]):
                for setting, value in (("lanes", "2"), ("generation", "4"), ("read_latency_ns", "20000")):
                    await command(world, "link-set", name=LINK, setting=setting, value=value)
        await trio.sleep(0.001)  # the time of that traffic is over
        parameters = PcieParameters(generation=4, lanes=2)
        size = 1 << 20
        wire = size + (size // 256) * 24
        assert await write(size) == pytest.approx(wire / parameters.rate, rel=1e-6)
        assert await read() == pytest.approx(20e-6 + (24 + 84) / parameters.rate, rel=1e-3)
        timing = (await command(world, "query-vnet"))["links"][LINK]["timing"]
        assert (timing["generation"], timing["lanes"], timing["rate"]) == (4, 2, parameters.rate)
        assert timing["read_latency"] == pytest.approx(20e-6)
        await command(world, "link-set", name=LINK, setting="completion_boundary", value="64")
        await command(world, "link-set", name=LINK, setting="completion_boundary", value="none")
        assert world.timed[LINK].parameters == parameters
    changes = [event for event in taken if isinstance(event, LinkTimingChanged)]
    assert [(each.generation, each.lanes, round(each.read_latency_ns)) for each in changes] == [
        (3, 2, 500),
        (4, 2, 500),
        (4, 2, 20000),
    ]
