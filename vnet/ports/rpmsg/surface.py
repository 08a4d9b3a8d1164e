"""Surfaces of rpmsg channels: each serves one endpoint for programs that do not speak rpmsg."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from drivers.contracts.ports import RpmsgEndpoint
from drivers.errors import MessageTooLong, SendTimeout

__all__ = ["PATIENCE", "EchoSurface", "Surface"]

PATIENCE = 1.0
"""Seconds a program may leave a message unread before it stops delaying the other channels."""


class Surface:
    """Serves an endpoint, and counts messages it could not pass on."""

    kind = "none"

    def __init__(self) -> None:
        self.drops: Counter[str] = Counter()
        """Dropped messages, by cause."""

    async def serve(
        self, endpoint: RpmsgEndpoint, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve ``endpoint`` until cancelled. Raises OSError before it has started if its path is in use."""
        task_status.started()
        await trio.sleep_forever()

    def drop(self, cause: str) -> None:
        self.drops[cause] += 1

    async def send(self, endpoint: RpmsgEndpoint, data: bytes) -> None:
        """Send a message to the other side; drop it if that fails."""
        try:
            await endpoint.send(data)
        except MessageTooLong:
            self.drop("too_long")
        except SendTimeout:
            self.drop("send_timeout")


async def deliver_patiently(endpoint: RpmsgEndpoint, deliver: Callable[[], Awaitable[None]]) -> None:
    """Deliver a message, however slowly the program reads. After `PATIENCE` the endpoint drops further messages.

    ``deliver`` can be cancelled and called again: it continues where it stopped.
    """
    with trio.move_on_after(PATIENCE):
        await deliver()
        return
    endpoint.lossy = True
    try:
        await deliver()
    finally:
        endpoint.lossy = False


class EchoSurface(Surface):
    """Sends every message back."""

    kind = "echo"

    async def serve(
        self, endpoint: RpmsgEndpoint, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()
        async for message in endpoint:
            await self.send(endpoint, message)
