"""The SCSI driver against a hostile device: each bad answer has its exact outcome."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from drivers.devices.scsi import Response, ScsiError, ScsiEvent, SenseKey, Tmf
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.layout import (
    EVENT,
    RESPONSE,
)
from rings.testing import Act
from support.rigs.scsi_hostile import CONTROL, EVENTS, FIRST, answer
from support.rigs.watched import watched_memory
from vnet.testing.checks import unharmed, until
from vnet.testing.hostile import hostile_device
from vnet.testing.scsi import DISK, ScsiOptions, open_scsi_pair

SENSE_SIZE = 96
RESPONSE_SIZE = RESPONSE.size + SENSE_SIZE


@pytest.mark.hostile("D03", "D02")
@pytest.mark.parametrize(
    ("response", "size"),
    [
        pytest.param(RESPONSE.pack(0, 0, 0, 0, 0), 0, id="nothing written"),
        pytest.param(RESPONSE.pack(0, 0, 0, 0, 0), RESPONSE_SIZE + 511, id="a byte short"),
        pytest.param(RESPONSE.pack(0, 0, 0, 0, 0), RESPONSE_SIZE + 513, id="more than there is room for"),
        pytest.param(RESPONSE.pack(0, 513, 0, 0, 0), RESPONSE_SIZE + 512, id="residual"),
        pytest.param(RESPONSE.pack(0, 0, 0, 0, 99), RESPONSE_SIZE + 512, id="response"),
    ],
)
async def test_no_byte_is_handed_up_that_the_device_did_not_say_it_wrote(response: bytes, size: int) -> None:
    async with open_scsi_pair(ScsiOptions(queue_size=16)) as pair:
        await pair.read(0, 1)
        store = pair.store
        store.at_once, store.gate = False, trio.Event()
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(ScsiError, match="FAILURE"):
                    await pair.read(0, 1)

            nursery.start_soon(read)
            await until(lambda: store.inside == 1)
            answer(pair, FIRST, response, size)
        assert pair.initiator.figures[0].errors == {"no_answer": 1}
        store.gate.set()
        store.at_once, store.gate = True, None
        await pair.reset()
        await pair.transfer()


@pytest.mark.hostile("D01", "D05")
async def test_a_ring_that_the_device_breaks_is_reset_and_its_commands_are_done() -> None:
    async with open_scsi_pair(ScsiOptions(queue_size=16)) as pair:
        await pair.read(0, 1)
        store = pair.store
        store.data[:512] = b"d" * 512
        for breaks in ("index", "head"):
            store.at_once, store.gate = False, trio.Event()
            actual = b""

            async def read() -> None:
                nonlocal actual
                actual = (await pair.read(0, 1)).data

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await until(lambda: store.inside == 1)
                async with hostile_device(pair) as device:
                    if breaks == "index":
                        device.rings[FIRST].used_idx += 9
                    else:
                        device.rings[FIRST].give(99, 513)
                    device.call(FIRST)
                    await trio.testing.wait_all_tasks_blocked()
                store.gate.set()
            assert actual == b"d" * 512
        store.gate = None
        assert pair.initiator.figures[0].queued == 2


@pytest.mark.hostile("D03")
async def test_invented_events_and_answers_of_a_device_do_no_harm() -> None:
    async with open_scsi_pair(ScsiOptions(queue_size=16)) as pair, unharmed(pair):
        with pair.initiator.events() as events:
            answer(pair, EVENTS, EVENT.pack(0x7FFF_FFFF, b"\xff" * 8, 0xFFFF_FFFF), 16)
            assert events.receive_nowait() == ScsiEvent(0x7FFF_FFFF, None, 0xFFFF_FFFF)
        answer(pair, EVENTS, EVENT.pack(1, bytes(8), 0), 15)
        assert pair.initiator.event_figures.drops == {"short": 1}


@pytest.mark.hostile("D03")
@pytest.mark.parametrize(("value", "size"), [(0, 0), (77, 1)])
async def test_a_function_is_done_only_if_the_device_confirmed_it(value: int, size: int) -> None:
    async with open_scsi_pair(ScsiOptions(queue_size=16)) as pair, unharmed(pair), trio.open_nursery() as nursery:
        pair.store.at_once, pair.store.gate = False, trio.Event()
        actual: list[object] = []

        async def read() -> None:
            actual.append((await pair.read(0, 1)).good)

        async def manage() -> None:
            actual.append(await pair.initiator.manage(Tmf.LOGICAL_UNIT_RESET, DISK))

        nursery.start_soon(read)
        await until(lambda: pair.store.inside == 1)
        nursery.start_soon(manage)
        await trio.testing.wait_all_tasks_blocked()
        answer(pair, CONTROL, bytes((value,)), size)
        await until(lambda: actual == [Response.FAILURE])
        nursery.start_soon(pair.reset)
        await trio.testing.wait_all_tasks_blocked()
        pair.store.gate.set()
        pair.store.gate, pair.store.at_once = None, True
        await until(lambda: actual == [Response.FAILURE, True])


@pytest.mark.hostile("D12")
async def test_nothing_reaches_the_device_but_the_request() -> None:
    async with open_scsi_pair() as pair:
        with watched_memory(pair) as actual:
            await pair.reset()
            result = await pair.initiator.execute(commands.write(0, 1), data_out=b"x" * 512, attention=True)
        assert result.sense is not None
        assert result.sense.key == SenseKey.UNIT_ATTENTION
        reads = [access for memory in actual for access in memory.log if access.act is Act.READ]
        # The indirect table, the request, the data, each as long as it is: no slot, no piece as a whole.
        assert [access.size for access in reads] == [3 * 16, 51, 512]
