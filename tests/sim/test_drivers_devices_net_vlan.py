"""The MTU does not count VLAN tags: full-size frames cross behind any of them, larger ones do not."""

from __future__ import annotations

import random

import pytest

from rings.testing import Desc
from support.rigs.frames import HEADER
from vnet.ports.packet.memory import MemoryPort
from vnet.testing import FRAME, Options, bounded, hostile_driver, open_pair, unharmed, until

Q, AD, OLD = 0x8100, 0x88A8, 0x9100
STACKS = [(Q,), (AD,), (OLD,), (AD, Q), (OLD, Q), (Q, Q), (AD, AD, Q), (OLD, AD, Q, Q)]
BODY = random.Random(12).randbytes(9001)
GSO = ("GUEST_TSO4", "GUEST_TSO6", "GUEST_USO4", "GUEST_USO6", "HOST_TSO4", "HOST_TSO6", "HOST_USO")
PLAIN = bytes(12)


def tagged(size: int, *types: int) -> bytes:
    """A frame with these VLAN tags around a packet of ``size`` bytes."""
    tags = b"".join(ethertype.to_bytes(2, "big") + b"\0\5" for ethertype in types)
    return FRAME[:12] + tags + b"\x88\xb5" + BODY[:size]


@pytest.mark.virtio("NET-DEV-7", "NET-DEV-8", "NET-DRV-18", "NET-DRV-19")
@pytest.mark.parametrize("way", [0, 1], ids=["to the device", "to the driver"])
@pytest.mark.parametrize("off", [(), GSO, (*GSO, "MRG_RXBUF")], ids=["GSO", "no GSO", "no GSO, buffers for any frame"])
@pytest.mark.parametrize(("mtu", "rx_buffer"), [(68, None), (1500, None), (1500, 256), (9000, None)])
async def test_a_packet_of_the_mtu_crosses_behind_any_tags_and_a_larger_one_is_dropped(
    mtu: int, rx_buffer: int | None, off: tuple[str, ...], way: int
) -> None:
    async with open_pair(Options(mtu=mtu, rx_buffer=rx_buffer, features_off=off)) as pair:
        ports: list[MemoryPort] = [pair.driver_port, pair.device_port]
        source, sink = ports[way], ports[1 - way]
        for types in ((), *STACKS):
            frame = tagged(mtu, *types)
            source.inject(frame)
            with bounded():
                assert (await sink.receive())[1] == frame
        for count, types in enumerate(STACKS, 1):
            source.inject(tagged(mtu + 1, *types))
            await until(lambda: source.statistics().drops == {"too_long": count})  # noqa: B023


@pytest.mark.hostile("N02")
@pytest.mark.parametrize("types", STACKS, ids=lambda types: "-".join(map(hex, types)))
async def test_a_device_counts_the_tags_of_a_frame_and_drops_one_byte_more(types: tuple[int, ...]) -> None:
    async with open_pair(Options(queue_size=16)) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        for head, size in enumerate((1501, 1500)):
            data = HEADER + tagged(size, *types)
            driver.send(Desc(driver.put(data), len(data)), head=head)
        with bounded():
            assert (await pair.device_port.receive())[1] == tagged(1500, *types)
        assert pair.plug.figures.pairs[0].received.drops == {"too_long": 1}


@pytest.mark.hostile("N02")
@pytest.mark.parametrize("count", [5, 100, 370])
async def test_a_frame_of_nothing_but_tags_is_no_way_around_the_mtu(count: int) -> None:
    async with open_pair(Options(queue_size=16)) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        data = HEADER + tagged(1500, *[Q] * count)
        driver.send(Desc(driver.put(data), len(data)))
        await until(lambda: pair.plug.figures.pairs[0].received.drops == {"too_long": 1})
