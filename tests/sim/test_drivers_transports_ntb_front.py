"""Commands that the virtio side of an NTB gives, and the configuration that it reads."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from drivers.errors import ProbeError, TransportLost
from drivers.transports.ntb.registers import (
    NtbCommand,
    Spad,
    parse_command,
)
from rings.errors import MemoryFault
from support.rigs.ntb import open_hosts
from support.rigs.ntb_sessions import online, puppet


@pytest.mark.hostile("D09")
async def test_a_command_without_an_answer_ends_after_a_second() -> None:
    async with open_hosts() as hosts:
        vhost = await puppet(hosts)
        vhost.show()
        front = await online(hosts)
        vhost.answering = False
        began = trio.current_time()
        with pytest.raises(TransportLost, match="no answer to SET_STATUS within 1 s"):
            await front.set_status(1)
        assert trio.current_time() - began == pytest.approx(1)


async def test_a_late_answer_never_ends_the_next_command() -> None:
    """In the RFC the outcome had no number: a late one satisfied the next command."""
    async with open_hosts() as hosts:
        vhost = await puppet(hosts)
        vhost.show()
        front = await online(hosts)
        vhost.answering = False
        with pytest.raises(TransportLost):
            await front.set_status(1)
        done = trio.Event()

        async def next_command() -> None:
            await front.finalize_features(0)
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(next_command)
            await wait_all_tasks_blocked()
            first, second = vhost.commands
            vhost.complete(first)
            await trio.sleep(0.5)
            assert not done.is_set()
            vhost.complete(second)
        assert done.is_set()
        assert [parse_command(word)[1] for word in vhost.commands] == [
            NtbCommand.SET_STATUS,
            NtbCommand.FINALIZE_FEATURES,
        ]


async def test_commands_wait_for_one_another() -> None:
    async with open_hosts() as hosts:
        vhost = await puppet(hosts)
        vhost.show()
        front = await online(hosts)
        vhost.answering = False
        async with trio.open_nursery() as nursery:
            for status in (1, 3):
                nursery.start_soon(front.set_status, status)
            for at in range(2):
                await wait_all_tasks_blocked()
                assert len(vhost.commands) == at + 1
                vhost.complete(vhost.commands[at])


async def test_a_command_that_the_vhost_side_can_not_do_is_an_error_of_its_own() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        with pytest.raises(ProbeError, match="refused ENABLE_QUEUES"):
            await hosts.front._command(NtbCommand.ENABLE_QUEUES)  # they run already


async def test_the_command_for_reset_means_the_same_as_status_0() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        await hosts.front._command(NtbCommand.RESET)
        assert hosts.vhost.runs == 1
        assert hosts.back.device.resets >= 2
        await hosts.wait_up()  # the driver notices that it was reset behind its back


@pytest.mark.hostile("D09")
async def test_a_device_that_does_not_finish_its_reset_loses_the_window_before_memory_is_freed() -> None:
    async with open_hosts() as hosts:
        hosts.vhost.stubborn = trio.CancelScope(shield=True)
        hosts.start()
        await hosts.wait_up()
        memory = hosts.back.memory()
        base = hosts.front.dma.base
        with pytest.raises(TransportLost, match="no answer to SET_STATUS"):
            await hosts.front.reset()
        with pytest.raises(MemoryFault, match="mapped"):
            memory.view(base, 1)
        assert not hosts.front.online
        hosts.vhost.stubborn.shield = False


@pytest.mark.hostile("S12")
async def test_a_reader_never_gets_a_mixed_configuration() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        device = hosts.device
        assert device is not None
        hosts.back.device.set_config(bytes(30))
        stop = False

        async def write() -> None:
            at = 0
            while not stop:
                at += 1
                hosts.back.device.set_config(bytes([at & 0xFF]) * 30)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            for _ in range(300):
                try:
                    data = await device.read_config(0, 30)
                except ProbeError:
                    continue
                assert len(set(data)) == 1
            stop = True


async def test_a_configuration_that_is_never_complete_is_given_up() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        hosts.ntb.primary.spads[Spad.GENERATION] |= 1
        with trio.fail_after(1), pytest.raises(TransportLost, match="stays odd"):
            await hosts.front.generation()


async def test_a_change_of_the_configuration_reaches_the_driver() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        await trio.sleep(0.01)
        before = hosts.virtio.changes
        hosts.back.device.set_config(bytes(30))
        await wait_all_tasks_blocked()
        assert hosts.virtio.changes == before + 1
        assert await hosts.front.read_config(0, 30) == bytes(30)


async def test_a_device_that_fails_is_reset_by_its_driver_and_runs_again() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        hosts.back.device.fail("on purpose")
        await trio.sleep(0.1)
        await hosts.wait_up()
        assert hosts.device is not None
        assert hosts.device.failures[-1] == "the device asked for a reset"
        assert hosts.back.session == 1
