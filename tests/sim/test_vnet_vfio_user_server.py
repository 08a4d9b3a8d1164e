"""A PCI function served to vfio-user clients: one at a time, over links of any kind, with and without replies."""

from __future__ import annotations

import errno
import random

import pytest
import trio

from drivers.errors import TransportLost
from support.rigs.vfio_user import C, open_bench, plug
from vnet.link.base import Link
from vnet.link.faulty import FaultyLink
from vnet.link.timed import TimedLink
from vnet.link.traced import TracedLink
from vnet.vfio_user.constants import HeaderFlag, Region
from vnet.vfio_user.messages import emit
from vnet.vfio_user.payloads import DmaUnmap


async def test_unmapped_memory_counts_after_a_silence_too() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        await client.bring_up()
        await client.do(C.DMA_UNMAP, DmaUnmap(24, 2, 0, 0))
        assert bench.server.memory.unsettled
        with trio.fail_after(30):
            while bench.server.memory.unsettled:  # noqa: ASYNC110  there is nothing else to wait for
                await trio.sleep(0.1)


async def test_accesses_travel_timed_faulty_and_traced_links() -> None:
    lines: list[str] = []

    def wrap(link: Link) -> Link:
        return TracedLink(FaultyLink(TimedLink(link), random.Random(1), ()), lines.append)

    async with open_bench(plug(), wrap) as bench, bench.client() as client:
        await client.share()
        await client.bring_up()
        await client.works()
        lines.clear()
        await client.read(Region.CONFIG, 0, 4)
        assert any("cfg" in line.lower() or "config" in line.lower() for line in lines), lines
        timing = bench.link.statistics().timing
        assert timing is not None
        assert timing.upstream.payload > 64 << 10


async def test_a_second_client_is_refused_and_the_next_one_served() -> None:
    async with open_bench(plug()) as bench:
        async with bench.client() as client:
            await client.share()
            await client.bring_up()
            async with bench.another() as other:
                with pytest.raises((EOFError, TransportLost)):
                    await other.agree()
            await client.works()
        assert bench.server.statistics.refused == 1
        assert bench.server.memory.mappings == 0
        await bench.serves_another()


async def test_a_client_that_is_gone_makes_no_access_when_the_link_comes_up() -> None:
    lines: list[str] = []

    def flap() -> list[str]:
        """Return the accesses at link-up, without their times."""
        bench.link.bring_down()
        lines.clear()
        bench.link.bring_up()
        return [line.split(" ", 1)[1] for line in lines if "epoch" not in line]

    async with open_bench(plug(), lambda link: TracedLink(link, lines.append)) as bench:
        before = flap()
        async with bench.client() as client:
            await client.bring_up()
        assert flap() == before


async def test_commands_without_a_reply() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.send(emit(7, C.DMA_MAP, client.mapping(), HeaderFlag.NO_REPLY), [client.memory.fd])
        answer = await client.ask(C.DMA_MAP, client.mapping(), [client.memory.fd])
        assert answer.error == errno.EEXIST
        await client.bring_up()
        await client.works()
