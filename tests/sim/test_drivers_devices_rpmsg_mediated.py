"""rpmsg, mediated: two unmodified drivers, and a message that is copied once on its way from one to the other."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from drivers.devices.rpmsg.layout import (
    DEFAULT_BUFFER,
    HEADER,
    HEADER_SIZE,
    NS_ADDR,
    SUPPORTED,
    RpmsgFeature,
)
from drivers.errors import MessageTooLong, NoBuffer
from drivers.mediator import MediatorStatistics
from rings.features import mask
from rings.layout import WRITE
from rings.status import Status
from rings.testing import Desc
from vnet.ends.mediated import MediatorEnd
from vnet.errors import ConfigError
from vnet.spec import FaultSpec, LinkSpec
from vnet.system.device import Device
from vnet.testing import bounded, hostile_driver, until
from vnet.testing.hostile import EXTRA
from vnet.testing.rpmsg import RpmsgOptions, RpmsgPair, bound_pair, open_rpmsg_pair
from vnet.topology import parse

OVER = pytest.mark.parametrize("transport", ["pci", "epf_mailbox", "ntb"], indirect=True)
HELLO = b"hello world!"
OK = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK


def mediated(**given: Any) -> RpmsgOptions:
    return RpmsgOptions(mode="mediated", **given)


def statistics(device: Device) -> MediatorStatistics:
    """Figures of the frames from that device's driver."""
    assert isinstance(device.device_end, MediatorEnd)
    return device.device_end.settings.statistics[device.name]


def both(pair: RpmsgPair) -> tuple[MediatorStatistics, MediatorStatistics]:
    return statistics(pair.device), statistics(pair.local)


async def exchange(pair: RpmsgPair, name: str = "sample") -> None:
    """A message each way between two endpoints that find each other. Raises trio.TooSlowError."""
    ends = await bound_pair(*pair.buses, name)
    with trio.fail_after(1):
        for source, sink in (ends, ends[::-1]):
            await source.send(HELLO)
            assert await sink.receive() == HELLO
    for end in ends:
        end.close()


@OVER
async def test_messages_and_announcements_pass_and_each_byte_is_copied_once() -> None:
    async with open_rpmsg_pair(mediated()) as pair:
        first, second = await bound_pair(*pair.buses, "sample")
        assert (first.dst, second.dst) == (second.addr, first.addr)
        for bus in pair.buses:
            assert list(bus.services.values()).count("sample") <= 1
        await trio.testing.wait_all_tasks_blocked()
        before = [attrs.evolve(figures) for figures in both(pair)]
        sizes = [0, 1, 15, 16, 17, *range(100, first.max_payload + 1, 99), first.max_payload]
        with trio.fail_after(1):
            for source, sink in ((first, second), (second, first)):
                for size in sizes:
                    await source.send(bytes([size & 0xFF]) * size)
                    assert await sink.receive() == bytes([size & 0xFF]) * size
        for figures, old in zip(both(pair), before, strict=True):
            assert figures.buffers - old.buffers == len(sizes)
            assert figures.copied_bytes - old.copied_bytes == sum(sizes) + HEADER_SIZE * len(sizes)
            assert figures.copied_bytes == figures.payload_bytes
            assert not figures.drops


@OVER
async def test_a_megabyte_in_each_direction_at_once_over_few_buffers() -> None:
    async with open_rpmsg_pair(mediated(queue_size=8)) as pair:
        await pair.transfer(1 << 18)
        for figures in both(pair):
            assert figures.copied_bytes == figures.payload_bytes > 1 << 18
            assert not figures.drops


SLOW = LinkSpec(root="rc", endpoint="ep", generation=2, lanes=1)
LOSSY = LinkSpec(root="rc", endpoint="ep", faults=FaultSpec(seed=3, lost_doorbells=0.2, lost_interrupts=0.2))


@OVER
@pytest.mark.parametrize("link", [SLOW, LOSSY], ids=["timed", "lossy"])
async def test_links_that_take_time_or_lose_notifications_lose_no_message(link: LinkSpec) -> None:
    async with open_rpmsg_pair(mediated(queue_size=16, link=link)) as pair:
        began = trio.current_time()
        await pair.transfer(1 << 16)
        assert trio.current_time() > began
        assert not any(figures.drops for figures in both(pair))
        assert pair.device.virtio is not None
        assert pair.device.virtio.restarts == 0


@pytest.mark.parametrize(
    ("sizes", "largest"),
    [
        ({"to_driver": 1024, "to_device": 2048}, (2048, 1024)),
        ({"to_driver": 1024, "to_device": 2048, "local_to_driver": 256}, (256, 1024)),
        ({"to_driver": 128, "to_device": 512, "local_to_device": 4096}, (512, 128)),
        ({"to_driver": 2048, "to_device": 2048, "features_off": ("BUFSZ",)}, (DEFAULT_BUFFER, DEFAULT_BUFFER)),
        ({"to_driver": 2048, "to_device": 2048, "local_features_off": ("BUFSZ",)}, (DEFAULT_BUFFER, DEFAULT_BUFFER)),
    ],
    ids=["mirrored", "small here", "large here", "unsized there", "unsized here"],
)
async def test_neither_side_is_offered_more_than_the_other_can_receive(
    sizes: dict[str, Any], largest: tuple[int, int]
) -> None:
    async with open_rpmsg_pair(mediated(**sizes)) as pair:
        ends = await bound_pair(*pair.buses, "sample")
        assert tuple(end.max_payload + HEADER_SIZE for end in ends) == largest
        for source, sink in (ends, ends[::-1]):
            with trio.fail_after(1):
                await source.send(bytes(source.max_payload))
                assert await sink.receive() == bytes(source.max_payload)
            with pytest.raises(MessageTooLong):
                source.send_nowait(bytes(source.max_payload + 1))
        assert not any(figures.drops for figures in both(pair))


@pytest.mark.parametrize("off", ["features_off", "local_features_off"])
@pytest.mark.parametrize("names", [("AS",), ("EVENT_IDX", "INDIRECT_DESC"), ("BUFSZ",), ("AS", "EVENT_IDX")])
async def test_features_of_one_side_alone(off: str, names: tuple[str, ...]) -> None:
    async with open_rpmsg_pair(mediated(**{off: names})) as pair:
        agreed = pair.device.vhost.features & ~EXTRA, pair.local.vhost.features & ~EXTRA
        less, more = agreed if off == "features_off" else agreed[::-1]
        assert more == SUPPORTED & ~EXTRA
        assert less == SUPPORTED & ~EXTRA & ~mask(
            bit for bit in range(64) if pair.device.vhost.table.name(bit) in names
        )
        await exchange(pair)
        assert not any(figures.drops for figures in both(pair))


@pytest.mark.parametrize("off", ["features_off", "local_features_off"])
async def test_a_side_without_the_name_service_gets_no_names(off: str) -> None:
    """Endpoints with fixed addresses talk all the same."""
    async with open_rpmsg_pair(mediated(**{off: ("NS", "AS")})) as pair:
        mute, talker = pair.buses if off == "features_off" else pair.buses[::-1]
        assert not talker.create("no endpoint receives").bound
        first, second = mute.create("a", addr=100, dst=200), talker.create("b", addr=200, dst=100)
        with trio.fail_after(1):
            await first.send(HELLO)
            assert await second.receive() == HELLO
            await second.send(HELLO)
            assert await first.receive() == HELLO
        assert not mute.received.drops
        of_talker = both(pair)[off == "features_off"]
        assert of_talker.drops == {"no_service": 1}


async def test_a_side_without_buffers_makes_the_other_wait_and_nothing_is_lost() -> None:
    async with open_rpmsg_pair(mediated(queue_size=4)) as pair:
        first = pair.buses[0].create("slow", addr=100, dst=200, inbox=1)
        second = pair.buses[1].create("slow", addr=200, dst=100, inbox=1)
        for source, sink in ((first, second), (second, first)):
            sent = 0
            with bounded(), suppress(NoBuffer):
                while True:
                    source.send_nowait(sent.to_bytes(2, "little"))
                    sent += 1
                    await trio.testing.wait_all_tasks_blocked()
            assert 4 < sent < 32
            with trio.fail_after(1):
                for number in range(sent):
                    assert await sink.receive() == number.to_bytes(2, "little")
        assert not any(figures.drops for figures in both(pair))


@OVER
@pytest.mark.parametrize("which", [0, 1], ids=["the other host's", "the endpoint's own"])
async def test_a_driver_that_starts_anew_takes_the_other_one_along(which: int) -> None:
    """Only once: afterwards both know each other's endpoints again."""
    async with open_rpmsg_pair(mediated()) as pair:
        channels = [bus.create("stays") for bus in pair.buses]
        with trio.fail_after(1):
            for end in channels:
                await end.wait_bound()
        devices = (pair.device, pair.local)
        restarts = [device.virtio.restarts for device in devices if device.virtio is not None]
        virtio = devices[which].virtio
        assert virtio is not None
        await devices[which].driver_host.virtio.rebind(virtio)
        await trio.sleep(0.5)
        await pair.world.wait_up()
        with trio.fail_after(1):
            for end in channels:
                await end.wait_bound()
            for source, sink in (channels, channels[::-1]):
                await source.send(HELLO)
                assert await sink.receive() == HELLO
        again = [device.virtio.restarts for device in devices if device.virtio is not None]
        assert again[1 - which] - restarts[1 - which] == 1
        assert again[which] == restarts[which]  # it was bound anew, not restarted
        assert "went away" in devices[1 - which].vhost.failures[-1]
        assert all(device.vhost.status == OK for device in devices)


@OVER
async def test_a_link_that_flaps_costs_no_endpoint() -> None:
    async with open_rpmsg_pair(mediated()) as pair:
        channels = [bus.create("stays") for bus in pair.buses]
        for _ in range(3):
            pair.link.bring_down()
            await trio.sleep(0.05)
            pair.link.bring_up()
            await trio.sleep(0.5)
            await pair.world.wait_up()
            with trio.fail_after(1):
                for end in channels:
                    await end.wait_bound()
                for source, sink in (channels, channels[::-1]):
                    await source.send(HELLO)
                    assert await sink.receive() == HELLO


BAD = {
    "nothing at all": (b"", "short"),
    "no whole header": (HEADER.pack(1, 100, 0, 0, 0)[:15], "short"),
    "more than the buffer holds": (HEADER.pack(1, 100, 0, 13, 0) + HELLO, "too_long"),
    "more than the other can receive": (HEADER.pack(1, 100, 0, 1000, 0) + bytes(1000), "buffer_short"),
}


@pytest.mark.hostile("M01")
@pytest.mark.hostile("M02")
async def test_a_bad_message_is_dropped_by_the_mediator_and_its_buffer_comes_back() -> None:
    async with open_rpmsg_pair(mediated(queue_size=16)) as pair:
        sink = pair.buses[1].create("server", addr=100)
        async with hostile_driver(pair) as driver:
            await driver.start(SUPPORTED & ~EXTRA)
            await until(lambda: pair.local.vhost.running and pair.local.up)
            for count, (data, cause) in enumerate(BAD.values(), 1):
                driver.send(Desc(driver.put(data), len(data)), head=0)
                await until(lambda count=count: driver.rings[1].used_idx == 2 * count - 1)  # type: ignore[misc]
                assert statistics(pair.device).drops[cause]
                driver.send(Desc(driver.put(HEADER.pack(1, 100, 0, 12, 0) + HELLO), 28), head=1)
                with bounded():
                    assert await sink.receive() == HELLO
                await until(lambda count=count: driver.rings[1].used_idx == 2 * count)  # type: ignore[misc]
            driver.send(Desc(driver.alloc(64), 64, WRITE), head=2)
            await until(lambda: statistics(pair.device).drops.get("writable") == 1)
            # What only the driver at the other end can judge is left to it.
            before = dict(pair.buses[1].received.drops)
            driver.send(Desc(driver.put(HEADER.pack(1, NS_ADDR, 0, 3, 0) + b"abc"), 19), head=3)
            await until(lambda: pair.buses[1].received.drops.get("ns_length", 0) > before.get("ns_length", 0))
            assert driver.status == OK
            assert not pair.local.vhost.status & Status.NEEDS_RESET
        sink.close()
        await exchange(pair)


async def test_a_driver_that_declines_a_service_is_not_sent_its_messages() -> None:
    """The negotiated features count, not the offered ones."""
    async with open_rpmsg_pair(mediated(queue_size=16)) as pair:
        async with hostile_driver(pair) as driver:
            await driver.start(SUPPORTED & ~EXTRA & ~mask((RpmsgFeature.NS, RpmsgFeature.AS)))
            await until(lambda: pair.local.vhost.running and pair.local.up)
            pair.buses[1].create("unheard")
            await until(lambda: statistics(pair.local).drops.get("no_service") == 1)
        await exchange(pair)


@pytest.mark.parametrize("key", ["local_to_driver = 1024", "local_to_device = 1024", 'local_features_off = ["AS"]'])
def test_keys_of_a_local_driver_are_refused_without_one(key: str) -> None:
    text = f'[hosts.rc]\n[devices.r]\ntype = "rpmsg"\ntransport = "mmio"\nhost = "rc"\n{key}\n'
    with pytest.raises(ConfigError, match="requires mode = 'mediated': only there is a local driver"):
        parse(text, "test.toml")
