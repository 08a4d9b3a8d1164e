"""Rates and events of a system for any number of browsers. The system is asked only while there is one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from vnet.errors import ControlError
from vnet.live.rates import rates_between
from vnet.qmp.async_client import Control
from vnet.qmp.events import LOST
from vnet.views.plain import to_plain
from vnet.views.system import SystemView
from vnet.web.mailbox import Mailbox

__all__ = ["CLIENTS_MAX", "Feed"]

CLIENTS_MAX = 16
"""Browsers that follow a system at the same time."""
INTERVAL = 1.0
"""Seconds between two looks, and between two attempts to reach a system that does not run."""


class Feed:
    """Follows a system while there are mailboxes, and puts the same messages into all of them."""

    def __init__(self, control: Control, interval: float = INTERVAL) -> None:
        self._control = control
        self._interval = interval
        self._mailboxes: list[Mailbox] = []
        self._wanted = trio.Event()
        self._following = trio.CancelScope()
        self._latest: dict[str, str] = {}

    @property
    def full(self) -> bool:
        """Whether no further browser can follow."""
        return len(self._mailboxes) >= CLIENTS_MAX

    @contextmanager
    def subscribe(self) -> Iterator[Mailbox]:
        """Return a mailbox that gets messages until the end of the block."""
        mailbox = Mailbox()
        for kind, data in self._latest.items():
            mailbox.put(kind, data)
        self._mailboxes.append(mailbox)
        self._wanted.set()
        try:
            yield mailbox
        finally:
            self._mailboxes.remove(mailbox)
            if not self._mailboxes:
                self._wanted = trio.Event()
                self._following.cancel()

    async def run(self) -> None:
        """Follow the system whenever there is a mailbox, until cancelled."""
        try:
            while True:
                await self._wanted.wait()
                if self._mailboxes:
                    await self._follow()
        finally:
            with trio.CancelScope(shield=True):
                await self._control.aclose()

    async def _follow(self) -> None:
        with trio.CancelScope() as self._following:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow_rates)
                nursery.start_soon(self._follow_events)
        self._latest.clear()
        await self._control.aclose()

    async def _follow_rates(self) -> None:
        """Put the rates of each interval; the first ones are 0, and have the names of all parts."""
        before: SystemView | None = None
        then = trio.current_time() - self._interval
        while True:
            try:
                view = await self._control.view(SystemView, "query-vnet")
            except ControlError as exc:
                before, then = None, trio.current_time()
                self._latest.pop("rates", None)
                self._put("absent", json.dumps({"why": str(exc)}))
            else:
                now = trio.current_time()
                rates = rates_between(before or view, view, max(now - then, 1e-6))
                before, then = view, now
                self._latest.pop("absent", None)
                self._put("rates", json.dumps(to_plain(rates)))
            await trio.sleep(self._interval)

    async def _follow_events(self) -> None:
        """Put events; connect again after the system has ended."""
        while True:
            try:
                async with self._control.converse() as conversation:
                    await conversation.execute("set-events")
                    while True:
                        self._pass_on(await conversation.receive())
            except ControlError:
                await trio.sleep(self._interval)

    def _pass_on(self, event: dict[str, object]) -> None:
        data, text = event.get("data"), json.dumps(event)
        for mailbox in self._mailboxes:
            if event.get("event") == LOST and isinstance(data, dict):
                mailbox.lose(int(data["count"]))
            else:
                mailbox.put_event(text)

    def _put(self, kind: str, data: str) -> None:
        self._latest[kind] = data
        for mailbox in self._mailboxes:
            mailbox.put(kind, data)
