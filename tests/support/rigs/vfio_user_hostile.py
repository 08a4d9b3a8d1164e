"""Outcomes of a hostile vfio-user client: its connection ends, or a command is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
import trio.lowlevel
import trio.testing

from drivers.carriers.framing import ProtocolError
from drivers.errors import TransportLost
from support.rigs.vfio_user import C, Client, open_bench, plug

__all__ = ["closes", "refuses"]


async def closes(send: Callable[[Client], Awaitable[object]], *, agree: bool = True, at_once: bool = True) -> None:
    """The exact outcome CLOSE: the connection ends with one typed error, everything is freed, the next may come.

    The error of one that ends at once is not that it was too slow.
    """
    async with open_bench(plug()) as bench:
        async with bench.client(agree=agree) as client:
            with trio.fail_after(30):
                try:
                    await send(client)
                    while True:
                        await client.receive()
                except (EOFError, TransportLost):
                    pass
        assert all(isinstance(error, ProtocolError) for error in bench.errors), bench.errors
        assert bench.server.statistics.broken == 1
        assert at_once != any("made no progress" in str(error) for error in bench.errors), bench.errors
        await bench.serves_another()


async def refuses(client: Client, number: int, command: C, payload: object, given: list[int] | None = None) -> None:
    answer = await client.ask(command, payload, given or [])  # type: ignore[arg-type]
    assert answer.error == number, (command, payload, answer)
    assert answer.body == b""
