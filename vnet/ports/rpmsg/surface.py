"""How a channel of rpmsg surfaces: what serves one endpoint, for programs that know nothing of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from drivers.contracts.ports import RpmsgEndpoint
from drivers.errors import MessageTooLong, SendTimeout

__all__ = ["PATIENCE", "EchoSurface", "Surface"]

PATIENCE = 1.0
"""Seconds that a program may leave a message untaken before it no longer holds up the other channels."""


class Surface:
    """Serves an endpoint; counts what it could not pass on."""

    kind = "none"

    def __init__(self) -> None:
        self.drops: dict[str, int] = {}
        """Messages, by cause."""

    async def serve(
        self, endpoint: RpmsgEndpoint, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Until cancelled. Raises OSError before it has started where its place is taken."""
        task_status.started()
        await trio.sleep_forever()

    def drop(self, cause: str) -> None:
        self.drops[cause] = self.drops.get(cause, 0) + 1

    async def send(self, endpoint: RpmsgEndpoint, data: bytes) -> None:
        """Towards the other side; what can't be sent is dropped."""
        try:
            await endpoint.send(data)
        except MessageTooLong:
            self.drop("too_long")
        except SendTimeout:
            self.drop("send_timeout")


async def patiently(endpoint: RpmsgEndpoint, deliver: Callable[[], Awaitable[None]]) -> None:
    """Deliver to a program that may be slow. One that takes nothing at all costs only its own messages in the end.

    ``deliver`` may be cancelled and called again: it goes on where it was.
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
    """Sends back what comes."""

    kind = "echo"

    async def serve(
        self, endpoint: RpmsgEndpoint, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()
        async for message in endpoint:
            await self.send(endpoint, message)
