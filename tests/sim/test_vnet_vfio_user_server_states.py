"""Any message in any state of a vfio-user session, by several clients one after another, as a state machine."""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, ClassVar, TypeVar

import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from drivers.carriers.framing import ProtocolError
from drivers.errors import TransportLost
from drivers.transports.pci.registers import Common
from rings.status import Status
from support.rigs.vfio_user import MIB, C, Client, open_bench, plug
from vnet.linux.ipc import socket_pair
from vnet.vfio_user.accesses import RegionRead, RegionWrite
from vnet.vfio_user.constants import IrqSet, Region
from vnet.vfio_user.messages import emit
from vnet.vfio_user.payloads import DeviceInfo, DmaMap, DmaUnmap, RegionInfo, SetIrqs

T = TypeVar("T")
EXPECTED = TransportLost, ProtocolError
"""Errors of connections."""
PARTS = 4
PART = MIB // PARTS
ELSEWHERE = 1 << 40
"""Address of memory that no ring uses, which clients do not share."""
FLOORS = {
    "clients": 20,
    "refused before a version": 1,
    "gone in the middle of a message": 3,
    "second client refused": 3,
    "disk works": 3,
    "disk works after memory was mapped again": 2,
    "disk works in a later session": 1,
    "rings broken": 1,
    "mapping refused": 5,
    "end of a mapping refused": 4,
    "reset while running": 2,
    "access refused": 5,
    "anything": 15,
}
COMMANDS = st.sampled_from(sorted(C))
parts = st.integers(0, PARTS - 1)


class Sessions(RuleBasedStateMachine):
    """A disk with clients. The server is in a thread with an event loop; each rule is one step of a client."""

    explored: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.client: Client | None = None
        self.agreed = False
        self.mapped: set[int] = set()
        self.elsewhere = False
        self.running = False
        """Whether the disk's driver set it up, and nothing may have broken its rings."""
        self.remapped = False
        self.sessions = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        assert self._ready.wait(60)

    async def _main(self) -> None:
        self._token, self._end = trio.lowlevel.current_trio_token(), trio.Event()
        async with open_bench(plug()) as self.bench:
            self._ready.set()
            await self._end.wait()
            await self._leave()
            await self.bench.serves_another()

    def run(self, step: Callable[[], Awaitable[T]]) -> T:
        async def bounded() -> T:
            with trio.fail_after(60):
                return await step()

        return trio.from_thread.run(bounded, trio_token=self._token)

    def teardown(self) -> None:
        self._token.run_sync_soon(self._end.set)
        self._thread.join()
        assert not [error for error in self.bench.errors if not isinstance(error, EXPECTED)]

    async def _leave(self) -> None:
        client, self.client = self.client, None
        if client is not None:
            client.close()
        while self.bench.server.connected:  # noqa: ASYNC110  there is nothing else to wait for
            await trio.sleep(0.001)
        self.agreed = self.running = self.remapped = self.elsewhere = False
        self.mapped.clear()

    async def _ask(self, command: int, payload: Any = None, given: tuple[int, ...] = ()) -> int:
        """Return the errno of a command."""
        assert self.client is not None
        answer = await self.client.ask(command, payload, given)
        for handle in answer.handles:
            handle.close()
        if command not in (C.DMA_MAP, C.DMA_UNMAP) and self.running and len(self.mapped) < PARTS:
            self.running = False  # the device saw that memory of its rings is gone
        return answer.error

    async def _ask_until_refused(self, command: int) -> None:
        while True:
            assert await self._ask(command)

    # Sessions

    @precondition(lambda self: self.client is None)
    @rule()
    def connect(self) -> None:
        async def step() -> None:
            ours, theirs = socket_pair()
            self.bench.nursery.start_soon(self.bench.converse, theirs)
            self.client = Client(ours)

        self.run(step)
        self.sessions += 1
        self.explored["clients"] += 1

    @precondition(lambda self: self.client is not None and not self.agreed)
    @rule()
    def agree(self) -> None:
        assert self.client is not None
        self.run(self.client.agree)
        self.agreed = True

    @precondition(lambda self: self.client is not None and not self.agreed)
    @rule(command=st.sampled_from(sorted(set(C) - {C.VERSION})))
    def speak_too_early(self, command: int) -> None:
        async def step() -> None:
            with pytest.raises((EOFError, TransportLost)):
                await self._ask_until_refused(command)
            await self._leave()

        self.run(step)
        self.explored["refused before a version"] += 1

    @precondition(lambda self: self.client is not None)
    @rule(size=st.sampled_from((0, 1, 15, 16, 40)))
    def hang_up(self, size: int) -> None:
        async def step() -> None:
            assert self.client is not None
            with suppress(TransportLost):
                await self.client.send(emit(1, C.DMA_MAP, self.client.mapping())[:size], [self.client.memory.fd])
            await self._leave()

        self.run(step)
        self.explored["gone in the middle of a message"] += size > 0

    @precondition(lambda self: self.agreed)
    @rule()
    def another_client(self) -> None:
        async def step() -> None:
            async with self.bench.another() as other:
                with pytest.raises((EOFError, TransportLost)):
                    await other.agree()

        self.run(step)
        self.explored["second client refused"] += 1

    # Memory

    @precondition(lambda self: self.agreed)
    @rule(part=parts)
    def map(self, part: int) -> None:
        client = self.client
        assert client is not None
        request = client.mapping(part * PART, PART)
        error = self.run(lambda: self._ask(C.DMA_MAP, request, (client.memory.fd,)))
        assert error == (errno.EEXIST if part in self.mapped else 0)
        self.explored["mapping refused"] += error != 0
        self.remapped |= self.running and not error
        self.mapped.add(part)

    def map_the_rest(self) -> None:
        for part in set(range(PARTS)) - self.mapped:
            self.map(part)

    @precondition(lambda self: self.agreed)
    @rule(part=parts)
    def unmap(self, part: int) -> None:
        assert self.client is not None
        request = DmaUnmap(24, 0, self.client.memory.base + part * PART, PART)
        error = self.run(lambda: self._ask(C.DMA_UNMAP, request))
        assert error == (0 if part in self.mapped else errno.ENOENT)
        self.explored["end of a mapping refused"] += error != 0
        self.mapped.discard(part)

    @precondition(lambda self: self.agreed)
    @rule()
    def map_and_use(self) -> None:
        """Memory is unmapped and mapped again while rings run."""
        if self.running and len(self.mapped) == PARTS:
            for part in range(PARTS):
                self.unmap(part)
            self.use()

    @precondition(lambda self: self.agreed)
    @rule()
    def unmap_all(self) -> None:
        assert not self.run(lambda: self._ask(C.DMA_UNMAP, DmaUnmap(24, 2, 0, 0)))
        self.mapped.clear()
        self.elsewhere = False

    @precondition(lambda self: self.agreed)
    @rule()
    def map_without_a_descriptor(self) -> None:
        error = self.run(lambda: self._ask(C.DMA_MAP, DmaMap(32, 3, 0, ELSEWHERE, PART)))
        assert error == (errno.EEXIST if self.elsewhere else 0)
        self.elsewhere = True

    # The disk

    @precondition(lambda self: self.agreed)
    @rule()
    def bring_up(self) -> None:
        assert self.client is not None
        self.map_the_rest()
        self.run(self.client.bring_up)
        self.running, self.remapped = True, False

    @precondition(lambda self: self.client is None)
    @rule()
    def connect_and_bring_up(self) -> None:
        self.connect()
        self.agree()
        self.bring_up()

    @precondition(lambda self: self.running)
    @rule()
    def use(self) -> None:
        assert self.client is not None
        self.map_the_rest()
        self.run(self.client.works)
        self.explored["disk works"] += 1
        self.explored["disk works after memory was mapped again"] += self.remapped
        self.explored["disk works in a later session"] += self.sessions > 1

    @precondition(lambda self: self.running)
    @rule()
    def kick_without_memory(self) -> None:
        """The rings are in the first part."""
        if 0 in self.mapped:
            self.unmap(0)

        async def step() -> None:
            assert self.client is not None
            while not await self.client.get(Common.DEVICE_STATUS) & Status.NEEDS_RESET:
                await self.client.ring_doorbell()

        self.run(step)
        self.running = False
        self.explored["rings broken"] += 1

    @precondition(lambda self: self.agreed)
    @rule()
    def reset(self) -> None:
        assert not self.run(lambda: self._ask(C.DEVICE_RESET))
        self.explored["reset while running"] += self.running
        self.running = False

    # Everything else

    @precondition(lambda self: self.agreed)
    @rule(region=st.integers(0, 9), offset=st.sampled_from((0, 1, 0x40, 0xFFF, 1 << 40)), count=st.integers(1, 9))
    def read(self, region: int, offset: int, count: int) -> None:
        """The function has two BARs of 16 KiB at most, whose registers have no effect when they are read."""
        error = self.run(lambda: self._ask(C.REGION_READ, RegionRead(offset, region, count)))
        fits = region == Region.CONFIG and offset + count <= 1 << 12
        assert not fits or error == 0
        assert error or offset < 1 << 40
        self.explored["access refused"] += error != 0

    @precondition(lambda self: self.agreed)
    @rule(start=st.integers(0, 9), count=st.integers(0, 9), index=st.integers(0, 5))
    def trigger(self, start: int, count: int, index: int) -> None:
        flags = IrqSet.NONE | IrqSet.TRIGGER
        if count:
            self.run(lambda: self._ask(C.DEVICE_SET_IRQS, SetIrqs(20, flags, index, start, count)))

    @precondition(lambda self: self.agreed)
    @rule(region=st.integers(0, 10))
    def look(self, region: int) -> None:
        assert not self.run(lambda: self._ask(C.DEVICE_GET_INFO, DeviceInfo(16, 0, 0, 0)))
        error = self.run(lambda: self._ask(C.DEVICE_GET_REGION_INFO, RegionInfo(32, 0, region, 0, 0, 0)))
        assert bool(error) == (region > Region.VGA)

    @precondition(lambda self: self.agreed)
    @rule(command=COMMANDS, body=st.binary(max_size=48), descriptors=st.integers(0, 2))
    def anything(self, command: int, body: bytes, descriptors: int) -> None:
        """Whatever it did, the driver starts anew."""
        client = self.client
        assert client is not None
        given = (client.memory.fd, client.call_fd)[:descriptors]
        error = self.run(lambda: self._ask(command, body, given))
        self.explored["anything"] += 1
        if not error:
            self.running = False
            self.unmap_all()

    @precondition(lambda self: self.agreed)
    @rule(data=st.binary(min_size=1, max_size=8), offset=st.integers(0, 64))
    def write_configuration(self, data: bytes, offset: int) -> None:
        self.run(lambda: self._ask(C.REGION_WRITE, RegionWrite(offset, Region.CONFIG, data)))
        self.running = False  # it may have turned bus mastering off

    @invariant()
    def the_server_knows_what_the_client_knows(self) -> None:
        if self.agreed:
            assert self.bench.server.memory.mappings == len(self.mapped) + self.elsewhere
            assert self.bench.server.connected
        elif self.client is None:
            assert not self.bench.server.connected
            assert self.bench.server.memory.mappings == 0


@pytest.mark.hostile("W14")
@pytest.mark.timeout(600)
def test_any_message_in_any_state_leaves_the_session_as_the_model_says() -> None:
    Sessions.explored.clear()
    run_state_machine_as_test(
        Sessions,
        settings=settings(
            max_examples=40, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    too_few = {what: Sessions.explored[what] for what, floor in FLOORS.items() if Sessions.explored[what] < floor}
    assert not too_few, f"the run explored too little: {too_few}, at least {FLOORS} expected"
