"""Cases of network devices: this project's device passes them, and devices with a fault get their verdict."""

from __future__ import annotations

import struct
from collections import deque

import pytest
import trio

from drivers.contracts.ports import ALL_OFFLOADS
from drivers.devices.net import NET, NetPlug
from rings.ids import DeviceId
from support.rigs.checked import check_own, check_watched, unlike
from vnet.check.driver.back import WatchingBack
from vnet.check.driver.clauses import Observations
from vnet.check.driver.devices import WatchedNet
from vnet.check.driver.ring import Chain
from vnet.check.kinds.net import HEADER, RECEIVE
from vnet.check.verdicts import Result, Verdict
from vnet.ports.packet.memory import MemoryPort

MAC = bytes.fromhex("020000000002")


class Reflector(WatchedNet):
    """A network in which each frame comes back, with chosen faults."""

    features = 1 << 15 | 1 << 22  # MRG_RXBUF, MQ

    def __init__(self, seen: Observations, fault: str) -> None:
        super().__init__(seen)
        self.config = bytes(8) + (0 if fault == "pairs" else 1).to_bytes(2, "little")
        self.fault = fault
        self.back = WatchingBack(self, seen)
        self.free: deque[Chain] = deque()

    def serve(self, ring: int, chain: Chain) -> int | None:
        if ring == RECEIVE:
            self.free.append(chain)
            return None
        if self.fault == "keeps" and len(chain.readable) < HEADER + 14:
            return None
        self.reflect(chain.readable[HEADER:])
        return 0

    def reflect(self, frame: bytes) -> None:
        """Put a frame behind a header into as many receive buffers as it needs."""
        receive = self.back.vrings[RECEIVE].ring
        assert receive is not None
        while receive.waiting:  # buffers whose kick is still on its way
            self.free.append(receive.take())
        left = bytes(HEADER) + frame
        used: list[tuple[Chain, int]] = []
        while left and self.free:
            chain = self.free.popleft()
            size = chain.fill(left[: chain.room - (self.fault == "gaps")])
            used.append((chain, size))
            left = left[size:]
        count = struct.pack("<H", len(used) + (self.fault == "count"))
        for at, (chain, size) in enumerate(used):
            if not at:
                chain.writable[0][HEADER - 2 : HEADER] = count
            receive.give(chain.head, size)


async def _check(case: str, fault: str) -> Result:
    return (await check_watched("net", lambda seen: Reflector(seen, fault).back, case))[case]


async def test_this_projects_device_passes() -> None:
    port = MemoryPort(ALL_OFFLOADS, queues=2)
    plug = NetPlug(port, MAC, control=False, pairs=2)

    async def reflect() -> None:
        while True:
            header, frame = await port.receive()
            port.inject(frame, header)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reflect)
        results = await check_own(NET.vhost_driver(lambda device: plug), DeviceId.NET, "net")
        nursery.cancel_scope.cancel()
    assert unlike(results, Verdict.PASS) == {}
    assert results["NET-DEV-3"].seen == "it is 2"
    assert results["NET-DEV-29"].seen == "4 buffers"


async def test_without_a_reflector_receive_buffers_are_not_judged() -> None:
    results = await check_watched("net", lambda seen: WatchingBack(WatchedNet(seen), seen), "NET-DEV-28")
    assert results["NET-DEV-28"].verdict is Verdict.SKIP
    assert "nothing reflects frames" in results["NET-DEV-28"].seen


@pytest.mark.parametrize("case", ["NET-DEV-3", "NET-DEV-28", "NET-DEV-29", "NET-DEV-30", "N01.1"])
async def test_a_reflector_without_a_fault_passes(case: str) -> None:
    result = await _check(case, "")
    assert result.verdict is Verdict.PASS, result


@pytest.mark.parametrize(
    ("fault", "case", "words"),
    [
        ("pairs", "NET-DEV-3", "it is 0"),
        ("count", "NET-DEV-28", "num_buffers is 2"),
        ("count", "NET-DEV-29", "num_buffers is 5, and the frame came in buffers of [256, 256, 256, 244] bytes"),
        ("gaps", "NET-DEV-30", "the frame came in buffers of [255, 255, 255, 247] bytes, and each has 256"),
        ("keeps", "N05.13", "so the descriptors are lost to the driver"),
    ],
)
async def test_a_device_with_a_fault_gets_its_verdict(fault: str, case: str, words: str) -> None:
    result = await _check(case, fault)
    assert result.verdict is Verdict.FAIL, result
    assert words in result.seen
