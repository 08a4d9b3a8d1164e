"""Events and verdicts of a served device: front ends that come and go, a ring that its driver broke."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from drivers.contracts.events import Event, FrontEndMoved, PacketsDropped, Topic
from rings.features import RingFeature, mask
from support.rigs.vhost_user import FrontEnd
from vnet.linux.ipc import connect
from vnet.ports.packet.memory import MemoryPort
from vnet.system.exports import DeviceExport, open_export_system
from vnet.system.losses import INTERVAL
from vnet.system.snapshot import take_snapshot
from vnet.testing import until
from vnet.topology import parse_device

FEATURES = mask((RingFeature.VERSION_1, RingFeature.EVENT_IDX, RingFeature.INDIRECT_DESC))


def export(path: Path, type_name: str, **device: object) -> dict[str, DeviceExport]:
    return {"it": DeviceExport(parse_device({"type": type_name, "device": device}, "test"), path)}


async def test_front_ends_that_come_and_go_are_events(tmp_path: Path) -> None:
    path, taken = tmp_path / "s", list[Event]()
    async with open_export_system(export(path, "blk", size=1)) as system:
        with system.world.events.listen(taken.append, (Topic.LIFECYCLE,)):
            for garbage in (b"", b"\xff" * 64):
                front = FrontEnd(await connect(path), FEATURES)
                await front.bring_up()
                await front.send(garbage)
                if garbage:
                    assert await front.hung_up()
                front.close()
                await until(lambda: not system.served["it"].server.connected)
    moves = [event for event in taken if isinstance(event, FrontEndMoved)]
    assert [(event.connected, event.connections, bool(event.why)) for event in moves] == [
        (True, 1, False),
        (False, 1, False),
        (True, 2, False),
        (False, 2, True),
    ]
    assert {(event.source.host, event.source.device, event.source.side) for event in moves} == {
        ("serve", "it", "device")
    }


@pytest.mark.hostile("R04")
async def test_a_ring_that_the_driver_broke_is_the_verdict_until_it_resets_the_device(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with open_export_system(export(path, "blk", size=1), "t") as system:

        def verdict() -> tuple[str, str, str]:
            fault = take_snapshot(system.world).devices["it"].verdict
            return ("", "", "") if fault is None else (fault.rule, fault.text, fault.look)

        assert verdict() == ("down", "down: no driver is connected", "vnet show --name t it")
        front = FrontEnd(await connect(path), FEATURES)
        await front.bring_up()
        assert verdict() == ("", "", "")
        [ring] = front.rings
        ring.offer_first(77)
        await until(lambda: verdict()[0] == "broken-queue")
        rule = "available entry 0 names descriptor 77 of 8 (VIRTIO 1.4, 2.7.6)"
        text = f"requestq1 broke and waits for a reset by the driver: {rule}"
        assert verdict() == ("broken-queue", text, "vnet show --name t it requestq1")
        front.close()
        await until(lambda: verdict()[0] == "down")


async def test_drops_of_a_served_device_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    taken = list[Event]()
    async with open_export_system(export(tmp_path / "s", "net", kind="memory")) as system:
        port = getattr(system.served["it"].end.settings, "port", None)
        assert isinstance(port, MemoryPort)
        with system.world.events.listen(taken.append, (Topic.LOSSES,)):
            port.drop("oversized")
            await trio.sleep(2 * INTERVAL)
    [drop] = taken
    assert isinstance(drop, PacketsDropped)
    assert "it (device on serve): port drops packets: oversized" in caplog.messages
