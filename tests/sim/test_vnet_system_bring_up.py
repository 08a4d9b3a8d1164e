"""A device comes up once its driver has given it features, or its error says why it does not."""

from __future__ import annotations

import pytest
import trio

from drivers.bus.back import Identity, VhostBack
from drivers.bus.device_queue import DeviceQueue
from drivers.bus.model import MatchId
from drivers.bus.vhost import VhostBound, VhostBus, VhostDevice
from drivers.errors import ProbeError
from rings.features import EMPTY_TABLE
from rings.memory import Memory
from vnet.system.bring_up import UP_TIMEOUT, reason_of, register_device_types, wait_offered


class SilentBack(VhostBack):
    """A back half on no carrier."""

    bound = False

    def bind(self) -> None:
        self.bound = True

    def unbind(self) -> None:
        self.bound = False

    def memory(self) -> Memory:
        raise NotImplementedError

    def call(self, queue: DeviceQueue) -> None:
        raise NotImplementedError

    def config_changed(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(("types", "why"), [(True, "no port to plug into yet"), (False, "it never came up")])
async def test_a_device_without_features_is_not_waited_for_any_longer_and_the_error_says_why(
    types: bool, why: str
) -> None:
    bus, back = VhostBus(), SilentBack(Identity(1, "net0"))
    if types:
        register_device_types(bus, {})
    async with trio.open_nursery() as nursery:
        await nursery.start(bus.serve)
        bus.register_device(back.device)
        start = trio.current_time()
        with pytest.raises(ProbeError, match=rf"^net0: .*{why}$"):
            await wait_offered([(bus, back)])
        assert trio.current_time() - start == pytest.approx(UP_TIMEOUT)
        nursery.cancel_scope.cancel()


class RefusingDriver:
    """A device type whose device can never be offered."""

    name, id_table, table = "net", (MatchId(1),), EMPTY_TABLE

    def bind(self, device: VhostDevice) -> VhostBound[object]:
        raise ProbeError(f"{device.name}: no such disk")


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
async def test_a_failed_offer_is_final_and_ends_the_wait_also_while_another_device_waits(order: slice) -> None:
    waiting, refusing = VhostBus(), VhostBus()
    register_device_types(waiting, {})
    refusing.register_driver(RefusingDriver())
    backs = [(waiting, SilentBack(Identity(1, "net0"))), (refusing, SilentBack(Identity(1, "net1")))]
    async with trio.open_nursery() as nursery:
        await nursery.start(waiting.serve)
        await nursery.start(refusing.serve)
        for bus, back in backs:
            bus.register_device(back.device)
        start = trio.current_time()
        with pytest.raises(ProbeError, match=r"^net1: .*no such disk$"):
            await wait_offered(backs[order])
        assert trio.current_time() - start < 1
        nursery.cancel_scope.cancel()


def test_each_error_is_reported_once() -> None:
    assert reason_of(["a", "", "b", "a"]) == "a; b"
    assert reason_of([""]) == "it never came up"
