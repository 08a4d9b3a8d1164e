"""Registers without traps: the next driver comes up after any values that one leaves there."""

from __future__ import annotations

import pytest
import trio

from drivers.carriers.base import pieces
from drivers.transports.epf_mailbox import registers as mb
from vnet.testing import Options, hostile_driver, open_pair, unharmed
from vnet.testing.hostile import HostileMailbox

MAILBOX = Options(transport="epf_mailbox", queue_size=16)
POLLED = Options(transport="epf_mailbox", queue_size=16, poll=True)
Reg, QueueReg, Ext, ExtQueue = mb.Reg, mb.QueueReg, mb.Ext, mb.ExtQueue

WORDS = {
    **{field.name: field.value for field in (*Reg, *Ext)},
    **{f"queue0.{field.name}": field.at(0) for field in QueueReg},
    **{f"queue1.{field.name}": field.at(1) for field in ExtQueue},
    "configuration": (mb.CONFIG, 8),
    "all": (mb.EXT, mb.EXT_SIZE),
}


@pytest.mark.parametrize("fill", [0x00, 0x07, 0xFF])
@pytest.mark.parametrize("options", [MAILBOX, POLLED], ids=["doorbells", "polled"])
async def test_a_driver_comes_up_with_any_values_left_in_the_registers(options: Options, fill: int) -> None:
    """A reset shows again all that is the endpoint's, and the next driver resets before it believes any of it."""
    async with open_pair(options) as pair, unharmed(pair):
        for offset, size in WORDS.values():
            async with hostile_driver(pair) as driver:
                await driver.start()
                for at, step in pieces(offset, size):
                    driver.function.bar_write(mb.BAR, at, step, fill * 0x01010101 & (1 << 8 * step) - 1)


async def test_a_generation_that_a_driver_leaves_odd_is_even_after_its_reset() -> None:
    async with open_pair(MAILBOX) as pair, unharmed(pair), hostile_driver(pair) as driver:
        assert isinstance(driver, HostileMailbox)
        await driver.start()
        before = driver.reg(Ext.GENERATION.value)
        for place in (Ext.GENERATION.value, Reg.CONFIG_GENERATION.value):
            driver.put_reg(place, 7)
        await driver.reset()
        assert driver.reg(Ext.GENERATION.value) == before
        assert driver.reg(Reg.CONFIG_GENERATION.value) == before & 0xFF


@pytest.mark.every_transport
async def test_a_device_that_changes_after_it_was_taken_away_harms_nothing() -> None:
    async with open_pair(Options(queue_size=16)) as pair:
        device, half = pair.vhost, pair.device.back
        assert half is not None
        half.unbind()
        device.set_config(bytes(len(device.config)))
        device.fail("of its own accord")
        for queue in device.queues:
            device.ops.call(queue)
        device.ops.config_changed()
        assert isinstance(half.registers(), dict)
        device.withdraw()
        await trio.sleep(1)
