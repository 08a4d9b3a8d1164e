"""``vnet fault`` sets, lists and clears rules; ``vnet show`` lists them, and ``vnet set`` changes times of links."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import click
import pytest
import trio
from click.testing import Result

from support.control import command_line
from vnet.cli import live_names
from vnet.cli import set as set_command
from vnet.link.base import Direction
from vnet.spec import FaultSpec, LinkSpec
from vnet.system.world import World, open_world
from vnet.testing import Options, open_pair
from vnet.topology.samples import built_in

Run = Callable[..., Result]
LINK = "link0"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    link = LinkSpec("rc", "ep", generation=3, faults=FaultSpec(poisoned=0.001))
    async with open_pair(Options(link=link)) as pair:
        yield pair.world


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, world: World) -> Run:
    return command_line(monkeypatch, world, set_command)


def rows(done: Result) -> list[list[str]]:
    """The cells of the table of rules."""
    assert done.exit_code == 0, done.output
    return [[cell.strip() for cell in line.split("  ") if cell] for line in done.stdout.splitlines()[2:]]


def read(world: World, count: int) -> None:
    for _ in range(count):
        world.links[LINK].mem_read(Direction.DOWNSTREAM, world.hosts["rc"].rc.functions[0].bars[0].address, 4)


async def test_rules_are_set_listed_and_cleared(world: World, run: Run) -> None:
    own = ["link0", "poisoned", "topology", "probability 0.001", "in force", "-"]
    assert [row[:6] for row in rows(run("fault"))] == [own]
    done = run("fault", LINK, "--timeouts", "3", "--delayed-interrupts", "50%", "--delay-ms", "20", "--for", "10s")
    assert [row[:6] for row in rows(done)] == [
        own,
        ["link0", "delayed_interrupts", "hand", "probability 0.5, by 20 ms", "in force", "10.0 s"],
        ["link0", "timeouts", "hand", "the next 3", "in force", "10.0 s"],
    ]
    read(world, 100)
    await trio.sleep(4)
    [[*rule, requests, faults]] = rows(run("fault", LINK, "timeouts"))
    assert rule == ["link0", "timeouts", "hand", "the next 3", "spent", "6.0 s"]
    assert int(requests) >= int(faults) == 3
    done = run("fault", LINK, "--clear", "timeouts")
    assert done.stdout.startswith("link0: cleared timeouts: 3 faults in ")
    done = run("fault", LINK, "--clear")
    assert done.stdout == "link0: cleared delayed_interrupts: 0 faults in 0 requests\n"
    assert [row[:6] for row in rows(run("fault", LINK, "--clear"))] == [own]
    assert run("fault", LINK, "--clear", "poisoned").exit_code == 0
    assert run("fault", LINK).stdout == "link0: no rules of faults\n"


async def test_a_script_sets_all_of_its_rules_or_none(world: World, run: Run, tmp_path: Path) -> None:
    script = tmp_path / "faults"
    script.write_text("--timeouts @2\n--timeouts @9 --after 5s\n--flap-every-ms 500 --for 2s\n")
    done = run("fault", LINK, "--script", str(script))
    assert [row[1] for row in rows(done)] == ["poisoned", "timeouts", "timeouts-2", "flap_every_ms"]
    script.write_text("--aborted 0.5\n--aborted 5.0\n")
    done = run("fault", LINK, "--script", str(script))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"vnet: {script}:2: --aborted 5.0: must be between 0 and 1 (a probability)\n"
    assert [rule.name for rule in world.faults[LINK].rules()] == ["poisoned", "timeouts", "timeouts-2", "flap_every_ms"]


async def test_rules_are_json_as_well(run: Run) -> None:
    for args in (("--json",), (LINK, "--json"), (LINK, "poisoned", "--json")):
        [rule] = json.loads(run("fault", *args).stdout)[LINK]
        assert (rule["name"], rule["origin"], rule["rate"]) == ("poisoned", "topology", 0.001)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("fault", "moon"), "link 'moon': must be one of link0"),
        (("fault", LINK, "moon"), "link0: rule 'moon': must be one of poisoned"),
        (("fault", LINK, "--clear", "moon"), "link0: rule 'moon': must be one of poisoned"),
        (("fault", "--timeouts", "1"), "name a link: one of link0"),
        (("fault", "--clear"), "name a link: one of link0"),
        (("fault", LINK, "--clear", "--timeouts", "1"), "--clear sets no fault: clear first, then set"),
        (("fault", LINK, "--timeouts", "2.5"), "--timeouts 2.5: must be between 0 and 1 (a probability)"),
        (("fault", LINK, "--script", "/moon"), "/moon: No such file or directory"),
        (("set", "moon", "lanes", "4"), "device or link 'moon': must be one of net0, link0"),
        (("set", LINK, "lanes", "3"), "link0: lanes '3': must be one of 1, 2, 4, 8, 16"),
        (("show", "moon"), "device or link 'moon': must be one of net0, link0"),
        (("show", LINK, "receiveq1"), "device 'link0': must be one of net0"),
    ],
)
async def test_bad_input_is_one_line_that_lists_what_there_is(run: Run, args: tuple[str, ...], why: str) -> None:
    done = run(*args)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", f"vnet: {why}\n")


async def test_a_system_without_links_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_world(built_in("rpmsg", "mmio")) as world:
        done = command_line(monkeypatch, world)("fault")
        assert done.stderr == "vnet: vnet has no link: all its devices are within one host\n"


async def test_show_lists_the_rules_in_force_with_what_each_has_done(world: World, run: Run) -> None:
    world.faults[LINK].clear("poisoned")
    run("fault", LINK, "--timeouts", "3")
    before = world.faults[LINK].rules()[0].requests
    read(world, 10)
    line = f"rule timeouts (hand): the next 3; spent; 3 faults in {before + 3} requests"
    assert f"    {line}\n" in run("show").stdout
    shown = run("show", LINK).stdout.splitlines()
    assert shown[0].startswith("link link0: rc (root complex) to ep (endpoint), up, epoch 1")
    assert shown[-1] == f"  {line}"
    assert json.loads(run("show", LINK, "--json").stdout)["rules"][0]["faults"] == 3


async def test_a_setting_of_a_link_changes_its_time(world: World, run: Run) -> None:
    done = run("set", LINK, "lanes", "1")
    assert (done.exit_code, done.stdout) == (0, "link0: lanes 1\n")
    assert "PCIe generation 3, 1 lanes, " in run("show", LINK).stdout
    assert "  read_latency_ns between 0 and 1000000000 (ns)" in run("set", "--help").output


async def test_names_of_rules_are_completed(run: Run) -> None:
    def completed(incomplete: str) -> list[str]:
        context = click.Context(click.Command("fault"))
        context.params = {"link": LINK}
        return live_names.complete_rules(context, click.Argument(["rule"]), incomplete)

    assert completed("") == ["poisoned"]
    assert completed("x") == []
