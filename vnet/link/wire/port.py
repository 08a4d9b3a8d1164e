"""One port of a wire: training, data link layer and transaction layer, from frames to accesses. No I/O, no clock."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import attrs

from vnet.link.base import Direction
from vnet.link.datalink.layer import DataLink, DataLinkTimes
from vnet.link.transaction.codec import emit, parse
from vnet.link.transaction.errors import EcrcMismatch, TlpError, UnexpectedCompletion, UnsupportedTlp
from vnet.link.transaction.fields import DOUBLEWORD, CompletionStatus
from vnet.link.transaction.flow import CREDIT, FLOWS, Credits, Flow, taken_by
from vnet.link.transaction.packets import (
    Completion,
    ConfigRead,
    ConfigWrite,
    Header,
    MemoryRead,
    MemoryWrite,
    Message,
    Tlp,
)
from vnet.link.wire.completer import Completer, function_of
from vnet.link.wire.errors import DetectedError, TransactionError, WireError
from vnet.link.wire.impairments import Carried, Impairments, WireFault
from vnet.link.wire.ordering import SendQueue
from vnet.link.wire.requests import Requests
from vnet.link.wire.training import COMMA, Training, TrainingState

__all__ = ["Port", "PortEvents", "WireLimits", "granted_credits"]

BEHIND = {TrainingState.DETECT, TrainingState.HOT_RESET}
"""States in which the data link layer is down."""
HEADERS = 64
"""Credits for headers of each flow."""
DATA_PAYLOADS = 32
"""Payloads of the largest size for which a flow has data credits."""


def granted_credits(max_payload: int) -> dict[Flow, Credits]:
    """Return the credits of a receiver; completions have no limit, as an endpoint's must (2.6.1)."""
    data = min(DATA_PAYLOADS * max_payload // CREDIT, 2047)
    return {
        Flow.POSTED: Credits(HEADERS, data),
        Flow.NON_POSTED: Credits(HEADERS, HEADERS),
        Flow.COMPLETION: Credits(None, None),
    }


@attrs.frozen
class WireLimits:
    """Limits of a port. Sizes in bytes, times in nanoseconds."""

    max_payload: int
    max_read_request: int
    boundary: int
    """Read completion boundary of the other end."""
    completion_timeout: float
    times: DataLinkTimes


class PortEvents(Protocol):
    """Observer of a port."""

    def error(self, port: Port, problem: DetectedError) -> None: ...

    def tlp(self, port: Port, delivered: bool, packet: bytes) -> None:
        """Handle a TLP that the port sends for the first time, or that was delivered to it."""


class Port:
    """One port. ``direction`` is the way that its packets travel."""

    def __init__(
        self,
        direction: Direction,
        completer: Completer[Any],
        limits: WireLimits,
        impairments: Impairments,
        events: PortEvents,
        clock: Callable[[], float],
    ) -> None:
        self.direction = direction
        self.completer = completer
        self.training = Training()
        self.datalink = DataLink(
            limits.times, granted_credits(limits.max_payload), report=self.report, retrain=self.want_retrain
        )
        self.requests = Requests(limits.completion_timeout, limits.max_read_request, limits.boundary)
        self.queue = SendQueue()
        self.errors: Counter[str] = Counter()
        self.posted_sent = 0
        """Posted packets that were handed over, since the link came up."""
        self.posted_received = 0
        self.delivered = 0
        """Packets of the other end that arrived."""
        self.tlps: Counter[str] = Counter()
        """Packets that were handed over, by kind."""
        self.retrain_wanted = False
        self.generates_digests = False
        """Each packet has a digest (ECRC Generation Enable)."""
        self.checks_digests = True
        """A packet with a wrong digest is dropped (ECRC Check Enable)."""
        self.idle = False
        """`take` had no frame, and nothing has happened since then."""
        self._limits = limits
        self._impairments = impairments
        self._events = events
        self._clock = clock
        self._paused: float = math.nan
        """Time at which a recovery began; not a number outside of one."""

    @property
    def up(self) -> bool:
        """Whether packets can travel."""
        return self.training.up and self.datalink.active

    # The transaction layer's user

    def submit(self, packet: Tlp) -> None:
        """Send a packet, when the ordering rules and the credits permit."""
        self.posted_sent += FLOWS[packet.kind] is Flow.POSTED
        self.tlps[packet.kind.value] += 1
        if self.generates_digests:
            packet = attrs.evolve(packet, header=attrs.evolve(packet.header, digest=True))
        self.queue.add(packet, emit(packet))
        self.idle = False

    def submit_all(self, packets: Iterable[Tlp]) -> None:
        for packet in packets:
            self.submit(packet)

    def issue(self) -> None:
        """Send the requests for which tags are free."""
        self.submit_all(self.requests.issue(self._clock()))

    # The wire

    def take(self) -> bytes | None:
        """Return the next frame for the wire; None if there is none."""
        symbols = self.training.take()
        if symbols is not None or not self.training.up:
            return symbols
        datalink = self.datalink
        if not datalink.sender.waiting and len(self.queue):
            packet = self.queue.take(datalink.accepts)
            if packet is not None:
                if self._impairments.judge(Carried.PACKET, self.direction) is not None:
                    packet = self._impairments.damage(packet, DOUBLEWORD)  # the first one says what the packet is
                self._events.tlp(self, False, packet)
                datalink.send(packet)
        return datalink.take(self._clock())

    def receive(self, frame: bytes) -> None:
        """Take a frame from the wire."""
        now = self._clock()
        if frame[:1] and frame[0] == COMMA and self.training.receive(frame, now):
            self.follow()
        elif self.training.up:
            packet = self.datalink.receive(frame, now)
            if packet is not None:
                self.deliver(packet)

    def want_retrain(self) -> None:
        """Have the link retrained, when the wire comes to this port."""
        self.retrain_wanted = True

    @property
    def deadline(self) -> float:
        """Time at which `expire` is due."""
        if self.training.up:
            return min(self.datalink.deadline, self.requests.deadline)
        return min(self.training.deadline, self.requests.deadline)

    @property
    def ready(self) -> float:
        """Time at which `take` has a frame that it lacks now."""
        return self.datalink.ready if self.training.up else math.inf

    def expire(self) -> None:
        """Do what is due."""
        now = self._clock()
        if not self.training.up and now >= self.training.deadline:
            self.training.expire(now)
            self.follow()
        if self.training.up and now >= self.datalink.deadline:
            self.datalink.expire(now)
        if now >= self.requests.deadline:
            for request in self.requests.expire(now):
                self.report(TransactionError.COMPLETION_TIMEOUT, emit(request), self._function(request.header))
            self.issue()

    def follow(self) -> None:
        """Make the layers above follow the state of training."""
        now, state = self._clock(), self.training.state
        if state in BEHIND:
            self.lose()
        elif state is TrainingState.L0:
            if not math.isnan(self._paused):
                self.datalink.postpone(now - self._paused)
                self._paused = math.nan
            self.datalink.link_up(now)
        elif math.isnan(self._paused) and self.datalink.active:
            self._paused = now

    def lose(self) -> None:
        """Forget all that is under way: the link is down."""
        self.datalink.link_down()
        self.queue.clear()
        self.requests.lose()
        self.posted_sent = self.posted_received = 0
        self._paused = math.nan

    def report(
        self, error: WireError, log: bytes = b"", function: int | None = None, *, advisory: bool = False
    ) -> None:
        """Count an error, and report it; the arguments are those of `DetectedError`."""
        self.errors[error.value] += 1
        self._events.error(self, DetectedError(error, log[:16], function, advisory))

    def _function(self, header: Header) -> int | None:
        """Return the function of this port that sent a request; None at the root port."""
        return function_of(header.requester) if self.direction is Direction.UPSTREAM else None

    # Received packets

    def deliver(self, packet: bytes) -> None:
        """Handle a TLP of the other end. Its credits are free again first: a handler may send and wait for more."""
        taken = taken_by(packet)
        self.datalink.free(taken)
        self.delivered += 1
        self.posted_received += taken.flow is Flow.POSTED
        self._events.tlp(self, True, packet)
        try:
            self._handle(parse(packet, self._limits.max_payload, check_digest=self.checks_digests), packet)
        except UnsupportedTlp as error:
            answered = taken.flow is Flow.NON_POSTED
            self.report(TransactionError.UNSUPPORTED_REQUEST, error.log, advisory=answered)
            if answered:
                self.submit(self._refusal(packet))
        except EcrcMismatch as error:
            self.report(TransactionError.ECRC, error.log)
        except UnexpectedCompletion:
            self.report(TransactionError.UNEXPECTED_COMPLETION, packet, advisory=True)
        except TlpError:
            self.report(TransactionError.MALFORMED, packet)

    def _handle(self, packet: Tlp, data: bytes) -> None:
        match packet:
            case Completion():
                if self.requests.complete(packet):
                    self.report(TransactionError.POISONED, data, self._function(packet.header))
                self.issue()
            case MemoryWrite():
                if packet.header.poisoned:
                    self.report(TransactionError.POISONED, data)
                elif not self.completer.write(packet):
                    self.report(TransactionError.UNSUPPORTED_REQUEST, data)
            case MemoryRead():
                answers = self.completer.read(packet)
                if answers[0].status is CompletionStatus.UNSUPPORTED_REQUEST:
                    self.report(TransactionError.UNSUPPORTED_REQUEST, data, advisory=True)
                self._answer(answers, data)
            case ConfigWrite() if packet.header.poisoned:
                self.report(TransactionError.POISONED, data, function_of(packet.target), advisory=True)
                self._answer([self._refusal(data)], data)
            case ConfigRead() | ConfigWrite():
                # A function that does not exist reports nothing: enumeration asks for all of them.
                self._answer([self.completer.configure(packet)], data)
            case Message():
                self.completer.message(packet)

    def _answer(self, answers: list[Completion], request: bytes) -> None:
        fault = self._impairments.judge(Carried.COMPLETION, self.direction)
        if fault is WireFault.UNANSWERED:
            return
        if fault is WireFault.ABORTED:
            answers = [attrs.evolve(answers[0], status=CompletionStatus.COMPLETER_ABORT, data=b"")]
            self.report(TransactionError.COMPLETER_ABORT, request, advisory=True)
        elif fault is WireFault.POISONED and answers[0].data:
            answers[0] = attrs.evolve(answers[0], header=attrs.evolve(answers[0].header, poisoned=True))
        self.submit_all(answers)

    def _refusal(self, packet: bytes) -> Completion:
        identity, tag = int.from_bytes(packet[4:6], "big"), packet[6]
        status = CompletionStatus.UNSUPPORTED_REQUEST
        return Completion(header=Header(identity, tag), completer=self.completer.identity, status=status)
