"""The control queue of virtio-net: a command is a question, and its answer one byte."""

from __future__ import annotations

import trio

from drivers.bus.virtio import DriverQueue
from drivers.contracts.hw import DmaMemory
from drivers.devices.net.control import ACK_OK, COMMAND_MAX, NetControl, emit
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
    return question_memory(num, question=COMMAND_MAX, answer=1, limit=LIMIT)


class VirtioNetControlQueue(QuestionFlow):
    """The flow of the control queue, and `execute`, which uses it."""

    def __init__(self, queue: DriverQueue, dma: DmaMemory, counts: ControlFigures) -> None:
        """Allocate slots. Raises MemoryError."""
        super().__init__(queue, dma, question=COMMAND_MAX, answer=1, limit=LIMIT)
        self._counts = counts

    async def execute(self, control: NetControl) -> bool:
        """Send a command. Returns whether the device executed it.

        Raises TransportLost if the device was reset meanwhile, NeedsReset if it does not answer.
        """
        data, name = emit(control), control.command.name
        try:
            with trio.fail_after(TIMEOUT):
                answer = await self.ask(data, 1)
        except trio.TooSlowError:
            raise NeedsReset(f"the device does not answer {name} within {TIMEOUT:g} s") from None
        except TransportLost as exc:
            raise TransportLost(f"{exc} {name}") from None
        self._counts.count(len(data), executed=answer == bytes((ACK_OK,)))
        return answer == bytes((ACK_OK,))
