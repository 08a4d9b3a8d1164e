"""A SCSI host over resets, link flaps and faulty links."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing

from drivers.devices.scsi import (
    Asc,
    Initiator,
    Response,
    ScsiError,
    ScsiResult,
    Sense,
    SenseKey,
    Tmf,
)
from drivers.devices.scsi import cdb as commands
from drivers.storage.submit import PATIENCE
from support.rigs.load import reset_under_load
from support.rigs.scsi_host import TWO, sense
from vnet.spec import LinkSpec
from vnet.testing.checks import until
from vnet.testing.pair import ENDPOINT, ROOT
from vnet.testing.scsi import DISK, ScsiOptions, open_scsi_pair

KIB, MIB = 1 << 10, 1 << 20

# Resets and flaps


@pytest.mark.hostile("S09")
@pytest.mark.virtio("SCSI-DEV-19")
async def test_a_reset_reads_back_as_0_only_when_the_store_is_idle() -> None:
    async with open_scsi_pair() as pair:
        await pair.read(0, 1)
        store = pair.store
        store.at_once, store.gate = False, trio.Event()
        async with trio.open_nursery() as nursery:
            for i in range(8):
                nursery.start_soon(pair.read, i * 8, 8)
            await until(lambda: store.inside == 4)
            pair.vhost.write_status(0)
            await trio.testing.wait_all_tasks_blocked()
            assert pair.vhost.status != 0
            store.gate.set()
            await trio.testing.wait_all_tasks_blocked()
            assert store.inside == 0
            store.gate = None
            pair.virtio.interrupt()
        assert pair.initiator.figures[0].queued == 8


async def test_a_unit_attention_of_a_reset_is_no_end_of_a_command_unless_it_is_wanted() -> None:
    async with open_scsi_pair(ScsiOptions(luns=TWO)) as pair:
        for times in range(1, 3):
            for lun in TWO:
                assert (await pair.read(0, 1, lun=lun)).good
            assert pair.initiator.resets == 3 * times
            await pair.reset()
        result = await pair.initiator.execute(commands.unit_ready(), attention=True)
        assert sense(result) == (SenseKey.UNIT_ATTENTION, Asc.POWER_ON_OR_RESET)
        pair.unit().attention(Asc.CAPACITY_DATA_HAS_CHANGED)
        result = await pair.read(0, 1)
        assert sense(result) == (SenseKey.UNIT_ATTENTION, Asc.CAPACITY_DATA_HAS_CHANGED)


async def test_twenty_resets_under_load_lose_nothing() -> None:
    async with open_scsi_pair() as pair:
        pair.store.at_once = False

        async def transfer(at: int) -> None:
            data = os.urandom(4096)
            assert (await pair.write(at * 8, data)).good
            assert (await pair.read(at * 8, 8)).data == data

        assert await reset_under_load(pair, transfer, 20) > 50
        assert pair.initiator.figures[0].errors == {}


@pytest.mark.parametrize("transport", ["pci", "epf_mailbox"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_over_a_link_flap_every_command_is_kept_and_done(transport: str, at_once: bool) -> None:
    async with open_scsi_pair(ScsiOptions(transport=transport)) as pair:
        pair.store.at_once = at_once
        pair.store.data[:MIB] = os.urandom(MIB)
        wanted = bytes(pair.store.data[:MIB])
        actual: dict[int, bytes] = {}

        async def read(at: int) -> None:
            actual[at] = (await pair.read(at * 8, 8)).data

        async with trio.open_nursery() as nursery:
            for at in range(200):
                nursery.start_soon(read, at)
                if at % 50 == 25:
                    await trio.lowlevel.checkpoint()
                    pair.link.bring_down()
                if at % 50 == 49:
                    pair.link.bring_up()
            await trio.sleep(5)
        assert b"".join(actual[at] for at in range(200)) == wanted[: 200 * 4096]
        assert pair.initiator.figures[0].errors == {}


@pytest.mark.hostile("D11")
async def test_commands_wait_30_seconds_for_a_link_and_then_end_with_an_error_each_once() -> None:
    async with open_scsi_pair() as pair:
        await pair.read(0, 1)
        pair.store.at_once, pair.store.gate = False, trio.Event()
        ended: list[float] = []

        async def read() -> None:
            with pytest.raises(ScsiError, match="TRANSPORT_FAILURE"):
                await pair.read(0, 8)
            ended.append(trio.current_time() - began)

        async def manage() -> None:
            with pytest.raises(ScsiError, match="TRANSPORT_FAILURE"):
                await pair.initiator.manage(Tmf.LOGICAL_UNIT_RESET, DISK)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read)
            await until(lambda: pair.store.inside == 4)
            began = trio.current_time()
            nursery.start_soon(manage)
            pair.link.bring_down()
            pair.store.gate.set()
            await trio.sleep(10)
            for call in (read, manage):
                nursery.start_soon(call)
            await trio.sleep(PATIENCE - 10.1)
            assert not ended
        assert ended == pytest.approx([PATIENCE] * 5 + [PATIENCE + 10], abs=0.1)
        assert pair.initiator.figures[0].errors == {"device_lost": 6}
        pair.store.gate = None
        pair.link.bring_up()
        await pair.world.wait_up()
        await pair.transfer()


async def test_before_there_is_a_device_no_caller_waits_for_ever() -> None:
    initiator = Initiator(patience=3)
    calls: list[Callable[[], Awaitable[object]]] = [
        partial(initiator.execute, commands.unit_ready()),
        initiator.scan,
        partial(initiator.manage, Tmf.QUERY_TASK, DISK),
    ]
    for call in calls:
        began = trio.current_time()
        with pytest.raises(ScsiError, match="no device has come up yet"):
            await call()
        assert trio.current_time() - began == pytest.approx(3)


# Faulty links


@pytest.mark.parametrize("seed", range(3))
async def test_on_a_faulty_link_every_command_is_done_in_the_end(seed: int) -> None:
    from vnet.spec import FaultSpec

    faults = FaultSpec(
        seed=seed, lost_doorbells=0.2, lost_interrupts=0.2, timeouts=0.01, flap_every_ms=300.0, flap_ms=20.0
    )
    link = LinkSpec(root=ROOT, endpoint=ENDPOINT, faults=faults)
    async with open_scsi_pair(ScsiOptions(link=link)) as pair:
        pair.store.at_once = False

        async def both(i: int) -> None:
            data = os.urandom(8192)
            for _ in range(5):
                assert (await pair.write(i * 16, data)).good
                assert (await pair.read(i * 16, 16)).data == data
                await trio.sleep(0.1)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for i in range(10):
                    nursery.start_soon(both, i)
        assert pair.initiator.figures[0].errors == {}


def test_a_result_knows_its_sense() -> None:
    raw = Sense(SenseKey.MEDIUM_ERROR, Asc.WRITE_ERROR).emit()
    assert ScsiResult(Response.OK, 2, raw, 0, b"").sense == Sense(SenseKey.MEDIUM_ERROR, Asc.WRITE_ERROR)
    assert ScsiResult(Response.OK, 0, b"", 0, b"").good
