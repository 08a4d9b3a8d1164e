"""A link whose requests travel as packets: the ideal link's state and windows, with a wire between its ends."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from drivers.contracts.events import NO_EVENTS, Events, LinkErrorDetected, Source
from vnet.link.agenda import Agenda
from vnet.link.base import Direction, EndpointPort, RootPort
from vnet.link.ideal import IdealLink
from vnet.link.remote_memory import Copies
from vnet.link.timed import NS
from vnet.link.tlp import PcieParameters
from vnet.link.transaction.fields import MessageCode
from vnet.link.wire.carried import carried
from vnet.link.wire.channel import Channel
from vnet.link.wire.completer import EndpointCompleter, RootCompleter, function_of, requester_of
from vnet.link.wire.ends import WiredEndpoint, WiredRoot
from vnet.link.wire.errors import SEVERITIES, DetectedError
from vnet.link.wire.impairments import Impairments
from vnet.link.wire.port import Port
from vnet.link.wire.wire import COMPLETION_TIMEOUT, Wire
from vnet.link.wrapper import LinkWrapper
from vnet.views.link import LinkStatistics, WireDirection, WireStatistics

__all__ = ["RETRY", "WireLink"]

RETRY = 0.01
"""Seconds until a link that was lost, or that did not come up, is trained again."""
PORTS = {Direction.DOWNSTREAM: "root", Direction.UPSTREAM: "endpoint"}
"""Ports by the direction of their packets."""
DEFAULTS = PcieParameters()
Tap = Callable[[Direction, bool, bytes], None]
"""Takes each TLP: its direction, whether it was delivered (else it is sent for the first time), and its bytes."""


class WireLink(LinkWrapper):
    """``run`` must be running, or a link that was lost stays down.

    The requests of a call are delivered and answered when it returns. They take time on the wire's own clock only; a
    timed link around this one makes its users wait.
    """

    def __init__(
        self,
        name: str = "link",
        parameters: PcieParameters = DEFAULTS,
        impairments: Impairments | None = None,
        *,
        lossy: bool = False,
        timeout: float = COMPLETION_TIMEOUT,
        tap: Tap | None = None,
        events: Events = NO_EVENTS,
    ) -> None:
        """``timeout`` is that of completions, in nanoseconds on the wire's clock."""
        super().__init__(IdealLink(name, lossy=lossy))
        self.parameters = parameters
        self.impairments = impairments or Impairments()
        self._timeout = timeout
        self.tap = tap
        self._reports = events
        self._sinks: dict[Direction, Callable[[DetectedError], None]] = {}
        self._messages: Callable[[MessageCode, int], None] | None = None
        self._digests: dict[Direction, tuple[bool, bool]] = {}
        self._copies = Copies()
        self._agenda = Agenda()
        self._root: RootPort | None = None
        self._endpoint: EndpointPort | None = None
        self.wire: Wire | None = None
        """None until both ends are attached."""
        self._reachable = True
        self._enabled = True
        self._linked = False
        """The ideal link counts the endpoint as reachable."""
        self._planned = False

    # Ends and state

    def attach_root(self, port: RootPort) -> None:
        """Raises ValueError if the end is taken."""
        if self._root is not None:
            raise ValueError(f"link {self.name} has a root port already")
        self._root = port
        self._join()

    def attach_endpoint(self, port: EndpointPort) -> None:
        """Raises ValueError if the end is taken."""
        if self._endpoint is not None:
            raise ValueError(f"link {self.name} has an endpoint already")
        self._endpoint = port
        self._join()

    def _join(self) -> None:
        root, endpoint, parameters = self._root, self._endpoint, self.parameters
        if root is None or endpoint is None:
            return
        payload, boundary = parameters.max_payload, parameters.completion_boundary
        self.wire = wire = Wire(
            RootCompleter(root, 0, payload, boundary, self),
            EndpointCompleter(endpoint, requester_of(0), payload, boundary),
            parameters,
            self.impairments,
            self,
            timeout=self._timeout,
        )
        self._apply_digests()
        self.inner.set_reachable(False)
        self.inner.attach_root(WiredRoot(wire, Direction.UPSTREAM, root, self._copies, self._follow))
        self.inner.attach_endpoint(WiredEndpoint(wire, Direction.DOWNSTREAM, endpoint, self._copies, self._follow))
        self._follow()

    def set_present(self, present: bool) -> None:
        self.inner.set_present(present)
        self._follow()

    def set_reachable(self, reachable: bool) -> None:
        self._reachable = reachable
        self._follow()

    def bring_up(self) -> None:
        self._enabled = True
        self.inner.bring_up()
        self._follow()

    def bring_down(self) -> None:
        self._enabled = False
        self.inner.bring_down()
        self._follow()

    @property
    def _wanted(self) -> bool:
        return self.present and self._reachable and self._enabled

    def _follow(self) -> None:
        """Make the ideal link's state follow the wire's, and the wire's what is wanted."""
        wire = self.wire
        if wire is None or (wire.up is self._linked is self._wanted):
            return
        if self._linked and self._wanted:  # the wire was lost
            self._linked = False
            self.inner.set_reachable(False)
            self._plan()
        elif self._wanted:
            self._train()
        else:
            self._linked = False
            wire.take_down()
            self.inner.set_reachable(False)

    def _train(self) -> None:
        wire = self.wire
        if wire is None or not self._wanted or self._linked or self._planned:
            return
        if wire.train():
            self._linked = True
            self.inner.set_reachable(True)
            self._follow()
        else:
            self._plan()

    def _plan(self) -> None:
        """Train the link again after a while."""
        if not self._planned:
            self._planned = True
            self._agenda.plan(trio.current_time() + RETRY, self._retry)

    def _retry(self) -> None:
        self._planned = False
        self._train()

    def retrain(self) -> bool:
        """Retrain the link, with nothing lost; return whether it is up again. It must be up."""
        assert self.wire is not None
        up = self.wire.retrain()
        self._follow()
        return up

    def hot_reset(self) -> None:
        """Reset the link by its root port: the endpoint's functions are reset, and a new epoch begins.

        Harmless while the link is down.
        """
        if self.wire is not None and self.wire.up:
            self.wire.hot_reset()
            self._follow()

    # Link

    async def settle(self) -> None:
        self._copies.flush()
        await self.inner.settle()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._copies.run)
            nursery.start_soon(self.inner.run)
            await self._agenda.run()

    def statistics(self) -> LinkStatistics:
        return attrs.evolve(self.inner.statistics(), wire=self._wire_statistics())

    def _wire_statistics(self) -> WireStatistics | None:
        wire = self.wire
        if wire is None:
            return None
        down, up = (self._direction(wire.ports[way], wire.channels[way]) for way in Direction)
        return WireStatistics(
            state=wire.root.training.state.value,
            time=wire.now * NS,
            lives=wire.lives,
            retrains=max(port.training.retrains for port in wire.ports.values()),
            faults=dict(self.impairments.done),
            downstream=down,
            upstream=up,
        )

    @staticmethod
    def _direction(port: Port, channel: Channel) -> WireDirection:
        return WireDirection(
            tlps=dict(port.tlps),
            frames=channel.frames,
            bytes=channel.bytes,
            replayed=port.datalink.repeated,
            duplicates=port.datalink.duplicates,
            errors=dict(port.errors),
        )

    # ErrorWire

    def watch_errors(self, port: Direction, sink: Callable[[DetectedError], None]) -> None:
        self._sinks[port] = sink

    def watch_error_messages(self, sink: Callable[[MessageCode, int], None]) -> None:
        self._messages = sink

    def send_error(self, code: MessageCode, function: int) -> None:
        wire = self.wire
        if wire is not None and wire.up:
            wire.send_error(code, function)
            self.plan(0.0, self._flush)  # the request during which it is sent may end before

    def _flush(self) -> None:
        if self.wire is not None and self.wire.up:
            self.wire.flush(Direction.UPSTREAM)
            self._follow()

    def set_digests(self, port: Direction, *, generate: bool, check: bool) -> None:
        self._digests[port] = generate, check
        self._apply_digests()

    def _apply_digests(self) -> None:
        if self.wire is None:
            return
        for way, (generate, check) in self._digests.items():
            port = self.wire.ports[way]
            port.generates_digests, port.checks_digests = generate, check

    def plan(self, delay: float, act: Callable[[], None]) -> None:
        self._agenda.plan(trio.current_time() + delay, act)

    # PortEvents, ErrorMessages

    def error(self, port: Port, problem: DetectedError) -> None:
        """Report an error of a port."""
        if (emit := self._reports.links) is not None:
            what = PORTS[port.direction], problem.error.value, SEVERITIES[problem.error].value, problem.header.hex()
            emit(LinkErrorDetected(trio.current_time(), Source(link=self.name), *what))
        sink = self._sinks.get(port.direction)
        if sink is not None:
            sink(problem)

    def error_message(self, code: MessageCode, requester: int) -> None:
        """Report an error message that arrived at the root port."""
        if self._messages is not None:
            self._messages(code, function_of(requester))

    def tlp(self, port: Port, delivered: bool, packet: bytes) -> None:
        """Show a TLP to the tap and to listeners."""
        if (emit := self._reports.tlps) is not None and self.wire is not None:
            # A port delivers what travels against its own packets.
            downstream = (port.direction is Direction.DOWNSTREAM) is not delivered
            clock, source = self.wire.now, Source(link=self.name)
            emit(carried(trio.current_time(), source, packet, downstream=downstream, delivered=delivered, clock=clock))
        if self.tap is not None:
            self.tap(port.direction, delivered, packet)
