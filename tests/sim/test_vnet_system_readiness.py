"""Waiting for devices: announced changes end the wait, nothing is polled, and each device has a deadline of its own."""

from __future__ import annotations

from typing import cast

import attrs
import pytest
import trio
import trio.testing

from drivers.contracts.events import Source, StatusChanged
from drivers.contracts.liveness import Liveness
from drivers.errors import ProbeError
from vnet.ends.base import PlainEnd
from vnet.system.device import Device
from vnet.system.events import EventHub
from vnet.system.readiness import Readiness


@attrs.define(eq=False)
class Part:
    """A device that is up when both of its ends are."""

    name: str
    looks: int = 0
    failed: bool = False
    waits: bool = False
    back: None = None
    driver_end: PlainEnd[None] = attrs.field(factory=lambda: PlainEnd(None, (), Liveness()))
    device_end: PlainEnd[None] = attrs.field(factory=lambda: PlainEnd(None, (), Liveness()))

    @property
    def up(self) -> bool:
        self.looks += 1
        return self.driver_end.live and self.device_end.live

    def trouble(self) -> str:
        return f"{self.name} is broken"

    def set(self, live: bool) -> None:
        for end in (self.driver_end, self.device_end):
            assert end.liveness is not None
            end.liveness.set(live)


@attrs.define(eq=False)
class System:
    """Devices n0, n1, ... and what announces their changes."""

    parts: list[Part]
    events: EventHub = attrs.field(factory=EventHub)
    readiness: Readiness = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        devices = {part.name: cast(Device, part) for part in self.parts}
        self.readiness = Readiness(self.events, devices)
        for device in devices.values():
            self.readiness.follow(device)

    def report(self, part: Part) -> None:
        assert self.events.lifecycle is not None
        self.events.lifecycle(StatusChanged(0.0, Source(device=part.name), 1))


def system(count: int) -> System:
    return System([Part(f"n{i}") for i in range(count)])


async def test_the_wait_ends_when_the_last_device_is_up_and_sets_no_timer_but_its_deadline() -> None:
    this = system(3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(this.readiness.wait_up, 1000)
        for part in this.parts:
            await trio.testing.wait_all_tasks_blocked()
            assert trio.lowlevel.current_statistics().seconds_to_next_deadline > 900
            part.set(True)
    assert this.events.lifecycle is None


async def test_only_a_device_that_changed_is_looked_at() -> None:
    this = system(100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(this.readiness.wait_up, 1000)
        for part in this.parts:
            await trio.testing.wait_all_tasks_blocked()
            part.set(True)
    assert max(part.looks for part in this.parts) <= 4


async def test_devices_that_are_up_are_not_waited_for() -> None:
    this = system(2)
    for part in this.parts:
        part.set(True)
    await this.readiness.wait_up(0)


async def test_a_device_whose_driver_is_in_another_process_is_not_waited_for() -> None:
    this = system(2)
    this.parts[0].set(True)
    this.parts[1].waits = True
    await this.readiness.wait_up(0)


async def test_a_device_that_goes_down_while_another_comes_up_is_waited_for_again() -> None:
    this = system(2)
    first, second = this.parts
    ended = trio.Event()

    async def wait() -> None:
        await this.readiness.wait_up(1000)
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        first.set(True)
        await trio.testing.wait_all_tasks_blocked()
        first.set(False)
        second.set(True)
        await trio.testing.wait_all_tasks_blocked()
        assert not ended.is_set()
        first.set(True)


async def test_a_failed_device_ends_the_wait_at_once(autojump_clock: trio.testing.MockClock) -> None:
    this = system(2)

    async def fail() -> None:
        await trio.sleep(5)
        this.parts[1].failed = True
        this.report(this.parts[1])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        with pytest.raises(ProbeError, match=r"^n1: n1 is broken$"):
            await this.readiness.wait_up(30)
        assert trio.current_time() == pytest.approx(5)


async def test_the_time_of_a_device_begins_with_its_first_change(autojump_clock: trio.testing.MockClock) -> None:
    this = system(2)

    async def change() -> None:
        for _ in range(2):  # the second change gives no more time
            await trio.sleep(20)
            this.report(this.parts[1])
        this.parts[0].set(True)

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        with pytest.raises(ProbeError, match=r"^n1 is not up after 45 s: n1 is broken$"):
            await this.readiness.wait_up(45)
        assert trio.current_time() - start == pytest.approx(65)
