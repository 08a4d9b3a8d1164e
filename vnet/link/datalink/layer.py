"""The data link layer of one port: frames in, frames out, TLPs once and in order between them (PCI Express 3).

Time is a number of nanoseconds that the caller hands in; `DataLink.deadline` says when `DataLink.expire` is due,
and `DataLink.ready` when `DataLink.take` has more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import Enum

import attrs

from vnet.link.datalink import dllps
from vnet.link.datalink.acknowledge import Acknowledger
from vnet.link.datalink.credits import GrantedCredits, UsableCredits
from vnet.link.datalink.dllps import Ack, CreditPhase, FlowControl
from vnet.link.datalink.errors import BadFrame, DataLinkError
from vnet.link.datalink.frames import SequencedTlp, frame_dllp, open_frame
from vnet.link.datalink.replay import ReplayBuffer
from vnet.link.transaction.flow import Credits, Flow, Taken, taken_by

__all__ = ["DataLink", "DataLinkState", "DataLinkTimes"]


class DataLinkState(Enum):
    """State of the layer (3.2.1). The two kinds of INIT are FC_INIT1 and FC_INIT2."""

    INACTIVE = "inactive"
    INIT1 = "credits, first phase"
    INIT2 = "credits, second phase"
    ACTIVE = "active"


PHASES = {DataLinkState.INIT1: CreditPhase.INIT1, DataLinkState.INIT2: CreditPhase.INIT2}


@attrs.frozen
class DataLinkTimes:
    """Times in nanoseconds."""

    ack_latency: int
    """Longest time from a TLP to its Ack (3.6.3.1)."""
    replay_timeout: int
    """Time without progress after which TLPs are sent again (3.6.2.1)."""
    credit_interval: int = 30_000
    """Time between repetitions of InitFC and UpdateFC DLLPs (3.4.2, 2.6.1.2)."""
    credit_timeout: int = 200_000
    """Time without an InitFC or UpdateFC after which the link is retrained (2.6.1.2)."""


class DataLink:
    """One port's layer. `report` takes errors; `retrain` is called if the link must be retrained."""

    def __init__(
        self,
        times: DataLinkTimes,
        granted: Mapping[Flow, Credits],
        *,
        report: Callable[[DataLinkError], None],
        retrain: Callable[[], None],
        room: int = 512,
    ) -> None:
        """``granted`` are the credits of this port's receiver, ``room`` the TLPs of its replay buffer."""
        self._times = times
        self._granted_at_first = granted
        self._room = room
        self._report = report
        self._retrain = retrain
        self.state = DataLinkState.INACTIVE
        self._repeated = self._duplicates = 0
        """Those of earlier lives of the link."""
        self._clear()

    def _clear(self) -> None:
        self.sender = ReplayBuffer(self._times.replay_timeout, self._room)
        self.receiver = Acknowledger(self._times.ack_latency)
        self.usable = UsableCredits()
        self.granted = GrantedCredits(self._granted_at_first)
        self._dllps: list[FlowControl] = []
        self._repeat: float = math.inf
        """Time at which InitFC or UpdateFC DLLPs are repeated."""
        self._silence: float = math.inf
        """Time at which the other end's credits are overdue."""

    # The physical layer

    def link_up(self, now: float) -> None:
        """Begin to initialise credits; harmless after a retrain."""
        if self.state is DataLinkState.INACTIVE:
            self._enter(DataLinkState.INIT1, now)

    def link_down(self) -> None:
        """Forget all that is under way."""
        self.state = DataLinkState.INACTIVE
        self._repeated, self._duplicates = self.repeated, self.duplicates
        self._clear()

    def receive(self, frame: bytes, now: float) -> bytes | None:
        """Take a frame from the link; return the TLP in it if it is the next one."""
        if self.state is DataLinkState.INACTIVE:
            return None
        try:
            content = open_frame(frame)
            if isinstance(content, SequencedTlp):
                return self._receive_tlp(content, now)
            if content is not None:
                self._receive_dllp(dllps.parse(content), now)
        except BadFrame as bad:
            self._report(bad.error)
            if bad.error is DataLinkError.BAD_TLP and self.state is DataLinkState.ACTIVE:
                self.receiver.refuse(now)
        return None

    def take(self, now: float) -> bytes | None:
        """Return the next frame for the link; None if there is none. Acks precede credits, replays, and new TLPs."""
        if self._dllps:
            return frame_dllp(dllps.emit(self._dllps.pop(0)))
        if self.state is not DataLinkState.ACTIVE:
            return None
        ack = self.receiver.take(now)
        if ack is not None:
            return frame_dllp(dllps.emit(ack))
        flow = self.granted.urgent
        if flow is not None:
            return frame_dllp(dllps.emit(self.granted.update(flow)))
        return self.sender.take(now) if self.sender.waiting else None

    @property
    def deadline(self) -> float:
        """Time at which `expire` is due."""
        return min(self.sender.deadline, self._repeat, self._silence)

    @property
    def ready(self) -> float:
        """Time at which `take` has an acknowledgement."""
        return self.receiver.deadline

    def expire(self, now: float) -> None:
        """Do what is due."""
        if now >= self._repeat:
            self._repeat_credits(now)
        if now >= self._silence:
            self._silence = now + self._times.credit_timeout
            self._retrain()
        if now >= self.sender.deadline:
            self._report(DataLinkError.REPLAY_TIMEOUT)
            self._replayed(self.sender.replay())

    def postpone(self, by: float) -> None:
        """Move all deadlines: no timer ran while the link was retrained."""
        self.sender.deadline += by
        self.receiver.deadline += by
        self._repeat += by
        self._silence += by

    # The transaction layer

    @property
    def repeated(self) -> int:
        """TLPs that were sent again."""
        return self._repeated + self.sender.repeated

    @property
    def duplicates(self) -> int:
        """TLPs that arrived again, and were dropped."""
        return self._duplicates + self.receiver.duplicates

    @property
    def active(self) -> bool:
        return self.state is DataLinkState.ACTIVE

    def accepts(self, packet: bytes) -> bool:
        """Return whether a TLP can be sent now: there are credits, and room in the replay buffer."""
        return self.active and self.sender.room and self.usable.suffice(taken_by(packet))

    def send(self, packet: bytes) -> None:
        """Send a TLP, which must be accepted."""
        self.usable.take(taken_by(packet))
        self.sender.add(packet)

    def free(self, taken: Taken) -> None:
        """Grant the credits of a received TLP again."""
        self.granted.free(taken)

    # Inside

    def _enter(self, state: DataLinkState, now: float) -> None:
        self.state = state
        self._silence = now + self._times.credit_timeout
        self._repeat_credits(now)

    def _repeat_credits(self, now: float) -> None:
        self._repeat = now + self._times.credit_interval
        if self.state is DataLinkState.ACTIVE:
            self._dllps = [self.granted.update(flow) for flow in self.granted.limited]
        else:
            self._dllps = list(self.granted.first(PHASES[self.state]))

    def _receive_tlp(self, content: SequencedTlp, now: float) -> bytes | None:
        if self.state is DataLinkState.INIT1:
            return None
        if self.state is DataLinkState.INIT2:  # the other end has all credits (3.4.1)
            self._enter(DataLinkState.ACTIVE, now)
        packet = self.receiver.accept(content, now)
        if packet is not None:
            error = self.granted.arrive(taken_by(packet))
            if error is not None:
                self._report(error)
                return None
        return packet

    def _receive_dllp(self, packet: dllps.Dllp | None, now: float) -> None:
        if isinstance(packet, FlowControl):
            self._receive_credits(packet, now)
        elif isinstance(packet, Ack) and self.state is DataLinkState.ACTIVE:
            rolled_over = self.sender.acknowledge(packet, now)
            if rolled_over is None:
                self._report(DataLinkError.PROTOCOL)
            else:
                self._replayed(rolled_over)

    def _receive_credits(self, packet: FlowControl, now: float) -> None:
        self._silence = now + self._times.credit_timeout
        if packet.phase is CreditPhase.UPDATE:
            if self.state is DataLinkState.INIT2:
                self._enter(DataLinkState.ACTIVE, now)
            if self.state is DataLinkState.ACTIVE and (error := self.usable.update(packet)) is not None:
                self._report(error)
            return
        if self.state is DataLinkState.INIT1:
            self.usable.initialise(packet)
            if self.usable.complete:
                self._enter(DataLinkState.INIT2, now)
        elif self.state is DataLinkState.INIT2 and packet.phase is CreditPhase.INIT2:
            self._enter(DataLinkState.ACTIVE, now)

    def _replayed(self, rolled_over: bool) -> None:
        if rolled_over:
            self._report(DataLinkError.REPLAY_ROLLOVER)
            self._retrain()
