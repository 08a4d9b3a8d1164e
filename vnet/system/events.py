"""Distributes the events of a system to sinks, by topic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from drivers.contracts.events import Event, Events, Topic

__all__ = ["EventHub", "Sink"]

Sink = Callable[[Event], None]
"""Takes an event. It must neither raise nor wait: a sink that can do no more counts what it loses."""


class EventHub(Events):
    """Emits the events of each topic to its sinks. Costs nothing while no sink listens to a topic."""

    __slots__ = ("_emitters", "_sinks")

    def __init__(self) -> None:
        super().__init__()
        self._emitters: list[Callable[[], None]] = []
        self._sinks: dict[Topic, list[Sink]] = {topic: [] for topic in Topic}

    @contextmanager
    def listen(self, sink: Sink, topics: Iterable[Topic] = tuple(Topic)) -> Iterator[None]:
        """Give ``sink`` all events of these topics until the end of the context."""
        chosen = tuple(dict.fromkeys(topics))
        for topic in chosen:
            self._sinks[topic].append(sink)
            self._connect(topic)
        try:
            self._adapt()
            yield
        finally:
            for topic in chosen:
                self._sinks[topic].remove(sink)
                self._connect(topic)
            self._adapt()

    def adapt(self, emitter: Callable[[], None]) -> None:
        """Call ``emitter`` after each change of sinks, for emitters that are installed only while a sink listens."""
        self._emitters.append(emitter)

    def _adapt(self) -> None:
        for emitter in self._emitters:
            emitter()

    def _connect(self, topic: Topic) -> None:
        sinks = tuple(self._sinks[topic])

        def emit_to_all(event: Event) -> None:
            for sink in sinks:
                sink(event)

        emit = None if not sinks else sinks[0] if len(sinks) == 1 else emit_to_all
        setattr(self, topic.name.lower(), emit)
