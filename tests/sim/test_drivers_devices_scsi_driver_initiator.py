"""SCSI commands through the stack, against a bytearray."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.devices.scsi import (
    Asc,
    ScsiRequest,
    SenseKey,
)
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.cdb import Op
from support.rigs.scsi_host import sense
from vnet.testing.checks import until
from vnet.testing.scsi import DISK, ScsiOptions, open_scsi_pair

KIB, MIB = 1 << 10, 1 << 20
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["write", "read", "fill", "zeroes", "unmap", "verify", "reset", "flush"]),
        st.integers(0, 63),
        st.sampled_from([1, 1, 2, 3, 8, 9]),
        st.integers(1, 255),
    ),
    max_size=20,
)


@settings(max_examples=20)
@given(OPERATIONS, st.booleans(), st.sampled_from([512, 4096]))
def test_it_is_what_a_bytearray_would_be(
    operations: list[tuple[str, int, int, int]], at_once: bool, block: int
) -> None:
    async def run() -> None:
        async with open_scsi_pair(ScsiOptions(block_size=block, size=1, buffers=1)) as pair:
            pair.store.at_once = at_once
            model, do = bytearray(MIB), pair.initiator.execute
            for what, start, count, value in operations:
                offset, size = start * block, count * block
                result = None
                if what == "write":
                    result = await pair.write(start, bytes([value]) * size, fua=value % 2 == 0)
                    model[offset : offset + size] = bytes([value]) * size
                elif what == "read":
                    result = await pair.read(start, count, fua=value % 2 == 0)
                    assert result.data == model[offset : offset + size]
                elif what == "fill":
                    result = await do(commands.write_same(start, count), data_out=bytes([value]) * block)
                    model[offset : offset + size] = bytes([value]) * size
                elif what == "zeroes":
                    result = await do(commands.write_same(start, count, unmap=value % 2 == 0, zeroes=True))
                    model[offset : offset + size] = bytes(size)
                elif what == "unmap":
                    cdb, data = commands.unmap((start, count))
                    result = await do(cdb, data_out=data)
                    model[offset : offset + size] = bytes(size)
                elif what == "verify":
                    cdb = bytes((Op.VERIFY_10, 2, 0, 0, 0, start, 0, 0, count, 0))
                    result = await do(cdb, data_out=bytes([value]) * size)
                    equal = model[offset : offset + size] == bytes([value]) * size
                    assert result.good == equal
                    result = None
                elif what == "flush":
                    result = await do(commands.synchronize_cache())
                else:
                    await pair.reset()
                assert result is None or result.good
            assert pair.store.data == model

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_many_commands_are_under_way_and_each_gets_its_own_answer() -> None:
    async with open_scsi_pair() as pair:
        pair.store.at_once = False
        wanted = {i: bytes([i]) * 4096 for i in range(100)}

        async def both(i: int) -> None:
            assert (await pair.write(i * 8, wanted[i])).good
            assert (await pair.read(i * 8, 8)).data == wanted[i]

        async with trio.open_nursery() as nursery:
            for i in wanted:
                nursery.start_soon(both, i)
        assert pair.initiator.figures[0].done == 200 + 1
        assert pair.initiator.resets == 1


async def test_verify_says_where_the_first_difference_is() -> None:
    async with open_scsi_pair() as pair:
        data = os.urandom(3 * MIB)
        pair.store.data[: len(data)] = data
        pair.store.data[2 * MIB + 7] ^= 1
        for at, size in ((0, MIB), (2 * MIB, 4096)):
            cdb = bytes((Op.VERIFY_10, 2)) + (at // 512).to_bytes(4, "big") + b"\0" + (size // 512).to_bytes(2, "big")
            result = await pair.initiator.execute(cdb + b"\0", data_out=data[at : at + size])
            if not at:
                assert result.good
            else:
                assert sense(result) == (SenseKey.MISCOMPARE, Asc.MISCOMPARE_DURING_VERIFY)
                assert result.sense is not None
                assert result.sense.information == 7
        same = await pair.initiator.execute(bytes((Op.VERIFY_10, 6, 0, 0, 0, 0, 0, 0, 2, 0)), data_out=data[:512])
        assert same.sense is not None
        assert same.sense.key == SenseKey.MISCOMPARE


async def test_programs_that_want_speed_submit_several_and_tell_the_device_once() -> None:
    async with open_scsi_pair() as pair:
        initiator = pair.initiator
        await initiator.execute(commands.unit_ready())
        ended: list[ScsiRequest] = []
        for i in range(32):
            buffer = initiator.take(4096)
            assert buffer is not None
            buffer.views[0][:] = bytes([i]) * 4096
            initiator.submit(ScsiRequest(DISK, commands.write(i * 8, 8), ended.append, buffer, 4096, tag=i))
        before = pair.virtio.queues[2].statistics()
        initiator.kick()
        await until(lambda: len(ended) == 32)
        after = pair.virtio.queues[2].statistics()
        assert after.notifications - before.notifications == 1
        for request in ended:
            assert request.result is not None
            assert request.result.good
            assert request.buffer is not None
            request.buffer.free()


async def test_our_own_mistakes_are_errors_before_anything_is_sent() -> None:
    async with open_scsi_pair() as pair:
        initiator = pair.initiator
        for bad in (bytes(5), bytes(33)):
            with pytest.raises(ValueError, match="CDB of"):
                await initiator.execute(bad)
        with pytest.raises(ValueError, match="bytes of data"):
            await initiator.execute(bytes(6), data_in=initiator.transfer_max + 1)
        assert pair.plug.figures[0].taken == 0


async def test_a_cancelled_caller_returns_its_buffer_when_the_device_does() -> None:
    async with open_scsi_pair() as pair:
        pair.store.at_once = False
        await pair.read(0, 1)
        free = len(pair.initiator._buffers._small)  # type: ignore[union-attr]
        with trio.CancelScope() as scope:
            scope.cancel()
            await pair.read(0, 8)
        assert scope.cancelled_caught
        await trio.sleep(1)
        assert len(pair.initiator._buffers._small) == free  # type: ignore[union-attr]
