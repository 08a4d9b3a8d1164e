"""A link that carries packets, between real drivers and devices: data arrive whole, and each end of it is reported."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing

from drivers.contracts.events import Event, Events, LinkErrorDetected
from rings.errors import MemoryFault
from rings.memory import Addr
from support.rigs.wire import DOWN, UP, Observer
from vnet.cli.tree import link_tree
from vnet.errors import CompleterAbort, CompletionTimeout, ConfigError, LinkDown, PoisonedData
from vnet.link.base import Direction
from vnet.link.faulty import FaultyLink
from vnet.link.transaction.codec import parse
from vnet.link.transaction.packets import MemoryWrite
from vnet.link.wire.impairments import FAULTS, WireFault, WireRule
from vnet.link.wire.link import RETRY, WireLink
from vnet.linux.memory import HostMemory
from vnet.pcie.rc import RootComplex
from vnet.process_ends import RemoteEnd
from vnet.spec import HostSpec, LinkSpec, WireSpec
from vnet.system.snapshot import take_snapshot
from vnet.testing import FRAME, NetPair, Options, open_pair
from vnet.testing.blk import BlkOptions, open_blk_pair
from vnet.testing.exercises import exercise
from vnet.topology import Topology, check
from vnet.views.link import LinkStatistics, WireStatistics
from vnet.views.parse import from_plain
from vnet.views.plain import to_plain

WIRED = LinkSpec(root="rc", endpoint="ep", wire=WireSpec())
CHANCES = [field.name for field in attrs.fields(WireSpec) if field.metadata.get("chance")]


def wired(**chances: float) -> LinkSpec:
    return attrs.evolve(WIRED, wire=attrs.evolve(WireSpec(seed=1), **cast("dict[str, Any]", chances)))


def wire_of(link: object) -> WireLink:
    assert isinstance(link, FaultyLink)
    assert isinstance(link.inner, WireLink)
    return link.inner


def observe(link: WireLink) -> Observer:
    """Watch the packets of a link from now on."""
    observer = Observer()
    link.tap = observer
    return observer


def figures(pair: NetPair) -> WireStatistics:
    wire = pair.link.statistics().wire
    assert wire is not None
    return wire


def test_a_table_of_a_topology_has_each_fault_of_the_wire() -> None:
    assert sorted(CHANCES) == sorted(fault.value for fault in WireFault)
    assert set(FAULTS) == set(WireFault)


@pytest.mark.parametrize("rate", [0.0001, 0.001, 0.01])
async def test_frames_arrive_whole_at_each_rate_of_bit_errors(rate: float) -> None:
    async with open_pair(Options(link=wired(bit_errors=rate, lost_acks=rate))) as pair:
        observer = observe(wire_of(pair.link))
        for number in range(16):
            frame = FRAME + number.to_bytes(2, "big") * 300
            pair.driver_port.inject(frame)
            _, received = await pair.device_port.receive()
            assert received == frame
            pair.device_port.inject(frame)
            _, received = await pair.driver_port.receive()
            assert received == frame
        assert observer.delivered > 200
        assert pair.link.epoch == 1
        counted = figures(pair)
        if rate == 0.01:
            assert counted.faults["bit_errors"]
            assert counted.downstream.errors["bad TLP"] + counted.upstream.errors["bad TLP"]
            assert counted.downstream.replayed + counted.upstream.replayed


async def test_a_disk_keeps_its_data_on_a_bad_wire() -> None:
    spec = wired(bit_errors=0.01, lost_acks=0.01, duplicated=0.01, reordered=0.01, lost_credits=0.01, retrains=0.01)
    async with open_blk_pair(BlkOptions(link=spec)) as pair:
        observer = observe(wire_of(pair.link))
        data = hashlib.shake_128(b"disk").digest(1 << 16)
        await pair.disk.write(0, data)
        assert bytes(await pair.disk.read(0, len(data))) == data
        assert observer.delivered > 400


WIRED_EXERCISES = [
    ("net", "pci", "direct"),
    ("net", "epf_mailbox", "mediated"),
    ("blk", "pci", "direct"),
    ("scsi", "epf_mailbox", "direct"),
    ("rpmsg", "pci", "direct"),
    ("scsi", "ntb", "direct"),
]
"""Cells of the matrix that are tested on a wire each time; ``--link wire`` tests all of them."""


@pytest.mark.parametrize(("device", "transport", "mode"), WIRED_EXERCISES)
async def test_a_device_does_its_exercise_on_a_wire_with_faults(device: str, transport: str, mode: str) -> None:
    await exercise(device, transport, mode, "wire")


# A root complex and registers


class Registers:
    """A function without configuration space: eight bytes that log writes."""

    def __init__(self) -> None:
        self.value = 0
        self.log: list[str] = []

    def mem_read(self, addr: int, size: int, function: int) -> int | None:
        return self.value & (1 << 8 * size) - 1 if addr < 8 else None

    def mem_write(self, addr: int, size: int, value: int, function: int) -> bool:
        if addr < 8:
            self.value = value
        return addr < 8

    def beyond(self, addr: int, size: int) -> tuple[()]:
        return ()

    def regions(self, addr: int, size: int, function: int) -> tuple[()]:
        return ()

    def config_read(self, function: int, offset: int, size: int) -> int | None:
        return None

    def config_write(self, function: int, offset: int, size: int, value: int) -> bool:
        return False

    def link_up(self) -> None:
        self.log.append("up")

    def link_down(self) -> None:
        self.log.append("down")


class Bench:
    """A root complex with a page of memory, a wire, and registers."""

    def __init__(self) -> None:
        self.memory = HostMemory(4096)
        self.taken: list[Event] = []
        self.link = WireLink("link0", events=Events(links=self.taken.append))
        self.registers = Registers()
        RootComplex(self.memory).attach(self.link)
        self.link.attach_endpoint(self.registers)
        self.link.set_present(True)
        self.base = self.memory.ranges[0][0]
        self.window = self.link.map(UP, self.base, 4096)

    def at(self, offset: int) -> Addr:
        return Addr(self.base + offset)

    def fail(self, fault: WireFault, number: int = 1) -> None:
        self.link.impairments.set([WireRule(fault, nth={number})])

    @property
    def errors(self) -> list[str]:
        return [event.error for event in self.taken if isinstance(event, LinkErrorDetected)]


@asynccontextmanager
async def open_bench() -> AsyncIterator[Bench]:
    async with trio.open_nursery() as nursery:
        bench = Bench()
        nursery.start_soon(bench.link.run)
        yield bench
        bench.link.set_present(False)
        bench.memory.close()
        nursery.cancel_scope.cancel()


def packets(bench: Bench, kind: str) -> int:
    wire = bench.link.statistics().wire
    assert wire is not None
    return wire.upstream.tlps.get(kind, 0)


async def test_memory_is_read_and_written_by_packets() -> None:
    async with open_bench() as bench:
        bench.memory.view(bench.at(16), 4, True)[:] = b"root"
        assert bench.window.view(bench.at(16), 4).tobytes() == b"root"
        assert packets(bench, "MRd") == 1
        view = bench.window.view(bench.at(32), 1000, True)
        assert packets(bench, "MRd") == 1, "a writer's view takes no packet"
        view[10:20] = b"0123456789"
        assert bench.memory.view(bench.at(42), 10) == bytes(10), "its bytes have not left yet"
        await trio.testing.wait_all_tasks_blocked()
        assert bench.memory.view(bench.at(42), 10).tobytes() == b"0123456789"
        assert packets(bench, "MWr") == 1


async def test_data_arrive_before_the_ring_word_and_the_interrupt_behind_them() -> None:
    async with open_bench() as bench:
        order: list[int] = []

        def note(way: Direction, delivered: bool, packet: bytes) -> None:
            parsed = parse(packet)
            if delivered and isinstance(parsed, MemoryWrite):
                order.append(parsed.address - bench.base)

        bench.link.tap = note
        words = bench.window.pin(bench.at(64), 4, "H")
        bench.window.view(bench.at(128), 4, True)[:] = b"data"
        words[0] = 7
        bench.window.view(bench.at(256), 4, True)[:] = b"more"
        bench.link.mem_write(UP, bench.at(8), 4, 1)
        assert order == [128, 64, 256, 8]
        assert words[0] == 7
        bench.window.unpin(words)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        pytest.param(WireFault.UNANSWERED, CompletionTimeout, marks=pytest.mark.hostile("L05")),
        pytest.param(WireFault.ABORTED, CompleterAbort, marks=pytest.mark.hostile("L06")),
        pytest.param(WireFault.POISONED, PoisonedData, marks=pytest.mark.hostile("L07")),
        (WireFault.SURPRISE_DOWNS, LinkDown),
        (WireFault.HOT_RESETS, LinkDown),
    ],
)
async def test_an_access_that_fails_raises_the_error_of_its_failure(fault: WireFault, error: type[MemoryFault]) -> None:
    async with open_bench() as bench:
        bench.fail(fault)
        with pytest.raises(error):
            bench.window.view(bench.at(0), 4)
        bench.link.impairments.set(())
        if error is LinkDown:
            assert not bench.link.up
            await trio.sleep(2 * RETRY)
            assert bench.link.up
            assert bench.link.epoch == 2
            with pytest.raises(LinkDown, match="epoch 1 is over"):
                bench.window.view(bench.at(0), 4)
            assert bench.registers.log == ["up", "down", "up"]
        else:
            assert bench.window.view(bench.at(0), 4) == bytes(4)
            assert bench.link.epoch == 1


async def test_a_request_for_nothing_is_refused() -> None:
    async with open_bench() as bench:
        assert bench.link.mem_read(DOWN, 64, 4) == 0xFFFF_FFFF
        bench.link.mem_write(DOWN, 64, 4, 1)
        assert bench.link.mem_read(DOWN, 0, 4) == 0
        assert bench.errors == ["unsupported request"] * 2
        with pytest.raises(MemoryFault):
            bench.window.view(bench.at(8192), 4)


async def test_a_register_read_that_gets_no_answer_is_all_ones() -> None:
    async with open_bench() as bench:
        bench.fail(WireFault.UNANSWERED)
        assert bench.link.mem_read(DOWN, 0, 4) == 0xFFFF_FFFF
        assert bench.errors == ["completion timeout"]


async def test_a_retrain_is_no_link_event_and_a_hot_reset_is_one() -> None:
    async with open_bench() as bench:
        assert bench.link.retrain()
        assert bench.link.epoch == 1
        bench.link.hot_reset()
        assert not bench.link.up
        assert bench.link.mem_read(DOWN, 0, 4) == 0xFFFF_FFFF
        await trio.sleep(2 * RETRY)
        assert bench.link.epoch == 2
        assert not bench.errors


async def test_a_link_that_is_down_stays_down_until_it_is_brought_up() -> None:
    async with open_bench() as bench:
        bench.link.bring_down()
        await trio.sleep(10 * RETRY)
        assert not bench.link.up
        bench.link.set_reachable(False)
        bench.link.bring_up()
        assert not bench.link.up
        bench.link.set_reachable(True)
        assert bench.link.up
        with pytest.raises(ValueError, match="has an endpoint already"):
            bench.link.attach_endpoint(bench.registers)
        with pytest.raises(ValueError, match="has a root port already"):
            RootComplex(bench.memory).attach(bench.link)


async def test_an_error_is_an_event_with_its_severity_and_the_header_of_its_packet() -> None:
    async with open_bench() as bench:
        bench.link.mem_read(DOWN, 64, 4)
        event = next(event for event in bench.taken if isinstance(event, LinkErrorDetected))
        assert (event.port, event.severity, event.source.link) == ("endpoint", "non-fatal", "link0")
        assert event.header.startswith("00000001")


async def test_a_thousand_retrains_under_load_lose_no_frame() -> None:
    async with open_pair(Options(link=wired(retrains=0.2))) as pair:
        observe(wire_of(pair.link))
        sent = 0
        while figures(pair).faults.get("retrains", 0) < 1000:
            pair.driver_port.inject(FRAME)
            assert (await pair.device_port.receive())[1] == FRAME
            sent += 1
        assert sent > 10
        assert pair.link.epoch == 1


async def test_a_device_comes_back_after_surprise_downs_and_hot_resets() -> None:
    async with open_blk_pair(BlkOptions(link=WIRED)) as pair:
        link = wire_of(pair.link)
        for fault in (WireFault.SURPRISE_DOWNS, WireFault.HOT_RESETS):
            link.impairments.set([WireRule(fault, nth={40})])
            await pair.disk.write(0, b"wire" * 1024)
            link.impairments.set(())
            assert bytes(await pair.disk.read(0, 4096)) == b"wire" * 1024
        assert pair.link.epoch == 3


async def test_show_has_the_wire_in_words_and_the_view_goes_through_json() -> None:
    async with open_pair(Options(link=wired(bit_errors=0.05))) as pair:
        pair.driver_port.inject(FRAME)
        await pair.device_port.receive()
        figure = pair.link.statistics()
        assert from_plain(LinkStatistics, to_plain(figure)) == figure
        lines = "\n".join(link_tree("link0", take_snapshot(pair.world).links["link0"]))
        assert "wire L0: " in lines
        assert "root port: CfgRd " in lines
        assert "errors: " in lines
        assert "faults of the wire: bit_errors " in lines


async def test_a_wire_that_takes_time_makes_its_users_wait() -> None:
    spec = attrs.evolve(WIRED, generation=1, lanes=1)
    async with open_pair(Options(link=spec)) as pair:
        start = trio.current_time()
        pair.device_port.inject(FRAME)
        await pair.driver_port.receive()
        assert trio.current_time() > start


@pytest.mark.parametrize(
    "link",
    [
        LinkSpec(root=RemoteEnd(vfio_user="/run/s"), endpoint="ep", wire=WireSpec()),
        LinkSpec(root="rc", endpoint="ep", vfio_user="/run/s", wire=WireSpec()),
    ],
)
def test_a_wire_to_another_process_is_refused(link: LinkSpec) -> None:
    with pytest.raises(ConfigError, match="wire: must be absent: both ends of a wire are hosts of this process"):
        check(Topology({"rc": HostSpec(), "ep": HostSpec()}, {"l": link}, {}, {}), "test")
