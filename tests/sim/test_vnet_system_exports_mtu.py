"""The MTU of a network device that a front end shows to its driver: agreed on, or refused in a line (5.1.4.1)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from drivers.devices.net import NetPlug
from drivers.devices.net.layout import NetFeature as F
from drivers.transports.vhost_user.constants import F_PROTOCOL_FEATURES, ProtocolFeature
from drivers.transports.vhost_user.payloads import U64, Config, VringState
from rings.features import RingFeature, mask
from support.rigs.vhost_user import FrontEnd, R
from vnet.linux.ipc import connect
from vnet.ports.packet.memory import MemoryPort
from vnet.system.exports import DeviceExport, Served, open_exports
from vnet.testing import until
from vnet.topology import parse_device

FEATURES = mask((RingFeature.VERSION_1, F.MTU))
QEMUS = mask((ProtocolFeature.MQ, ProtocolFeature.REPLY_ACK, ProtocolFeature.MTU, ProtocolFeature.STATUS))
"""Protocol features that QEMU negotiates for a network device: it never reads our configuration space."""
OWN = 1500


@asynccontextmanager
async def served_net(folder: Path, output: list[str]) -> AsyncIterator[tuple[Served, MemoryPort]]:
    export = DeviceExport(
        parse_device({"type": "net", "mtu": OWN, "device": {"kind": "memory"}}, "test"), folder / "net"
    )
    async with open_exports({"net0": export}, report=output.append) as served:
        plug = served["net0"].end.settings
        assert isinstance(plug, NetPlug)
        assert isinstance(plug.port, MemoryPort)
        yield served["net0"], plug.port


@asynccontextmanager
async def front_end(served: Served, protocol_features: int = QEMUS) -> AsyncIterator[FrontEnd]:
    front = FrontEnd(await connect(served.export.socket), FEATURES, rings=2)
    try:
        await front.negotiate(protocol_features)
        yield front
    finally:
        front.close()
        await until(lambda: not served.server.connected)


async def run(front: FrontEnd, mtu: int | None) -> bool:
    """Start the device as QEMU does, the MTU before the rings; whether the MTU was agreed on."""
    assert await front.tell(R.SET_FEATURES, U64(FEATURES | 1 << F_PROTOCOL_FEATURES))
    good = mtu is None or await front.tell(R.NET_SET_MTU, U64(mtu))
    assert await front.share()
    for ring in front.rings:
        assert await front.start(ring)
    assert await front.tell(R.SET_STATUS, U64(15))
    return good


@pytest.mark.virtio("NET-DEV-4", "NET-DEV-7", "NET-DEV-8")
@pytest.mark.parametrize("mtu", [68, 1280, OWN])
async def test_an_mtu_that_the_device_can_pass_is_accepted_and_its_interface_follows(mtu: int, tmp_path: Path) -> None:
    output = list[str]()
    async with served_net(tmp_path, output) as (served, port):
        async with front_end(served) as front:
            assert await run(front, mtu)
            await until(lambda: port.live)
            assert port.mtu == mtu
            assert not await front.tell(R.NET_SET_MTU, U64(mtu - 1)), "it may not change under a driver"
            assert await front.tell(R.NET_SET_MTU, U64(mtu))
            for ring in front.rings:  # a guest that reboots: QEMU does not say everything again
                await front.ask(R.GET_VRING_BASE, VringState(ring.index, 0))
            await until(lambda: not port.live)
            for ring in front.rings:
                assert await front.start(ring)
            await until(lambda: port.live)
            assert port.mtu == mtu
        async with front_end(served) as front:
            assert await run(front, None)
            await until(lambda: port.live)
            assert port.mtu == OWN, "the next front end says for itself"
    assert len([line for line in output if "refused" in line]) == 1


@pytest.mark.virtio("NET-DEV-4", "NET-DEV-8")
@pytest.mark.parametrize("mtu", [0, 67, OWN + 1, 9000, 65535, 1 << 32, (1 << 64) - 1])
async def test_an_mtu_that_it_can_not_pass_is_refused_with_the_reason(mtu: int, tmp_path: Path) -> None:
    output = list[str]()
    async with served_net(tmp_path, output) as (served, port), front_end(served) as front:
        assert not await run(front, mtu)
        await until(lambda: port.live)
        assert port.mtu == OWN
        assert output[1:] == [
            f"net0: refused: NET_SET_MTU: {mtu} bytes: must be 68 to 1500, the MTU of this device (QEMU: host_mtu=1500)"
        ]


async def test_an_mtu_is_offered_only_to_a_front_end_that_can_agree_on_it(tmp_path: Path) -> None:
    async with served_net(tmp_path, []) as (served, _):
        for agreed, offered in (
            (QEMUS, True),
            (QEMUS & ~mask((ProtocolFeature.MTU,)), False),
            (QEMUS & ~mask((ProtocolFeature.MTU,)) | mask((ProtocolFeature.CONFIG,)), True),
        ):
            async with front_end(served, agreed) as front:
                assert bool((await front.ask(R.GET_FEATURES)).value >> F.MTU & 1) is offered


async def test_a_front_end_reads_the_mtu_that_it_gave(tmp_path: Path) -> None:
    agreed = QEMUS | mask((ProtocolFeature.CONFIG,))
    async with served_net(tmp_path, []) as (served, _), front_end(served, agreed) as front:
        for mtu in (OWN, 1400):
            assert await front.tell(R.NET_SET_MTU, U64(mtu))
            shown = (await front.ask(R.GET_CONFIG, Config(0, 0, bytes(12)))).data
            assert int.from_bytes(shown[10:12], "little") == mtu
