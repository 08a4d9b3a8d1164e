"""Parts are made and taken away, each as a whole or not at all, and nothing of one that went is left."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import vnet.system.parts as parts_module
import vnet.system.tables as tables_module
from drivers.bus.vhost import VhostBus
from support.changes import EMPTY, SIDES, act, held, sample
from vnet.ends import DEVICE_TYPES
from vnet.host.host import Host
from vnet.pcie.epc import EndpointController
from vnet.pcie.ntb import NtbFunction
from vnet.pcie.rc import RootComplex
from vnet.system.carriers import LinkCarrier, NtbCarrier
from vnet.system.sites import DeviceSite
from vnet.system.world import open_world
from vnet.topology import Topology
from vnet.topology.support import cells

PLACES = [
    (kind, transport, mode)
    for (kind, transport), cell in cells().items()
    for mode in cell.modes
    if DEVICE_TYPES[kind].exercise is not None
]


@pytest.mark.parametrize(("kind", "transport", "mode"), PLACES)
async def test_every_device_comes_and_goes_and_leaves_nothing(kind: str, transport: str, mode: str) -> None:
    parts, name = sample(kind, transport, mode), f"{kind}0"
    carriers = Topology({}, parts.links, {}, parts.ntbs)
    async with open_world(Topology(parts.hosts, {}, {}), "t") as world:
        for surprise in (False, True):
            before = await held(world)
            await world.add(carriers)
            empty = await held(world)
            await world.add(attrs.evolve(EMPTY, devices=parts.devices))
            await act(world, name)
            for side in SIDES if mode == "direct" else SIDES[:1]:
                await world.unbind(name, side)
                assert not world.devices[name].up
                await world.bind(name, side)
                await act(world, name)
            assert await world.remove(name, surprise=surprise) == (("devices", name),)
            assert await held(world) == empty
            await world.add(attrs.evolve(EMPTY, devices=parts.devices))
            await act(world, name)
            for link in parts.links:
                if link in world.links:  # it takes all that it carries with it
                    await world.remove(link, surprise=surprise)
            if not parts.links:
                await world.remove(name, surprise=surprise)
            assert await held(world) == before


FAILURES: list[tuple[Any, str]] = [
    (parts_module, "open_netns"),
    (parts_module, "_open_ends"),
    (parts_module, "Host"),
    (parts_module, "open_trace"),
    (parts_module, "NtbFunction"),
    (parts_module, "wait_offered"),
    (tables_module, "build_link"),
    (RootComplex, "attach"),
    (Host, "add_controller"),
    (NtbFunction, "bind"),
    (DeviceSite, "place"),
    (VhostBus, "register_device"),
    (NtbCarrier, "show"),
    (EndpointController, "start"),
]


@pytest.mark.parametrize(("owner", "step"), FAILURES, ids=[step for _, step in FAILURES])
async def test_a_step_that_fails_undoes_all_of_an_addition(
    owner: Any, step: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts = sample("blk", "ntb")
    traced = {name: attrs.evolve(link, trace=str(tmp_path / name)) for name, link in parts.links.items()}
    parts = attrs.evolve(parts, links=traced)
    async with open_world(sample("net", "mmio"), "t") as world:
        await world.wait_up()
        before = await held(world)
        with monkeypatch.context() as patch:
            if step == "open_netns":
                patch.setattr(Topology, "own_netns", lambda *_: ("t-none",))
            patch.setattr(owner, step, fail)
            with pytest.raises(OSError, match="no more"):
                await world.add(parts)
        assert await held(world) == before
        await world.add(parts)
        await act(world, "blk0")


def fail(*_: object, **__: object) -> Any:
    raise OSError("no more")


async def test_an_addition_that_is_cancelled_anywhere_is_undone() -> None:
    parts = sample("blk", "ntb")
    async with open_world(sample("net", "mmio"), "t") as world:
        await world.wait_up()
        before = await held(world)
        for steps in count(0, 7):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_after, steps, scope)
                    await world.add(parts)
                    nursery.cancel_scope.cancel()
            if not scope.cancelled_caught:
                break
            assert await held(world) == before
        assert steps > 20
        await act(world, "blk0")


async def cancel_after(steps: int, scope: trio.CancelScope) -> None:
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_an_error_of_one_part_leaves_nothing_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    first = sample("net")
    spec = attrs.evolve(first.devices["net0"], function=1)
    parts = attrs.evolve(first, hosts={}, devices={**first.devices, "net1": spec})
    async with open_world(Topology(first.hosts, {}, {}), "t") as world:
        before = await held(world)
        hide = LinkCarrier.hide

        async def fail_first(carrier: LinkCarrier) -> None:
            await hide(carrier)
            if carrier.number == 0:
                raise OSError("no more")

        with monkeypatch.context() as patch:
            patch.setattr(LinkCarrier, "hide", fail_first)
            await world.add(parts)
            with pytest.raises(OSError, match="no more"):
                await world.remove("pcie0")
        assert await held(world) == before
        await world.add(parts)
        await act(world, "net1")
