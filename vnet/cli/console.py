"""A Python prompt whose statements run in Trio's main task, so that they may await.

Trio's own console, of ``python -m trio``, is private and final. It ends only when its thread has read a line, so not at
SIGTERM, and it prints prompts into a pipe.
"""

from __future__ import annotations

import ast
import code
import inspect
import os
import sys
from collections.abc import Callable
from types import CodeType, FunctionType

import click
import trio

__all__ = ["Console", "read_stdin"]

PROMPTS = (">>> ", "... ")
"""Prompts of a new statement and of its further lines."""


class Console(code.InteractiveInterpreter):
    """Runs statements with ``names`` as their global names."""

    def __init__(self, names: dict[str, object], read: Callable[[str], str]) -> None:
        """``read`` returns the next line of input after a prompt, in a thread; it raises EOFError at the end."""
        super().__init__(names)
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._read = read
        self._code: CodeType | None = None

    def runcode(self, code: CodeType) -> None:
        """Keep a compiled statement for `run`, which can await it."""
        self._code = code

    async def run(self) -> int:
        """Read and run statements until the end of the input or SystemExit; return the exit status.

        An error of a statement is shown with its traceback. Ctrl-C ends the statement, or discards its first lines.
        """
        prompts, receive_prompt = trio.open_memory_channel[str](1)
        send_line, lines = trio.open_memory_channel[str](1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_lines, receive_prompt, send_line)
            try:
                await self._run(prompts, lines)
            except SystemExit as exc:
                return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
            finally:
                nursery.cancel_scope.cancel()
        return 0

    async def _read_lines(self, prompts: trio.MemoryReceiveChannel[str], lines: trio.MemorySendChannel[str]) -> None:
        """Read a line for each prompt, one at a time: a Ctrl-C must not leave a second reader behind."""
        async with lines:
            async for prompt in prompts:
                try:
                    line = await trio.to_thread.run_sync(self._read, prompt, abandon_on_cancel=True)
                except EOFError:
                    return
                await lines.send(line)

    async def _run(self, prompts: trio.MemorySendChannel[str], lines: trio.MemoryReceiveChannel[str]) -> None:
        source: list[str] = []
        while True:
            await prompts.send(PROMPTS[bool(source)])
            try:
                source.append(await lines.receive())
                more = self.runsource("\n".join(source), "<stdin>")
                if not more:
                    source.clear()
                    await self._run_code()
            except trio.EndOfChannel:
                self.runsource("\n".join(source) + "\n", "<stdin>")  # a last block has no empty line behind it
                await self._run_code()
                return
            except KeyboardInterrupt:
                source.clear()
                click.echo("\nKeyboardInterrupt", err=True)

    async def _run_code(self) -> None:
        statement, self._code = self._code, None
        if statement is None:
            return
        try:
            result = FunctionType(statement, self.locals)()
            if inspect.iscoroutine(result):
                await result
        except (SystemExit, KeyboardInterrupt, trio.Cancelled):
            raise
        except BaseException:  # noqa: BLE001  a prompt shows the errors of its statements, and goes on
            self.showtraceback()


def read_stdin(prompt: str) -> str:
    """Return a line of standard input, with a prompt if it is a terminal. Raises EOFError.

    Bytes are read one by one past Python's buffers, whose lock a thread that is abandoned would never release.
    """
    if sys.stdin.isatty():
        return input(prompt)
    line = bytearray()
    while byte := os.read(0, 1):
        if byte == b"\n":
            return line.decode(errors="replace")
        line += byte
    if not line:
        raise EOFError
    return line.decode(errors="replace")
