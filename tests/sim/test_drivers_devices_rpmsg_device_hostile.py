"""The rpmsg device against a hostile driver: each bad message has its exact outcome."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import pytest
import trio
import trio.testing

from drivers.devices.rpmsg.bus import CONGESTION
from drivers.devices.rpmsg.layout import (
    ADDR_ANY,
    AS_ADDR,
    NS_ADDR,
    SUPPORTED,
    NameMessage,
    NsFlag,
)
from drivers.errors import NoBuffer, SendTimeout
from rings.layout import NEXT, WRITE
from rings.memory import Addr
from rings.status import Status
from rings.testing import Desc
from support.rigs.rpmsg import SMALL, message
from vnet.testing import HostileDriver, bounded, hostile_driver, unharmed, until
from vnet.testing.hostile import EXTRA
from vnet.testing.rpmsg import RpmsgPair, open_rpmsg_pair

OK = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK
HELLO = b"hello world!"
NAME = b"a".ljust(32, b"\0")
Build = Callable[[HostileDriver[RpmsgPair]], Sequence[Desc]]


def whole(data: bytes) -> Build:
    """One descriptor with all of it."""
    return lambda driver: [Desc(driver.put(data), len(data))]


def pieces(*parts: bytes) -> Build:
    """A descriptor for each."""
    return lambda driver: [
        Desc(driver.put(part), len(part), NEXT if i + 1 < len(parts) else 0, i + 1) for i, part in enumerate(parts)
    ]


BAD = {
    "nothing at all": (whole(b""), "short"),
    "no whole header": (whole(message(100)[:15]), "short"),
    "more than the buffer holds": (whole(message(100, length=len(HELLO) + 1)), "too_long"),
    "more than any buffer holds": (whole(message(100, length=0xFFFF)), "too_long"),
    "to no endpoint": (whole(message(4711)), "no_recipient"),
    "to any address": (whole(message(ADDR_ANY)), "no_recipient"),
    "a writable buffer": (lambda driver: [Desc(driver.alloc(512), 512, WRITE)], "writable"),
    "partly writable": (
        lambda driver: [Desc(driver.put(message(100)), 28, NEXT, 1), Desc(driver.alloc(64), 64, WRITE)],
        "writable",
    ),
    "a short announcement": (whole(message(NS_ADDR, bytes(39))), "ns_length"),
    "an announcement without end": (whole(message(NS_ADDR, b"x" * 32 + bytes(8))), "bad_name"),
    "an announcement of unknown kind": (whole(message(NS_ADDR, NAME + struct.pack("<II", 1, 8))), "ns_flags"),
    "an announcement of the name service": (whole(message(NS_ADDR, NAME + struct.pack("<II", 53, 0))), "ns_address"),
    "an end of what never was": (whole(message(NS_ADDR, NAME + struct.pack("<II", 7, 1))), "ns_unknown"),
    "a short address message": (whole(message(AS_ADDR, bytes(43))), "as_length"),
    "an assignment to no endpoint": (whole(message(AS_ADDR, NAME + struct.pack("<III", 7, 4711, 1))), "as_unknown"),
    "an assignment under another name": (whole(message(AS_ADDR, NAME + struct.pack("<III", 7, 100, 1))), "as_unknown"),
    "a free of what never was": (whole(message(AS_ADDR, NAME + struct.pack("<III", 7, 100, 2))), "as_unknown"),
}


@pytest.mark.hostile("M01")
@pytest.mark.hostile("M02")
@pytest.mark.parametrize(("build", "cause"), BAD.values(), ids=BAD.keys())
async def test_a_bad_message_is_dropped_and_counted_and_its_buffer_comes_back(build: Build, cause: str) -> None:
    async with open_rpmsg_pair(SMALL) as pair, unharmed(pair):
        sink = pair.buses[1].create("server", addr=100)
        async with hostile_driver(pair) as driver:
            before = dict(pair.buses[1].received.drops)
            await driver.start()
            with bounded():
                driver.send(*build(driver))
                await until(lambda: driver.rings[1].used_idx == 1)
                assert driver.rings[1].elem(0) == (0, 0)
                driver.send(*whole(message(100))(driver), head=8)
                assert await sink.receive() == HELLO
            drops = pair.buses[1].received.drops
            assert {key: drops[key] - before.get(key, 0) for key in drops if drops[key] != before.get(key, 0)} == {
                cause: 1
            }
            assert driver.status == OK
        sink.close()


@pytest.mark.hostile("M01")
async def test_a_message_may_lie_in_any_number_of_pieces() -> None:
    async with open_rpmsg_pair(SMALL) as pair, unharmed(pair):
        sink = pair.buses[1].create("server", addr=100)
        async with hostile_driver(pair) as driver:
            await driver.start()
            data = message(100)
            driver.send(*pieces(data[:3], data[3:17], data[17:])(driver))
            with trio.fail_after(1):
                assert await sink.receive() == HELLO
        sink.close()


@pytest.mark.hostile("M02")
async def test_announcing_an_endpoint_twice_is_dropped() -> None:
    async with open_rpmsg_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        for head in range(3):
            driver.send(*whole(message(NS_ADDR, NameMessage("a", 7).emit()))(driver), head=head)
        await until(lambda: driver.rings[1].used_idx == 3)
        assert pair.buses[1].received.drops == {"ns_duplicate": 2}
        assert pair.buses[1].services == {7: "a"}


@pytest.mark.hostile("M01")
async def test_buffers_that_hold_no_message_come_back_empty() -> None:
    """Too short ones and ones that can't be written: each costs the message that was to go there."""
    async with open_rpmsg_pair(SMALL) as pair, unharmed(pair):
        source = pair.buses[1].create("server", dst=7)
        async with hostile_driver(pair) as driver:
            await driver.start()
            driver.send(Desc(driver.alloc(64), 15, WRITE), head=0, queue=0)
            driver.send(Desc(driver.alloc(64), 27, WRITE), head=1, queue=0)
            driver.send(Desc(driver.alloc(64), 64), head=2, queue=0)
            good = driver.alloc(512)
            driver.send(Desc(good, 10, WRITE | NEXT, 4), Desc(Addr(good + 10), 502, WRITE), head=3, queue=0)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(4):
                await source.send(HELLO)
            await until(lambda: driver.rings[0].used_idx == 4)
            assert [driver.rings[0].elem(i) for i in range(4)] == [(0, 0), (1, 0), (2, 0), (3, 28)]
            assert driver.get(good, 28) == message(7, src=source.addr)
            assert pair.buses[1].sent.drops == {"buffer_short": 3}
        source.close()


@pytest.mark.hostile("M03")
async def test_a_driver_that_posts_no_buffers_makes_senders_time_out() -> None:
    async with open_rpmsg_pair(SMALL) as pair, unharmed(pair):
        source = pair.buses[1].create("server", dst=7)
        async with hostile_driver(pair) as driver:
            await driver.start()
            assert not pair.buses[1].statistics().unsent
            for _ in range(16):  # as many as there can be buffers
                source.send_nowait(HELLO)
            with pytest.raises(NoBuffer):
                source.send_nowait(HELLO)
            began = trio.current_time()
            with pytest.raises(SendTimeout):
                await source.send(HELLO)
            assert trio.current_time() - began == pytest.approx(15)
        source.close()
        assert pair.buses[1].sent.drops["reset"] >= 16


@pytest.mark.hostile("M02")
async def test_a_driver_that_announces_and_never_listens_fills_nothing_up() -> None:
    """Each announcement of this name makes the device answer, and no answer is ever taken."""
    async with open_rpmsg_pair(SMALL) as pair:
        end = pair.buses[1].create("a")
        async with hostile_driver(pair) as driver:
            await driver.start(SUPPORTED & ~EXTRA)
            bus = pair.buses[1]
            both = (NsFlag.AS_ANNOUNCE, NsFlag.AS_ANNOUNCE | NsFlag.DESTROY)
            for _ in range(2 * CONGESTION):
                for flags in both:
                    bus.deliver(7, NS_ADDR, NameMessage("a", 7, flags).emit())
            assert len(bus.outbox) <= CONGESTION + 1
            assert bus.received.drops["ns_full"]
        end.close()
        await pair.transfer(1 << 16)


async def test_a_driver_that_breaks_a_ring_during_a_send_stops_the_device_and_nothing_else() -> None:
    """The task that sends meets the broken ring, and never hears of it: a reset is asked for."""
    async with open_rpmsg_pair(SMALL) as pair, unharmed(pair):
        source = pair.buses[1].create("server", dst=7)
        async with hostile_driver(pair) as driver:
            await driver.start()
            driver.rings[0].offer(999)
            source.send_nowait(HELLO)
            await until(lambda: driver.status & Status.NEEDS_RESET)
            assert "999" in pair.vhost.failures[-1]
        source.close()
