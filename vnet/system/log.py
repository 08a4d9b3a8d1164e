"""The log: a sink of events that writes them to the standard loggers ``vnet.DEVICE.QUEUE`` and ``vnet.LINK``.

Nothing here configures `logging`: that is for the program, such as the command line.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import trio

from drivers.bus.virtio import REQUESTED
from drivers.contracts.events import (
    BackEndMoved,
    BindMoved,
    ControlCommanded,
    DeviceReset,
    Event,
    FaultInjected,
    FaultRuleEnded,
    FaultRuleSet,
    FeaturesNegotiated,
    FrontEndMoved,
    LinkErrorDetected,
    LinkMoved,
    LinkTimingChanged,
    MessagePassed,
    NeedsResetSet,
    NotificationsRescued,
    PacketsDropped,
    PartMoved,
    PciErrorHandled,
    PortLost,
    QueueEnabled,
    QueueStopped,
    Source,
    StatusChanged,
    Topic,
)
from rings.status import status_names
from vnet.link.faults import FLAPS
from vnet.system.events import EventHub
from vnet.system.limited import PER, LineLimit, repeated, shortened
from vnet.system.verdicts import OFTEN
from vnet.views.link import faults_in_words

__all__ = ["ENTRIES", "TOPICS", "EventLog", "LogEntry", "log_events", "log_line", "logger_name"]

DEBUG, INFO, WARNING = logging.DEBUG, logging.INFO, logging.WARNING
QUERIES = ("query-", "x-query-", "qmp_capabilities")
"""Starts of the names of commands that change nothing."""


def log_line(line: str) -> None:
    """Log a line for the user that is no event."""
    logging.getLogger("vnet").warning("%s", line)


@attrs.frozen
class LogEntry:
    """An event as a line of the log."""

    level: int
    text: str
    problem: str = ""
    """Name of the problem if the line is repeated at growing intervals only; else empty."""
    count: int = 1
    """How often the problem occurred; 0 if the text says it."""


def _problem(text: str, count: int = 1) -> LogEntry:
    return LogEntry(WARNING, text, text, count)


def _status(event: StatusChanged) -> LogEntry:
    return LogEntry(DEBUG, f"status {' '.join(status_names(event.status)) or 0}")


def _features(event: FeaturesNegotiated) -> LogEntry:
    return LogEntry(INFO, f"negotiated {', '.join(event.names)}")


def _stopped(event: QueueStopped) -> LogEntry:
    if not event.cause:
        return LogEntry(DEBUG, "stopped")
    rule = f" (VIRTIO 1.4, {event.section})" if event.section else ""
    return _problem(f"broke and is stopped until the driver resets the device: {event.cause}{rule}")


def _reset(event: DeviceReset) -> LogEntry:
    if not event.cause:
        return LogEntry(DEBUG, "reset")
    if event.repeats < OFTEN:
        return LogEntry(INFO, f"reset: {event.cause}")
    return LogEntry(WARNING, f"reset {event.repeats} times in a row: {event.cause}", f"reset: {event.cause}", 0)


def _bind(event: BindMoved) -> LogEntry:
    text = f"{event.driver or 'no driver'}: {event.state}{f': {event.why}' if event.why else ''}"
    if event.state == "failed":
        return _problem(text)
    return LogEntry(DEBUG if event.state == "probing" and not event.why else INFO, text)


def _back_end(event: BackEndMoved) -> LogEntry:
    if not event.connected:
        return LogEntry(WARNING, f"the back end is gone: {event.why}")
    if event.connections > 1:
        return LogEntry(WARNING, f"a back end is connected again (connection {event.connections})")
    return LogEntry(INFO, "a back end is connected")


def _dropped(event: PacketsDropped) -> LogEntry:
    return _problem(f"{event.place} drops packets: {event.cause}", event.count)


def _rescued(event: NotificationsRescued) -> LogEntry:
    return _problem("a notification was lost; a re-check found the work", event.count)


def _link(event: LinkMoved) -> LogEntry:
    return LogEntry(INFO, f"up, epoch {event.epoch}" if event.up else f"down, epoch {event.epoch} is over")


def _rule_ended(event: FaultRuleEnded) -> LogEntry:
    faults = faults_in_words(event.faults, None if event.fault == FLAPS else event.requests)
    return LogEntry(INFO, f"rule {event.rule} {event.cause}: {faults}")


def _timing(event: LinkTimingChanged) -> LogEntry:
    width = f"generation {event.generation}, {event.lanes} lanes, {event.rate / 1e9:.2f} GB/s"
    return LogEntry(INFO, f"changed: {width}, read latency {event.read_latency_ns:g} ns")


def _message(event: MessagePassed) -> LogEntry:
    verb = "sent" if event.sent else "received"
    return LogEntry(DEBUG, f"{verb} {event.request}, {event.size} bytes, {event.fds} file descriptors")


def _command(event: ControlCommanded) -> LogEntry:
    level = DEBUG if event.command.startswith(QUERIES) else INFO
    return LogEntry(level, f"{event.command or 'invalid'}: {event.outcome or 'done'}")


ENTRIES: Mapping[type[Event], Callable[[Any], LogEntry]] = {
    StatusChanged: _status,
    FeaturesNegotiated: _features,
    QueueEnabled: lambda event: LogEntry(DEBUG, f"enabled, {event.num} descriptors"),
    QueueStopped: _stopped,
    DeviceReset: _reset,
    NeedsResetSet: lambda event: LogEntry(INFO, f"needs a reset: {event.cause}"),
    BindMoved: _bind,
    PartMoved: lambda event: LogEntry(INFO, f"{event.kind} {event.name} was {'added' if event.present else 'removed'}"),
    PortLost: lambda event: LogEntry(WARNING, event.why),
    BackEndMoved: _back_end,
    FrontEndMoved: lambda event: LogEntry(
        DEBUG, f"connection {event.connections} {'begins' if event.connected else 'is over'}"
    ),
    PacketsDropped: _dropped,
    NotificationsRescued: _rescued,
    LinkMoved: _link,
    FaultRuleSet: lambda event: LogEntry(INFO, f"rule {event.rule} was set: {event.amount}"),
    FaultRuleEnded: _rule_ended,
    LinkTimingChanged: _timing,
    LinkErrorDetected: lambda event: LogEntry(
        DEBUG if event.severity == "correctable" else WARNING, f"{event.port} port: {event.error} ({event.severity})"
    ),
    PciErrorHandled: lambda event: LogEntry(
        DEBUG if event.severity == "correctable" else WARNING,
        f"{event.location}: {event.severity} {', '.join(event.errors)}{event.header and f', header {event.header}'}",
    ),
    FaultInjected: lambda event: LogEntry(DEBUG, f"injected fault: {event.request} {event.fault} (rule {event.rule})"),
    MessagePassed: _message,
    ControlCommanded: _command,
}
"""The line of each kind of event that is logged."""
TOPICS = {
    Topic.LIFECYCLE: WARNING,
    Topic.LOSSES: WARNING,
    Topic.LINKS: INFO,
    Topic.CONTROL: INFO,
    Topic.VHOST_USER: DEBUG,
}
"""Topics of these events, each with the highest level of its lines. Those of the data path are not among them."""


def logger_name(event: Event) -> str:
    """Return the name of the logger of an event, such as ``vnet.net0.transmitq1``."""
    source = event.source
    if isinstance(event, ControlCommanded):
        return "vnet.control"
    parts = filter(None, (source.device or source.link or source.host, source.queue))
    return ".".join(("vnet", *(part.replace(".", "_") for part in parts)))


def _place(event: Event) -> str:
    source: Source = event.source
    if isinstance(event, ControlCommanded):
        return "control socket"
    names = " ".join(filter(None, (source.device or source.link or source.host, source.queue)))
    return f"{names} ({source.side}{f' on {source.host}' if source.host else ''})" if source.side else names


class EventLog:
    """A sink that logs each event, at most `LINES` lines in `PER` seconds from one logger at one level."""

    def __init__(self) -> None:
        self._limits: dict[tuple[str, int], LineLimit] = {}
        self._causes: dict[str, str] = {}
        """Cause of the last DEVICE_NEEDS_RESET, by device."""

    def __call__(self, event: Event) -> None:
        event = self._with_cause(event)
        entry = ENTRIES[type(event)](event)
        name = logger_name(event)
        logger = logging.getLogger(name)
        if not logger.isEnabledFor(entry.level):
            return
        place = _place(event)
        limit = self._limits.setdefault((name, entry.level), LineLimit())
        more: int | None = 0
        if entry.problem:
            more = limit.admit_problem(f"{place}: {shortened(entry.problem)}", entry.count)
        elif not limit.admit():
            more = None
        if more is not None:
            self._log_skipped(name, entry.level, limit)
            text = repeated(shortened(entry.text), more)
            text = f"{place}: {text}" if place else text
            logger.log(entry.level, "%s", text, extra={"event": event})

    def _with_cause(self, event: Event) -> Event:
        """Return the event; a reset for which the device asked gets the cause that the device's side named."""
        device = event.source.device
        if isinstance(event, NeedsResetSet):
            self._causes[device] = event.cause
        elif isinstance(event, DeviceReset) and event.cause == REQUESTED and device in self._causes:
            return attrs.evolve(event, cause=f"{self._causes[device]} ({REQUESTED})")
        return event

    def flush(self, *, end: bool = False) -> None:
        """Log how many lines were held back since the last one, and repetitions of problems whose pause is over.

        At the ``end`` of the log: for all loggers and problems.
        """
        for (name, level), limit in self._limits.items():
            if end or limit.open:
                self._log_skipped(name, level, limit)
            for problem, more in limit.take_due(end=end):
                logging.getLogger(name).log(level, "%s", repeated(problem, more))

    def _log_skipped(self, name: str, level: int, limit: LineLimit) -> None:
        if skipped := limit.take_skipped():
            logging.getLogger(name).log(level, "%s: %d more", name.partition(".")[2], skipped)

    async def run(self) -> None:
        """Flush at intervals until cancelled."""
        while True:
            await trio.sleep(PER)
            self.flush()


def _topics() -> list[Topic]:
    """Return the topics with lines that some logger below ``vnet`` lets through."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("vnet.")]
    loggers = [logging.getLogger(name) for name in ("vnet", *names)]
    return [topic for topic, level in TOPICS.items() if any(logger.isEnabledFor(level) for logger in loggers)]


@contextmanager
def log_events(hub: EventHub) -> Iterator[EventLog]:
    """Log the events of ``hub`` during the context, of the topics that the loggers' levels let through at its start."""
    log = EventLog()
    try:
        with hub.listen(log, _topics()):
            yield log
    finally:
        log.flush(end=True)
