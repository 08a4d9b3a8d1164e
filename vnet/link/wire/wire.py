"""Two ports and the wire between them, on a clock of their own that runs while a request is under way."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from vnet.link.base import OPPOSITE, Direction, EndpointPort, RootPort
from vnet.link.datalink.layer import DataLinkTimes
from vnet.link.tlp import TLP_OVERHEAD, PcieParameters
from vnet.link.transaction.fields import MessageCode
from vnet.link.transaction.fragments import writes
from vnet.link.transaction.packets import ConfigRead, ConfigWrite, Header, Message
from vnet.link.wire.channel import FLIGHT, Channel
from vnet.link.wire.completer import Completer, requester_of
from vnet.link.wire.errors import Failure, TransactionError
from vnet.link.wire.impairments import Impairments, WireFault
from vnet.link.wire.port import Port, PortEvents, WireLimits
from vnet.link.wire.requests import Transfer
from vnet.link.wire.training import TrainingEvent, TrainingState

__all__ = ["COMPLETION_TIMEOUT", "Wire", "wire_limits"]

COMPLETION_TIMEOUT = 10e6
"""Nanoseconds until a completion counts as lost: the default range of endpoints is 50 us to 50 ms (7.5.3.16)."""
STUCK = 20e6
"""Nanoseconds without a delivered packet after which a link with packets to send is given up."""
FRUITLESS = 32
"""Retrains without a delivered packet after which it is given up as well."""
ROOT = 0
"""Identity of the root port."""
NS = 1e9
"""Nanoseconds in a second."""


def wire_limits(parameters: PcieParameters, timeout: float = COMPLETION_TIMEOUT) -> WireLimits:
    """Return the limits of a port on a link with ``parameters``."""
    rate = parameters.raw_rate / NS
    latency = int(parameters.ack_interval / rate)
    longest = int((parameters.max_payload + TLP_OVERHEAD) / rate)
    return WireLimits(
        parameters.max_payload,
        parameters.max_read_request,
        min(parameters.completion_boundary or parameters.max_payload, 128),
        timeout,
        # Three times the latency, as in table 3-4, and the way there and back behind a frame of the longest kind.
        DataLinkTimes(latency, 3 * latency + 4 * longest + int(4 * FLIGHT)),
    )


class Wire:
    """A wire. Each call runs it until its packets are delivered and answered, replays and retrains included."""

    def __init__(
        self,
        root: Completer[RootPort],
        endpoint: Completer[EndpointPort],
        parameters: PcieParameters,
        impairments: Impairments,
        events: PortEvents,
        *,
        timeout: float = COMPLETION_TIMEOUT,
    ) -> None:
        """``timeout`` is that of completions, in nanoseconds."""
        self.now = 0.0
        """Nanoseconds for which packets were under way."""
        self.lives = 0
        """Number of times that the link came up."""
        limits = wire_limits(parameters, timeout)
        self._max_payload = parameters.max_payload
        ends: dict[Direction, Completer[Any]] = {Direction.DOWNSTREAM: root, Direction.UPSTREAM: endpoint}
        self.ports = {way: Port(way, end, limits, impairments, events, self._clock) for way, end in ends.items()}
        self.channels = {
            way: Channel(way, NS / parameters.raw_rate, impairments, self._effects(port))
            for way, port in self.ports.items()
        }
        self._ways = tuple((port, self.channels[way], self.ports[OPPOSITE[way]]) for way, port in self.ports.items())
        self._progress = 0.0
        """Time of the last delivered packet, or of the request if it is later."""
        self._fruitless = 0
        """Retrains since then."""
        self._timers = math.inf
        """A time before which no timer of a port expires."""
        self._up = False
        self._resetting = False

    def _effects(self, port: Port) -> dict[WireFault, Callable[[], None]]:
        return {
            WireFault.RETRAINS: port.want_retrain,
            WireFault.SURPRISE_DOWNS: self._surprise,
            WireFault.HOT_RESETS: self._bus_reset,
        }

    # The link's state

    @property
    def up(self) -> bool:
        """Whether packets can travel."""
        return self._up

    @property
    def root(self) -> Port:
        return self.ports[Direction.DOWNSTREAM]

    @property
    def endpoint(self) -> Port:
        return self.ports[Direction.UPSTREAM]

    def train(self) -> bool:
        """Train the link and initialise its credits; return whether it is up."""
        if self._up:
            return True
        for port in self.ports.values():
            self._move(port, TrainingEvent.PARTNER)
        states = [port.training for port in self.ports.values()]
        while not all(port.up for port in self.ports.values()):
            if all(training.state is TrainingState.DETECT for training in states):
                return False
            self._step()
        self._up = True
        self.lives += 1
        return True

    def retrain(self) -> bool:
        """Retrain the link; return whether it is up again."""
        self.root.want_retrain()
        return self._run(lambda: self.root.up and self.endpoint.up and not self.root.retrain_wanted)

    def hot_reset(self) -> None:
        """Reset the link as a root port does by a bit of its bridge control: the endpoint's state is lost."""
        self._bus_reset()
        self._run(lambda: not self._up)

    def take_down(self) -> None:
        """Take the link down."""
        self._up = self._resetting = False
        for port in self.ports.values():
            port.training.lose()
            port.lose()
            port.retrain_wanted = False
        for channel in self.channels.values():
            channel.clear()

    def _surprise(self) -> None:
        if self._up:
            self.take_down()
            self.root.report(TransactionError.SURPRISE_DOWN)

    def _bus_reset(self) -> None:
        self._resetting = True
        self._move(self.root, TrainingEvent.BUS_RESET)

    def _move(self, port: Port, event: TrainingEvent) -> None:
        """Change the state of a port's training, and send what that begins with."""
        port.training.happen(event, self.now)
        port.follow()
        port.idle = False
        self._timers = min(self._timers, port.deadline)

    # Requests

    def read(self, way: Direction, start: int, size: int, function: int = 0) -> bytes | Failure:
        """Return bytes of the memory or a register at the other end."""
        port = self.ports[way]
        return self._finish(port, port.requests.read(self._header(way, function), start, size))

    def write(self, way: Direction, start: int, data: bytes, function: int = 0) -> bool:
        """Write bytes at the other end; return whether they were delivered."""
        port = self.ports[way]
        port.submit_all(writes(self._header(way, function), start, data, self._max_payload))
        return self._post(way)

    def config_read(self, function: int, register: int, enabled: int) -> bytes | Failure:
        """Return the doubleword of a register in configuration space; ``enabled`` are the byte enables."""
        target = requester_of(function)
        request = ConfigRead(header=Header(ROOT), target=target, register=register, enabled=enabled)
        return self._finish(self.root, self.root.requests.configure(request))

    def config_write(self, function: int, register: int, enabled: int, data: bytes) -> Failure | None:
        """Write the enabled bytes of a register in configuration space; return the failure, if there is one."""
        target = requester_of(function)
        request = ConfigWrite(header=Header(ROOT), target=target, register=register, enabled=enabled, data=data)
        result = self._finish(self.root, self.root.requests.configure(request))
        return result if isinstance(result, Failure) else None

    def message(self, code: MessageCode, function: int) -> bool:
        """Send a message upstream; return whether it was delivered."""
        self.endpoint.submit(Message(header=Header(requester_of(function)), code=code))
        return self._post(Direction.UPSTREAM)

    def send_error(self, code: MessageCode, function: int) -> None:
        """Send an error message upstream with the packets of this or the next request; lost if the link is down."""
        if self._up:
            self.endpoint.submit(Message(header=Header(requester_of(function)), code=code))

    def flush(self, way: Direction) -> bool:
        """Deliver the posted packets that were sent so far; return whether they were delivered."""
        return self._post(way)

    def _header(self, way: Direction, function: int) -> Header:
        return Header(ROOT if way is Direction.DOWNSTREAM else requester_of(function))

    def _finish(self, port: Port, transfer: Transfer) -> bytes | Failure:
        if not self._up:
            port.requests.lose()
            return Failure.LINK_DOWN
        port.issue()
        self._run(lambda: transfer.done)
        return transfer.result if transfer.done else Failure.LINK_DOWN

    def _post(self, way: Direction) -> bool:
        port, other = self.ports[way], self.ports[OPPOSITE[way]]
        if not self._up:
            port.lose()
            return False
        sent, lives = port.posted_sent, self.lives
        return self._run(lambda: other.posted_received >= sent and self.lives == lives)

    # Time

    def _clock(self) -> float:
        return self.now

    def _run(self, done: Callable[[], bool]) -> bool:
        """Run the wire until ``done``; return False if the link went down before."""
        lives = self.lives
        self._note_progress()
        while not done():
            if not self._up or self.lives != lives:
                return False
            if self.now - self._progress > STUCK or self._fruitless > FRUITLESS:
                self._surprise()
                return False
            self._step()
        while self._resetting and self._up:  # a reset that a fault began
            self._step()
        return True

    def _step(self) -> None:
        """Send what can be sent; if there is nothing, let time pass until something happens."""
        sent = False
        for port, channel, _ in self._ways:
            if port.retrain_wanted:
                port.retrain_wanted = False
                self._fruitless += 1
                self._move(port, TrainingEvent.RETRAIN)
            if channel.free_at <= self.now and (not port.idle or port.ready <= self.now):
                frame = port.take()
                port.idle = frame is None
                if frame is not None:
                    channel.send(frame, self.now)
                    self._timers = min(self._timers, port.deadline)
                    sent = True
        if not sent:
            self._pass()

    def _pass(self) -> None:
        now = self._timers
        for port, channel, _ in self._ways:
            sends = channel.free_at if channel.free_at > self.now else port.ready
            now = min(now, sends, channel.next_arrival)
        self.now = now = max(self.now, now)
        for _, channel, other in self._ways:
            while channel.next_arrival <= now:
                self._receive(other, channel.arrive())
        if now >= self._timers:
            self._expire()
        if self._up and any(port.training.state is TrainingState.DETECT for port, _, _ in self._ways):
            self._lost()

    def _receive(self, port: Port, frame: bytes) -> None:
        delivered = port.delivered
        port.idle = False
        port.receive(frame)
        self._timers = min(self._timers, port.deadline)
        if port.delivered != delivered:
            self._note_progress()

    def _expire(self) -> None:
        for port in self.ports.values():
            if port.deadline <= self.now:
                port.idle = False
                port.expire()
        self._timers = min(port.deadline for port in self.ports.values())

    def _note_progress(self) -> None:
        self._progress, self._fruitless = self.now, 0

    def _lost(self) -> None:
        if self._resetting:
            self.take_down()
        else:
            self._surprise()
