"""Captures of a running system: a client of the control socket chooses events and receives them as pcapng."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import trio

from drivers.contracts.events import Topic
from vnet.capture.filters import Filter, parse_filter
from vnet.capture.recorder import Recorder, Selection
from vnet.names import named
from vnet.qmp.codec import QmpError
from vnet.system.places import device_links
from vnet.system.world import World

__all__ = ["prepare_capture"]

T = TypeVar("T")
GATHER = 0.01
"""Seconds in which events are gathered before they are sent together."""
LINGER = 2.0
"""Seconds that the client may take to receive the rest when the system ends."""
CHUNK = 4096
"""Bytes of a read from the client."""
SNAP_LENGTH_MAX = 1 << 18
"""Bytes of the longest frame that any program captures."""


def prepare_capture(
    world: World, on: Sequence[str], events: Sequence[str], filters: Sequence[str], snaplen: int
) -> Callable[[trio.abc.Stream], Awaitable[None]]:
    """Return the function that sends the chosen events over a connection, until the client ends it or the world ends.

    ``on`` has names of devices and links (empty: all), ``events`` names of topics (empty: all), ``filters`` conditions.
    Raises QmpError, whose message lists what there is.
    """
    selection = Selection(
        topics=_chosen("events", {topic.value: topic for topic in Topic}, events) or tuple(Topic),
        places=_places(world, on),
        filters=_filters(filters),
        snap_length=snaplen,
    )
    if not 0 <= snaplen <= SNAP_LENGTH_MAX:
        raise QmpError(f"snaplen {snaplen}: must be 0 to {SNAP_LENGTH_MAX} (bytes of a frame)")
    return _Capture(world, selection).serve


def _chosen(kind: str, things: Mapping[str, T], names: Sequence[str]) -> tuple[T, ...]:
    return tuple(named(kind, things, name, QmpError) for name in names)


def _places(world: World, names: Sequence[str]) -> frozenset[str]:
    """Return the chosen devices and links, with the devices on these links: most of their events name no link."""
    chosen = frozenset(_chosen("device or link", {name: name for name in (*world.devices, *world.links)}, names))
    on_links = (
        name
        for name, device in world.devices.items()
        if not chosen.isdisjoint(device_links(world.topology, device.spec))
    )
    return chosen.union(on_links)


def _filters(texts: Sequence[str]) -> tuple[Filter, ...]:
    try:
        return tuple(parse_filter(text) for text in texts)
    except ValueError as exc:
        raise QmpError(str(exc)) from None


class _Capture:
    """A capture over one connection. Events never wait for the client: what it does not take is lost and counted."""

    def __init__(self, world: World, selection: Selection) -> None:
        self._events = world.events
        self._topics = selection.topics
        self._pending = trio.Event()
        self._ended = False
        # Both clocks at the same moment: from here on, times are those of the run's clock.
        epoch = time.time_ns() - int(trio.current_time() * 1e9)
        self._recorder = Recorder(world.name, selection, epoch, self._wake)

    def _wake(self) -> None:
        self._pending.set()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Send events until the client closes its direction of the connection, then what waits and the statistics."""
        # A send that is cancelled would leave half a block: it has a deadline instead, once the system ends.
        sending = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_end, stream, sending)
            with sending:
                await self._send(stream)
            nursery.cancel_scope.cancel()

    async def _wait_end(self, stream: trio.abc.Stream, sending: trio.CancelScope) -> None:
        try:
            while await stream.receive_some(CHUNK):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except trio.Cancelled:
            sending.deadline = trio.current_time() + LINGER
            raise
        finally:
            self._ended = True
            self._pending.set()

    async def _send(self, stream: trio.abc.Stream) -> None:
        try:
            await stream.send_all(self._recorder.take())
            with self._events.listen(self._recorder, self._topics):
                while not self._ended:
                    await self._pending.wait()
                    await trio.sleep(GATHER)
                    if not self._ended:
                        self._pending = trio.Event()
                    if data := self._recorder.take():
                        await stream.send_all(data)
            await stream.send_all(self._recorder.finish(trio.current_time()))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has gone
