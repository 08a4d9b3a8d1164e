"""Our driver tells its MTU to a back end that has no configuration space, if both agreed on how."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from drivers.devices.net.layout import NetFeature as N
from drivers.errors import ProbeError
from drivers.transports.vhost_user.constants import F_PROTOCOL_FEATURES, FrontendRequest, ProtocolFeature
from drivers.transports.vhost_user.messages import ack
from drivers.transports.vhost_user.payloads import U64
from rings.features import RingFeature, mask
from vnet.system.world import open_world
from vnet.testing.scripted import ScriptedBack
from vnet.topology import parse

R, F = FrontendRequest, ProtocolFeature
TOPOLOGY = """\
[hosts.rc]
memory = 48
[devices.net0]
transport = "vhost_user"
host = "rc"
socket = "{path}"
mtu = 1400
driver = {{ kind = "memory" }}
"""


def back_end(*features: N, protocol: tuple[ProtocolFeature, ...] = (F.MQ, F.REPLY_ACK, F.MTU)) -> ScriptedBack:
    offered = mask((*features, N.MRG_RXBUF, RingFeature.VERSION_1))
    return ScriptedBack(features=offered | 1 << F_PROTOCOL_FEATURES, protocol_features=mask(protocol))


@pytest.mark.parametrize(
    ("back", "events"),
    [
        (back_end(N.MTU), U64(1400)),
        (back_end(), None),
        (back_end(N.MTU, protocol=(F.MQ, F.REPLY_ACK)), None),
    ],
    ids=["both", "the message alone", "the feature alone"],
)
async def test_the_mtu_is_sent_if_the_feature_is_negotiated(
    back: ScriptedBack, events: U64 | None, tmp_path: Path
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(back.listen, tmp_path / "s")
        async with open_world(parse(TOPOLOGY.format(path=tmp_path / "s")), "test") as world:
            await world.wait_up()
            output = {request: body for request, body, _ in back.log}
            agreed = mask((N.MRG_RXBUF, RingFeature.VERSION_1, *([N.MTU] if events else [])))
            assert output[R.SET_FEATURES] == U64(agreed | 1 << F_PROTOCOL_FEATURES)
            assert output.get(R.NET_SET_MTU) == events
            if events:
                assert back.requests.index(R.SET_FEATURES) < back.requests.index(R.NET_SET_MTU)
                assert back.requests.index(R.NET_SET_MTU) < back.requests.index(R.SET_VRING_KICK)
        nursery.cancel_scope.cancel()


async def test_a_back_end_that_can_not_pass_so_much_is_refused_with_the_mtu(tmp_path: Path) -> None:
    back = back_end(N.MTU)
    back.lies[R.NET_SET_MTU] = lambda _: ack(R.NET_SET_MTU, good=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(back.listen, tmp_path / "s")
        async with open_world(parse(TOPOLOGY.format(path=tmp_path / "s")), "test") as world:
            with pytest.raises(ProbeError, match=r"refused NET_SET_MTU .*: an MTU of 1400 bytes; give"):
                await world.wait_up()
        nursery.cancel_scope.cancel()
