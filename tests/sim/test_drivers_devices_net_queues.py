"""A network device with several pairs of queues: each flow keeps to its pair, in both directions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import attrs
import pytest
import trio
import trio.testing
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from drivers.bus.binding import BindState
from drivers.contracts.hw import DmaBuffer
from drivers.devices.net.control import NetCommand, NetControl
from drivers.devices.net.driver.control import VirtioNetControlQueue
from drivers.devices.net.driver.station import NetRequest
from drivers.devices.net.layout import CONTROLLED, SUPPORTED, NetFeature
from drivers.errors import CommandRefused, ProbeError
from drivers.transports.pci.registers import CfgType
from rings.features import mask
from rings.layout import WRITE
from rings.status import Status
from rings.testing import Desc
from vnet.ports.packet.memory import MemoryPort
from vnet.testing import HostileDriver, NetPair, Options, bounded, hostile_driver, open_pair, tapped, unharmed, until
from vnet.testing.hostile import EXTRA

F = NetFeature
PAIRS = 3
"""As many as the transports with the fewest queues can carry."""
SEVERAL = Options(queue_size=16, control=True, pairs=PAIRS, memory=64)
AGREED = SUPPORTED & ~mask({F.CTRL_VLAN}) & ~EXTRA


def flows(reverse: bool = False, first: int = 5000) -> Iterator[bytes]:
    """One frame of each of 32 flows, from the driver's side or back."""
    here, there = (2, 1) if reverse else (1, 2)
    ether = Ether(src=f"02:00:00:00:00:0{here}", dst=f"02:00:00:00:00:0{there}")
    v4 = IP(src=f"198.18.0.{here}", dst=f"198.18.0.{there}")
    v6 = IPv6(src=f"2001:2::{here}", dst=f"2001:2::{there}")
    for port in range(first, first + 16):
        ports = {"sport": 80, "dport": port} if reverse else {"sport": port, "dport": 80}
        yield bytes(ether / v4 / UDP(**ports))
        yield bytes(ether / v6 / TCP(**ports))


async def cross(source: MemoryPort, sink: MemoryPort, frames: list[bytes]) -> list[int]:
    """Send ``frames`` one after the other; the queue out of which each came."""
    queues = []
    for frame in frames:
        assert source.inject(frame)
        with bounded():
            while not sink._outbound:  # noqa: ASYNC110  there is no event
                await trio.sleep(0.001)
        _, got, queue = sink.receive_tagged()
        assert got == frame
        queues.append(queue)
    return queues


async def in_use(pair: NetPair, count: int) -> None:
    """Both sides use ``count`` pairs."""
    await until(lambda: pair.driver_port.in_use == pair.device_port.in_use == count)
    await trio.testing.wait_all_tasks_blocked()
    assert pair.settings.bound is not None
    assert pair.settings.bound.station is not None
    assert pair.settings.bound.station.pairs_used == count


def moved(pair: NetPair) -> tuple[list[int], list[int]]:
    """Frames of each pair so far, as both sides count alike: to the device, and to the driver."""
    driver, device = pair.settings.figures.pairs, pair.plug.figures.pairs
    out, back = [p.sent.packets for p in driver], [p.sent.packets for p in device]
    assert out == [p.received.packets for p in device]
    assert back == [p.received.packets for p in driver]
    return out, back


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-2", "NET-DEV-3", "NET-DEV-100", "NET-DEV-101", "NET-DRV-64", "NET-DRV-87")
async def test_a_flow_keeps_to_its_pair_in_both_directions_and_all_pairs_are_used() -> None:
    out, back = list(flows()), list(flows(reverse=True))
    async with open_pair(SEVERAL) as pair, unharmed(pair):
        await in_use(pair, PAIRS)
        assert pair.virtio.features & ~EXTRA == AGREED
        names = [queue.name for queue in pair.virtio.queues]
        assert names == [queue.name for queue in pair.vhost.queues]
        assert (names[2 * PAIRS - 1 :], len(names)) == (["transmitq3", "controlq"], 2 * PAIRS + 1)
        assert int.from_bytes(pair.vhost.config[8:10], "little") == PAIRS
        went = await cross(pair.driver_port, pair.device_port, out)
        assert set(went) == set(range(PAIRS))
        assert await cross(pair.device_port, pair.driver_port, back) == went
        assert await cross(pair.driver_port, pair.device_port, out) == went
        counts = [went.count(i) for i in range(PAIRS)]
        assert moved(pair) == ([2 * count for count in counts], counts)


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-84", "NET-DRV-85", "NET-DRV-87", "NET-DEV-99", "NET-DEV-103")
async def test_the_number_of_pairs_is_changed_while_it_runs() -> None:
    async with open_pair(attrs.evolve(SEVERAL, queue_size=8)) as pair, unharmed(pair):
        for count, first in ((1, 1000), (3, 2000), (2, 3000), (None, 4000)):
            await pair.settings.change(NetRequest(pairs=count))
            await in_use(pair, count or PAIRS)
            went = await cross(pair.driver_port, pair.device_port, list(flows(first=first)))
            assert set(went) == set(range(count or PAIRS))
            back = list(flows(reverse=True, first=first))
            assert await cross(pair.device_port, pair.driver_port, back) == went
        for bad in (PAIRS + 1, 0x8000):
            with pytest.raises(CommandRefused, match="the device has 3 queue pairs"):
                await pair.settings.change(NetRequest(pairs=bad))
        await in_use(pair, PAIRS)
        await pair.settings.change(NetRequest(pairs=2))
        await pair.reset()
        await in_use(pair, 2)
        assert pair.settings.bound is not None
        assert len(pair.settings.bound._buffers) == 4, "a pair that is not used has no buffers"
        await pair.settings.change(NetRequest())
        await in_use(pair, PAIRS)
        went = await cross(pair.driver_port, pair.device_port, list(flows(first=5000)))
        assert set(went) == set(range(PAIRS))
        assert await cross(pair.device_port, pair.driver_port, list(flows(reverse=True, first=5000))) == went
        assert pair.plug.figures.control.refused == 0


@pytest.mark.virtio("NET-DRV-86")
async def test_until_the_device_has_answered_frames_are_sent_on_the_first_pair_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query = VirtioNetControlQueue.query

    async def wait_for_answer(self: VirtioNetControlQueue, control: NetControl, size: int) -> bytes | None:
        if control.command is NetCommand.VQ_PAIRS_SET:
            await trio.sleep_forever()
        return await query(self, control, size)

    async with open_pair(SEVERAL) as pair:
        with monkeypatch.context() as patch:
            patch.setattr(VirtioNetControlQueue, "query", wait_for_answer)
            pair.virtio.stop("a test")
            await until(lambda: pair.virtio.restarts == 1 and bool(pair.virtio.status & Status.DRIVER_OK))
            for frame in flows():
                pair.driver_port.inject(frame)
            await trio.testing.wait_all_tasks_blocked()
            sent = [queue.ring.state().avail for queue in pair.virtio.queues[1 : 2 * PAIRS : 2]]
            assert sent[0] > 0
            assert sent[1:] == [0] * (PAIRS - 1)
        await pair.reset()
        await in_use(pair, PAIRS)


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-2")
async def test_without_mq_the_control_queue_is_the_third_and_one_pair_is_used() -> None:
    async with open_pair(SEVERAL) as pair, unharmed(pair):
        pair.settings.features &= ~mask({F.MQ})
        await pair.reset()
        await in_use(pair, 1)
        assert [queue.name for queue in pair.virtio.queues] == ["receiveq1", "transmitq1", "controlq"]
        assert [queue.name for queue in pair.vhost.queues[:3]] == ["receiveq1", "transmitq1", "controlq"]
        before = pair.plug.figures.control.commands
        await pair.settings.change(NetRequest(mac=b"\x02\0\0\0\0\x09"))
        assert pair.plug.figures.control.commands == before + 1
        await pair.device_port.receive()  # as each side is notified
        assert set(await cross(pair.driver_port, pair.device_port, list(flows()))) == {0}
        pair.settings.features |= mask({F.MQ})
        await pair.reset()
        await in_use(pair, PAIRS)


@pytest.mark.every_transport
async def test_all_pairs_come_back_after_a_reset_and_a_link_that_was_down() -> None:
    async with open_pair(SEVERAL) as pair, unharmed(pair):
        await pair.reset()
        await in_use(pair, PAIRS)
        for up in (False, True):
            pair.plug.link_up = up
            pair.plug.changed()
            await until(lambda: pair.device_port.live is up and pair.driver_port.carrier is up)  # noqa: B023
        await in_use(pair, PAIRS)
        assert set(await cross(pair.driver_port, pair.device_port, list(flows()))) == set(range(PAIRS))


async def test_pairs_that_there_is_no_memory_for_are_refused_with_what_helps() -> None:
    with pytest.raises(ProbeError, match=r"no memory for 3 queue pairs.* smaller queues or fewer pairs") as error:
        async with open_pair(attrs.evolve(SEVERAL, queue_size=128, memory=32)):
            pass
    assert "\n" not in str(error.value)
    async with open_pair(attrs.evolve(SEVERAL, queue_size=128, memory=64)) as pair:
        await pair.settings.change(NetRequest(pairs=1))
        await pair.reset()
        hogs: list[DmaBuffer] = []
        with pytest.raises(MemoryError):
            hogs.extend(pair.rc.memory.alloc(4 << 20, 4096) for _ in range(100))
        with pytest.raises(CommandRefused, match="no memory for buffers"):
            await pair.settings.change(NetRequest(pairs=3))
        await in_use(pair, 1)
        # Without memory for the pairs that the interface or an earlier request needs, the device goes on with fewer.
        pair.settings.request = NetRequest(pairs=3)
        for promisc in (True, False):
            pair.driver_port.want(attrs.evolve(pair.driver_port.state, promisc=promisc))
            await trio.sleep(1)
            await in_use(pair, 1)
        assert pair.virtio.restarts == 0
        buffers = pair.rc.memory.statistics().buffers
        with pytest.raises(CommandRefused, match="no memory for buffers"):
            await pair.settings.change(NetRequest(pairs=3))
        assert pair.rc.memory.statistics().buffers == buffers, "what was had of a pair is given back"
        for each in hogs:
            pair.rc.memory.free(each)
        await pair.settings.change(NetRequest(pairs=2))
        await in_use(pair, 2)


# A hostile driver


async def start(driver: HostileDriver[NetPair], queues: int) -> None:
    """All features, the first ``queues`` queues and the last one enabled, four buffers in each receiveq."""
    await driver.negotiate(driver.device_features & ~mask({F.CTRL_VLAN}))
    driver.map_vectors(2 * PAIRS + 1)
    driver.rings = [driver.set_up(i, enable=i < queues or i == 2 * PAIRS) for i in range(2 * PAIRS + 1)]
    driver.status |= Status.DRIVER_OK
    await trio.testing.wait_all_tasks_blocked()
    for queue in range(0, queues, 2):
        for head in range(16):
            driver.send(Desc(driver.alloc(2048), 2048, WRITE), head=head, queue=queue)
    ask(driver, b"\0\0\1")


def ask(driver: HostileDriver[NetPair], data: bytes) -> int:
    answer = driver.put(b"\xee")
    driver.send(Desc(driver.put(data), len(data)), Desc(answer, 1, WRITE), head=0, queue=2 * PAIRS)
    return driver.get(answer, 1)[0]


async def receive(driver: HostileDriver[NetPair]) -> list[int]:
    """Inject 12 frames of as many flows; how many came by each receiveq."""
    rings = [driver.rings[2 * i] for i in range(PAIRS)]
    before = [ring.used_idx for ring in rings]
    for frame in list(flows(reverse=True))[:12]:
        driver.pair.device_port.inject(frame)
    with bounded():
        await trio.testing.wait_all_tasks_blocked()
    for i, ring in enumerate(rings):  # what was used is offered again
        for at in range(before[i], ring.used_idx):
            ring.offer(ring.elem(at % ring.num)[0])
        driver.kick(2 * i)
    return [ring.used_idx - start for ring, start in zip(rings, before, strict=True)]


@pytest.mark.virtio("NET-DEV-99", "NET-DEV-102", "NET-DEV-103")
@pytest.mark.hostile("N07")
async def test_only_the_requested_pairs_are_used_and_only_if_they_are_set_up() -> None:
    async with open_pair(SEVERAL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, 2 * PAIRS)
        first = await receive(driver)
        assert first == [12, 0, 0], "before it is asked, only receiveq1 is used"
        for count in (0, PAIRS + 1, 0x8000, 0xFFFF):
            assert ask(driver, b"\4\0" + count.to_bytes(2, "little")) == 1
            assert pair.device_port.in_use == 1
        assert ask(driver, b"\4\0\3\0") == 0
        assert sum(got := await receive(driver)) == 12
        assert all(got)
        assert ask(driver, b"\4\0\1\0") == 0
        assert await receive(driver) == [12, 0, 0]
        # What is sent on a pair that is not used waits until it is.
        frame = next(flows())
        driver.send(Desc(driver.put(bytes(12) + frame), 12 + len(frame)), head=0, queue=3)
        await trio.testing.wait_all_tasks_blocked()
        assert driver.rings[3].used_idx == 0
        assert ask(driver, b"\4\0\2\0") == 0
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert driver.rings[3].used_idx == 1
        assert pair.device_port.receive_tagged()[1:] == (frame, 1)


@pytest.mark.hostile("N07")
async def test_pairs_that_were_not_set_up_are_refused() -> None:
    async with open_pair(SEVERAL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, 4)
        assert ask(driver, b"\4\0\3\0") == 1
        assert ask(driver, b"\4\0\2\0") == 0
        assert pair.device_port.in_use == 2
        assert driver.status & Status.NEEDS_RESET == 0


async def test_a_driver_without_any_of_it_has_two_queues() -> None:
    async with open_pair(SEVERAL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start(SUPPORTED & ~CONTROLLED & ~EXTRA)
        frame = next(flows())
        driver.send(Desc(driver.put(bytes(12) + frame), 12 + len(frame)))
        with bounded():
            assert (await pair.device_port.receive())[1] == frame
        assert pair.device_port.in_use == 1


@pytest.mark.parametrize("most", [0, 0x101, 0x8001, 0xFFFF])
async def test_a_device_that_reports_a_number_of_pairs_that_can_not_be_is_refused(most: int) -> None:
    async with open_pair(SEVERAL) as pair, tapped(pair) as tap:
        config = tap.structures[CfgType.DEVICE]
        for i, byte in enumerate(most.to_bytes(2, "little")):
            tap.lies[config.bar, config.offset + 8 + i] = partial(_constant, byte)
        tap.lies[config.bar, config.offset + 8] = partial(_constant, most)
        pair.rc.pci.register_device(tap)
        await until(lambda: pair.device.virtio and pair.rc.virtio.binding(pair.virtio).state is BindState.FAILED)
        assert (
            f"the device reports {most} pairs of queues; 1 to 256 can be used"
            in pair.rc.virtio.binding(pair.virtio).error
        )


def _constant(value: int, _: int) -> int:
    return value
