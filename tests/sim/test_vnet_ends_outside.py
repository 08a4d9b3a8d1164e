"""A device type from outside is used as a built-in one: demonstration, settings, exercise, another process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from support.commands import command
from support.outside import CUSTOM, NOISE
from vnet.demo import demo_topology, run_demo
from vnet.ends import DEVICE_TYPES, DemoSettings
from vnet.qmp.codec import QmpError
from vnet.system.exports import DeviceExport, open_exports
from vnet.system.world import open_world
from vnet.testing.exercises import exercise
from vnet.topology import parse, parse_device
from vnet.topology.extensions import add_device_type, add_transport, temporarily
from vnet.topology.samples import built_in


@pytest.fixture(autouse=True)
def outside() -> Iterator[None]:
    """A device type and a transport that are not built in."""
    with temporarily():
        add_device_type("noise", NOISE)
        add_transport("custom", CUSTOM)
        yield


@pytest.mark.every_transport
async def test_it_does_its_exercise_and_its_demonstration(transport: str) -> None:
    await exercise("noise", transport)
    await _demonstrate("noise", transport)


@pytest.mark.parametrize("kind", ["net", "rpmsg", "blk", "scsi", "noise"])
async def test_a_transport_from_outside_carries_every_type(kind: str) -> None:
    await exercise(kind, "custom")


async def test_a_transport_from_outside_runs_demonstrations() -> None:
    await _demonstrate("noise", "custom")


async def _demonstrate(kind: str, transport: str) -> None:
    settings, lines, counts = DemoSettings(transport), list[str](), list[int]()
    report = await run_demo(
        kind,
        settings,
        demo_topology(kind, settings),
        name="test",
        on_plan=counts.append,
        on_start=lambda plan: lines.append(plan.name),
        on_end=lambda run: lines.append(run.line()),
    )
    assert lines == ["1000 bytes", "1000 bytes"]
    assert counts == [1], "the number of runs is known before the first one"
    assert not report.failures()
    assert [row.counters.packets for row in report.queues] == [10, 10], "the key of the demonstration limits a request"


async def test_its_settings_change_while_it_runs() -> None:
    async with open_world(built_in("noise"), "test") as world:
        await world.wait_up()
        assert await command(world, "device-set", name="noise0", setting="limit", value="10") == {}
        await world.running("noise0").ends[0].settings.read(100)
        assert world.devices["noise0"].driver_end.figures(0).packets == 10
        for setting, value, why in (
            ("limit", "x", "noise0: limit 'x': must be a number"),
            ("mac", "x", "noise0: unknown setting mac; known are limit"),
        ):
            with pytest.raises(QmpError) as caught:
                await command(world, "device-set", name="noise0", setting=setting, value=value)
            assert caught.value.desc == why


async def test_it_is_served_to_another_process(tmp_path: Path) -> None:
    socket = tmp_path / "socket"
    text = f'[hosts.rc]\n[devices.it]\ntype = "noise"\ntransport = "vhost_user"\nhost = "rc"\nsocket = "{socket}"\n'
    export = DeviceExport(parse_device({"type": "noise", "limit": 10}, "test"), socket)
    async with open_exports({"it": export}), open_world(parse(text), "test") as world:
        await world.wait_up()
        with trio.fail_after(5):
            assert len(await world.running("it").ends[0].settings.read(100)) == 100
        assert world.devices["it"].driver_end.figures(0).packets == 10


def test_it_is_gone_with_its_context() -> None:
    assert "noise" in DEVICE_TYPES
    with temporarily():
        pass
    assert "noise" in DEVICE_TYPES
