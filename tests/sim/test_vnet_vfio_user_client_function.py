"""A function in another process, as our root complex uses it: registers, doorbells, interrupts, memory."""

from __future__ import annotations

from pathlib import Path

from trio.testing import MockClock

from support.rigs.two_processes import clock
from support.rigs.vfio_user_server import BELL, open_scene
from vnet.linux.memory import MSI_BASE
from vnet.pcie.config_space import COMMAND, PciCommand
from vnet.testing import until
from vnet.vfio_user.constants import Command

__all__ = ["clock"]  # a fixture

C = Command


async def test_registers_of_a_bar_are_read_and_written(tmp_path: Path, clock: MockClock) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.up()
        scene.works()
        assert scene.function.bar_size(0) == 4096
        assert scene.function.vectors == 4


async def test_a_doorbell_costs_no_message_but_never_overtakes_one(tmp_path: Path, clock: MockClock) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.up()
        function, server = scene.function, scene.server
        function.bar_read(0, 0, 4)
        before = len(server.log)
        function.bar_write(0, BELL, 2, 0)
        await until(lambda: server.registers.rings == 1, 30)
        assert len(server.log) == before
        function.bar_write(0, 0, 4, 7)  # posted: the server may not have handled it
        function.bar_write(0, BELL, 2, 0)
        assert server.registers.rings == 2
        assert server.log[before:] == [C.REGION_WRITE] * 2
        function.bar_write(0, BELL, 4, 0)  # of another size: no doorbell
        function.bar_read(0, 0, 4)
        assert server.log[before:] == [C.REGION_WRITE] * 3 + [C.REGION_READ]


async def test_interrupts_are_eventfds_and_wait_while_they_are_masked(tmp_path: Path, clock: MockClock) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.up()
        function, server, calls = scene.function, scene.server, list[int]()
        assert function.enable_msix() == 4
        function.request_irq(1, lambda: calls.append(1))
        function.request_irq(3, lambda: calls.append(3))
        function.bar_read(0, 0, 4)
        server.controller.raise_irq(0, 3)
        await until(lambda: calls == [3], 30)
        server.controller.raise_irq(0, 2)  # no driver takes it
        server.controller.raise_irq(0, 1)
        await until(lambda: calls == [3, 1], 30)
        function.config_write(COMMAND, 2, PciCommand.MEMORY)  # without bus mastering there are no messages
        function.bar_read(0, 0, 4)
        function.disable_msix()
        function.config_write(COMMAND, 2, PciCommand.MEMORY | PciCommand.BUS_MASTER)
        function.enable_msix()
        function.request_irq(0, lambda: calls.append(0))
        server.controller.raise_irq(0, 0)
        await until(lambda: calls == [3, 1, 0], 30)


async def test_intx_is_delivered_and_unmasked(tmp_path: Path, clock: MockClock) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.up()
        calls: list[int] = []

        def handle() -> None:
            calls.append(1)
            scene.server.controller.set_intx(0, False)

        scene.function.request_intx(handle)
        for count in (1, 2):
            scene.server.controller.set_intx(0, True)
            await until(lambda: len(calls) == count, 30)  # noqa: B023


async def test_the_function_reads_and_writes_the_host_s_memory(tmp_path: Path, clock: MockClock) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.up()
        scene.function.bar_read(0, 0, 4)
        buffer = scene.memory.alloc(4096)
        scene.memory.view(buffer.addr, 4, True)[:] = b"ping"
        window = scene.server.controller.window(0)
        assert bytes(window.view(buffer.addr, 4)) == b"ping"
        window.view(buffer.addr, 4, True)[:] = b"pong"
        assert bytes(scene.memory.view(buffer.addr, 4)) == b"pong"
        assert MSI_BASE not in range(scene.memory.base, scene.memory.base + scene.memory.size)


async def test_a_reset_of_the_function_turns_its_interrupts_off(tmp_path: Path, clock: MockClock) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.up()
        function, calls = scene.function, list[int]()
        function.enable_msix()
        function.request_irq(0, lambda: calls.append(0))
        assert function.reset()
        scene.works()
        function.enable_msix()
        function.request_irq(0, lambda: calls.append(1))
        function.bar_read(0, 0, 4)
        scene.server.controller.raise_irq(0, 0)
        await until(lambda: calls == [1], 30)
