"""``vnet show`` answers in a few lines, and in one if it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result
from trio.testing import wait_all_tasks_blocked

from vnet.cli import query, show
from vnet.system.ring_looks import RingLooks
from vnet.system.ring_reports import take_ring
from vnet.system.snapshot import take_snapshot
from vnet.system.world import open_world
from vnet.topology import DEFAULT, parse
from vnet.topology.samples import built_in
from vnet.views.plain import to_plain

IN_MEMORY = DEFAULT.replace('"tun"', '"memory"')


def shown(monkeypatch: pytest.MonkeyPatch, answer: object, *args: str, ring: object = None) -> Result:
    answers = {"query-vnet": answer, "query-ring": ring}
    monkeypatch.setattr(query, "ask", lambda name, command, arguments: json.loads(json.dumps(answers[command])))
    return CliRunner().invoke(show.command, list(args))


async def test_a_system_is_a_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_world(parse(IN_MEMORY), "t") as world:
        await world.wait_up()
        world.memory_port("net0", "driver").inject(bytes(60))
        await world.memory_port("net0", "device").receive()
        world.memory_port("net0", "device").drop("too_long")
        assert shown(monkeypatch, to_plain(take_snapshot(world))).output.splitlines() == [
            "t",
            "  host rc: namespace none",
            "  host ep: namespace none",
            "  link pcie0: rc (root complex) to ep (endpoint), up, epoch 1",
            "  device net0: net over pci on pcie0, 0000:01:00.0: up",
            "    driver on rc: in 1, out 0 packets, drops: none",
            "    device on ep: in 0, out 1 packets, drops: port.too_long 1",
        ]


async def test_a_device_that_is_down_has_its_trouble_and_its_last_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_world(parse(IN_MEMORY), "t") as world:
        await world.wait_up()
        world.devices["net0"].vhost.fail("a reason")
        await trio.sleep(1)
        world.links["pcie0"].bring_down()
        await wait_all_tasks_blocked()
        output = shown(monkeypatch, to_plain(take_snapshot(world))).output
        assert "device net0: net over pci on pcie0, 0000:01:00.0: down (" in output
        assert "    unwell: down: " in output
        assert "    last reset, 1 in a row: " in output


@pytest.mark.parametrize("kind", ["blk", "scsi", "rpmsg"])
async def test_other_devices_count_requests(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    async with open_world(built_in(kind, "pci")) as world:
        await world.wait_up()
        output = shown(monkeypatch, to_plain(take_snapshot(world))).output
        assert output.count(" packets, ") == 2


async def test_one_device_and_one_queue_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_world(parse(IN_MEMORY), "t") as world:
        await world.wait_up()
        plain = to_plain(take_snapshot(world))
        ring = to_plain(take_ring(world.devices["net0"], "receiveq1", RingLooks(), 0.0))
    for args, first in (
        ((), "t"),
        (("--all",), "t"),
        (("net0",), "device net0: net over pci on pcie0, 0000:01:00.0: up"),
        (("net0", "receiveq1"), "driver receiveq1: live"),
    ):
        assert shown(monkeypatch, plain, *args, ring=ring).output.splitlines()[0] == first
    assert json.loads(shown(monkeypatch, plain, "--json").output) == plain
    assert json.loads(shown(monkeypatch, plain, "net0", "--json").output) == plain["devices"]["net0"]
    queue = json.loads(shown(monkeypatch, plain, "net0", "controlq", "--json", ring=ring).output)
    assert queue.pop("ring") == ring
    assert queue == {side: plain["devices"]["net0"][side]["queues"][2] for side in ("driver", "device")}


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("moon",), "device or link 'moon': must be one of net0, pcie0"),
        (("net0", "moon"), "net0: queue 'moon': must be one of receiveq1, transmitq1, controlq"),
    ],
)
async def test_an_unknown_name_is_one_line_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], line: str
) -> None:
    async with open_world(parse(IN_MEMORY), "t") as world:
        await world.wait_up()
        done = shown(monkeypatch, to_plain(take_snapshot(world)), *args)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", f"vnet: {line}\n")


@pytest.mark.parametrize("answer", [3, [], {}, {"name": "t", "hosts": {"rc": 3}}])
def test_an_answer_of_another_version_is_one_line(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    done = shown(monkeypatch, answer)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("vnet: vnet runs another version of vnet: no SystemView: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("option", [("--hex",), ("--svg", "ring.svg")])
def test_bytes_and_pictures_are_those_of_one_queue(monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...]) -> None:
    done = shown(monkeypatch, {}, "net0", *option)
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (2, f"Error: {option[0]} requires a QUEUE")


async def test_a_picture_of_a_ring_is_written_to_a_file_or_to_standard_output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with open_world(parse(IN_MEMORY), "t") as world:
        await world.wait_up()
        plain = to_plain(take_snapshot(world))
        ring = to_plain(take_ring(world.devices["net0"], "receiveq1", RingLooks(), 0.0))
    file = tmp_path / "ring.svg"
    done = shown(monkeypatch, plain, "net0", "receiveq1", "--svg", str(file), ring=ring)
    assert (done.exit_code, done.output) == (0, "")
    picture = file.read_text(encoding="utf-8")
    assert "vnet: net0 receiveq1" in picture
    assert shown(monkeypatch, plain, "net0", "receiveq1", "--svg", "-", ring=ring).output == picture
    failed = shown(monkeypatch, plain, "net0", "receiveq1", "--svg", str(tmp_path / "moon" / "ring.svg"), ring=ring)
    assert (failed.exit_code, failed.stderr) == (1, f"vnet: {tmp_path}/moon/ring.svg: No such file or directory\n")
