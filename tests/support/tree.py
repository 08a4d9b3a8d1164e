"""Drives the management tree without a mount: its coroutines in tests without tasks, and scripts of a shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Coroutine
from typing import Any, TypeVar

from vnet.configfs.nodes import Directory
from vnet.configfs.paths import resolved
from vnet.configfs.service import Configfs

T = TypeVar("T")
MOUNT = "/sys/kernel/config"
"""Where the kernel's documents mount the tree."""
ECHO = re.compile(r"echo (?P<value>.*?) > (?P<path>\S+)")


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waits")


class TreeShell:
    """Runs the few commands of a shell that the kernel's documents use, on a tree mounted at `MOUNT`."""

    def __init__(self, tree: Configfs) -> None:
        self.tree = tree
        self.directory = MOUNT

    async def run(self, script: str) -> list[str]:
        """Run the lines of a script, with or without a prompt in front. Returns what they print. Raises TreeError."""
        printed: list[str] = []
        for line in script.splitlines():
            command = line.strip().removeprefix("# ")
            if command:
                printed += await self._run(command)
        return printed

    async def _run(self, command: str) -> list[str]:
        echo = ECHO.fullmatch(command)
        if echo is not None:
            await self.tree.write(self._path(echo["path"]), f"{echo['value']}\n".encode())
            return []
        name, *words = shlex.split(command)
        match name, words:
            case "cd", [path]:
                self.directory = f"{MOUNT}/{self._path(path)}"
            case "ls", [path]:
                return [" ".join(entry.name for entry in self.tree.list(self._path(path)))]
            case "cat", [path]:
                return [self.tree.read(self._path(path)).removesuffix("\n")]
            case "mkdir", [path]:
                await self.tree.mkdir(self._path(path))
            case "rmdir", [path]:
                await self.tree.rmdir(self._path(path))
            case "rm", [path]:
                await self.tree.unlink(self._path(path))
            case "ln", ["-s", target, path]:
                place = self._path(path)
                node = self.tree.tree.find(place)[1] if self._exists(place) else None
                if isinstance(node, Directory):
                    place += f"/{target.rstrip('/').rpartition('/')[2]}"
                await self.tree.symlink(self._path(target), place)
            case _:
                raise AssertionError(f"a command that this shell does not know: {command}")
        return []

    def _exists(self, path: str) -> bool:
        above, _, name = path.rpartition("/")
        return name in {entry.name for entry in self.tree.list(above)}

    def _path(self, path: str) -> str:
        [place] = resolved(MOUNT, path, [self.directory])
        return place
