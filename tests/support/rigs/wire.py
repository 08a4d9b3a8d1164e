"""A wire between two ends that are memory, and an observer of what crosses it."""

from __future__ import annotations

from collections import deque
from random import Random

from rings.memory import Addr
from vnet.link.base import Direction, Link, Region
from vnet.link.tlp import PcieParameters
from vnet.link.wire.completer import EndpointCompleter, RootCompleter, requester_of
from vnet.link.wire.errors import DetectedError, WireError
from vnet.link.wire.impairments import Impairments, WireRule
from vnet.link.wire.port import Port
from vnet.link.wire.wire import Wire

DOWN, UP = Direction.DOWNSTREAM, Direction.UPSTREAM
SIZE = 1 << 18


class Observer:
    """Compares delivered TLPs with those that were sent: each once, and in order. It knows no sequence numbers."""

    def __init__(self) -> None:
        self.under_way: dict[Direction, deque[bytes]] = {DOWN: deque(), UP: deque()}
        self.delivered = 0

    def lose(self) -> None:
        """Forget what was under way: the link went down."""
        for packets in self.under_way.values():
            packets.clear()

    def __call__(self, direction: Direction, delivered: bool, packet: bytes) -> None:
        """Take a packet that the port of a ``direction`` sends, or that was delivered to it."""
        if not delivered:
            self.under_way[direction].append(packet)
            return
        other = UP if direction is DOWN else DOWN
        assert self.under_way[other], "a TLP arrived that was not sent, or once more"
        assert self.under_way[other].popleft() == packet, "a TLP arrived out of order"
        self.delivered += 1


class MemoryEnd:
    """An end with `SIZE` bytes of memory, and a register of 4 bytes behind them."""

    def __init__(self) -> None:
        self.memory = bytearray(SIZE)
        self.register = 0
        self.config = bytearray(4096)
        self.log: list[str] = []

    def mem_read(self, addr: int, size: int, function: int) -> int | None:
        return self.register if addr == SIZE and size == 4 else None

    def mem_write(self, addr: int, size: int, value: int, function: int) -> bool:
        if addr != SIZE or size != 4:
            return False
        self.register = value
        self.log.append(f"register {value:#x} of function {function}")
        return True

    def regions(self, addr: int, size: int, function: int) -> list[Region]:
        end = min(addr + size, SIZE)
        return [(Addr(addr), memoryview(self.memory)[addr:end])] if addr < end else []

    def beyond(self, addr: int, size: int) -> list[tuple[Link, Direction]]:
        return []

    def config_read(self, function: int, offset: int, size: int) -> int | None:
        return None if function else int.from_bytes(self.config[offset : offset + size], "little")

    def config_write(self, function: int, offset: int, size: int, value: int) -> bool:
        self.config[offset : offset + size] = value.to_bytes(size, "little")
        return not function

    def intx(self, function: int, asserted: bool) -> None:
        self.log.append(f"INTx {asserted} of function {function}")

    def removed(self) -> None: ...

    def link_up(self) -> None: ...

    def link_down(self) -> None: ...


class WireBench:
    """A trained wire between two such ends."""

    def __init__(
        self,
        *rules: WireRule,
        seed: int = 0,
        parameters: PcieParameters = PcieParameters(),  # noqa: B008 - it is frozen
        train: bool = True,
    ) -> None:
        self.root, self.endpoint = MemoryEnd(), MemoryEnd()
        self.observer = Observer()
        self.reported: list[tuple[Direction, WireError, bytes]] = []
        self.impairments = Impairments((), Random(seed))
        payload, boundary = parameters.max_payload, parameters.completion_boundary
        self.wire = Wire(
            RootCompleter(self.root, 0, payload, boundary),
            EndpointCompleter(self.endpoint, requester_of(0), payload, boundary),
            parameters,
            self.impairments,
            self,
        )
        if train:
            assert self.wire.train()
        self.impairments.set(rules)

    @property
    def errors(self) -> list[WireError]:
        return [error for _, error, _ in self.reported]

    def train(self) -> None:
        self.observer.lose()
        assert self.wire.train()

    # PortEvents

    def error(self, port: Port, problem: DetectedError) -> None:
        self.reported.append((port.direction, problem.error, problem.header))

    def tlp(self, port: Port, delivered: bool, packet: bytes) -> None:
        self.observer(port.direction, delivered, packet)
