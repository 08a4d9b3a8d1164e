"""Whether something can carry data now, such as a port or a disk: programs wait for it, and are told of changes."""

from __future__ import annotations

from collections.abc import Callable

import trio

__all__ = ["Liveness"]


class Liveness:
    """The state of something that carries data at times. Its owner calls `set`."""

    def __init__(self) -> None:
        self.live = False
        """Whether it can carry data now."""
        self._began = trio.Event()
        self._watchers: list[Callable[[], object]] = []

    def set(self, live: bool) -> None:
        """Set the state. If that is a change, call the watchers, and end all waits once it is live."""
        if live == self.live:
            return
        self.live = live
        if live:
            self._began.set()
        else:
            self._began = trio.Event()
        for changed in self._watchers:
            changed()

    async def wait(self) -> None:
        """Wait until it is live."""
        while not self.live:
            await self._began.wait()

    def watch(self, changed: Callable[[], object]) -> None:
        """Call ``changed`` after each change of the state from now on. It must neither wait nor raise."""
        self._watchers.append(changed)
