"""The control queue of virtio-net: a command is a question; its answer is one byte, and a result behind some."""

from __future__ import annotations

import trio

from drivers.bus.virtio import DriverQueue
from drivers.contracts.hw import DmaMemory
from drivers.devices.net.control import ACK_OK, COMMAND_MAX, RESULT_MAX, NetControl, emit
from drivers.devices.net.flow import ControlFigures
from drivers.errors import NeedsReset, TransportLost
from drivers.questions.ask import QuestionFlow, question_memory

__all__ = ["VirtioNetControlQueue", "control_memory"]

LIMIT = 4
"""Maximum number of commands in flight."""
TIMEOUT = 5.0
"""Seconds to wait for an answer before the device needs a reset."""


def control_memory(num: int) -> int:
    """Return the maximum bytes of memory for commands."""
    return question_memory(num, question=COMMAND_MAX, answer=1 + RESULT_MAX, limit=LIMIT)


class VirtioNetControlQueue(QuestionFlow):
    """The flow of the control queue, and `execute`, which uses it."""

    def __init__(self, queue: DriverQueue, dma: DmaMemory, counts: ControlFigures) -> None:
        """Allocate slots. Raises MemoryError."""
        super().__init__(queue, dma, question=COMMAND_MAX, answer=1 + RESULT_MAX, limit=LIMIT)
        self._counts = counts

    async def execute(self, control: NetControl) -> bool:
        """Send a command. Returns whether the device executed it.

        Raises TransportLost if the device was reset meanwhile, NeedsReset if it does not answer.
        """
        return await self.query(control, 0) is not None

    async def query(self, control: NetControl, size: int) -> bytes | None:
        """Send a command with a result of at most ``size`` bytes. Returns the result, None if the device refused.

        Whatever the device wrote behind a refusal is disregarded. Raises what `execute` raises.
        """
        data, name = emit(control), control.command.name
        try:
            with trio.fail_after(TIMEOUT):
                answer = await self.ask(data, 1 + size, least=1)
        except trio.TooSlowError:
            raise NeedsReset(f"the device does not answer {name} within {TIMEOUT:g} s") from None
        except TransportLost as exc:
            raise TransportLost(f"{exc} {name}") from None
        executed = answer[:1] == bytes((ACK_OK,))
        self._counts.count(len(data), executed=executed)
        return answer[1:] if executed else None
