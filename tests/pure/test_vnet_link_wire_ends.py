"""The ends of a wire as the link inside sees them: accesses of any size, and failures as the errors of a link."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rings.errors import MemoryFault
from support.rigs.wire import DOWN, SIZE, UP, WireBench
from vnet.errors import CompleterAbort, CompletionTimeout, LinkDown, PoisonedData, UnsupportedRequest
from vnet.link.remote_memory import Copies, RemoteRange
from vnet.link.wire.ends import ERRORS, WiredEndpoint, WiredRoot
from vnet.link.wire.errors import Failure
from vnet.link.wire.impairments import WireFault, WireRule


class Ends:
    """Both ends of a wire, and how many requests they have settled."""

    def __init__(self) -> None:
        self.bench = WireBench()
        self.settled = 0
        self.copies = Copies()
        self.root = WiredRoot(self.bench.wire, UP, self.bench.root, self.copies, self._settle)
        self.endpoint = WiredEndpoint(self.bench.wire, DOWN, self.bench.endpoint, self.copies, self._settle)

    def _settle(self) -> None:
        self.settled += 1

    def memory(self, address: int = 0, size: int = 64) -> RemoteRange:
        """Return memory of the root complex."""
        [(base, content)] = self.root.regions(address, size, 0)
        assert base == address
        assert isinstance(content, RemoteRange)
        return content

    def fail(self, fault: WireFault) -> None:
        self.bench.impairments.set([WireRule(fault, nth=[1])])


@pytest.mark.parametrize(("offset", "size", "packets"), [(4, 4, 1), (5, 2, 1), (6, 4, 2), (3, 8, 3)])
def test_configuration_space_is_accessed_by_doublewords(offset: int, size: int, packets: int) -> None:
    ends = Ends()
    data = bytes(range(1, size + 1))
    assert ends.endpoint.config_write(0, offset, size, int.from_bytes(data, "little"))
    assert ends.bench.endpoint.config[:12] == (bytes(offset) + data).ljust(12, b"\0")
    assert ends.endpoint.config_read(0, offset, size) == int.from_bytes(data, "little")
    assert dict(ends.bench.wire.root.tlps) == {"CfgWr": packets, "CfgRd": packets}
    assert ends.settled == 2, "once for each access, however many packets it takes"


def test_a_function_that_does_not_exist_has_no_configuration_space() -> None:
    ends = Ends()
    assert ends.endpoint.config_read(5, 0, 4) is None
    assert not ends.endpoint.config_write(5, 2, 4, 0)
    assert ends.bench.wire.root.tlps["CfgWr"] == 1, "the rest of a write that failed is not sent"


def test_a_register_takes_the_bytes_of_its_size_only() -> None:
    ends = Ends()
    assert ends.endpoint.mem_write(SIZE, 4, 0x1_2345_6789, 2)
    assert ends.bench.wire.read(UP, 0, 4) == bytes(4), "a read the other way, which the wire runs for"
    assert ends.bench.endpoint.log == ["register 0x23456789 of function 0"], "a root complex is no function"
    assert ends.endpoint.mem_read(SIZE, 4, 0) == 0x23456789
    assert ends.endpoint.mem_read(SIZE + 64, 4, 0) is None


def test_each_request_pushes_what_writers_have_changed() -> None:
    ends = Ends()
    view = ends.memory().copy(0, 16, writable=True)
    requests: list[Callable[[], object]] = [
        lambda: ends.endpoint.config_read(0, 0, 4),
        lambda: ends.endpoint.config_write(0, 0, 4, 0),
        lambda: ends.endpoint.mem_read(SIZE, 4, 0),
        lambda: ends.root.mem_write(SIZE, 4, 1, 0),
        lambda: ends.root.intx(0, True),
    ]
    for number, request in enumerate(requests, 1):
        view[0] = number
        request()
        assert ends.bench.root.memory[0] == number


def test_a_writer_of_memory_behind_two_wires_reads_nothing_before_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = Ends(), Ends()
    far.bench.root.memory[8:12] = b"rest"
    monkeypatch.setattr(near.bench.root, "regions", lambda addr, size, _: [(addr, far.memory(addr, size))])
    view = near.memory(8, 4).copy(0, 4, writable=True)
    assert bytes(view) == b"rest"
    assert not near.bench.wire.endpoint.tlps
    assert not far.bench.wire.endpoint.tlps
    assert bytes(near.memory(8, 4).copy(0, 4, writable=False)) == b"rest"
    assert (near.bench.wire.endpoint.tlps["MRd"], far.bench.wire.endpoint.tlps["MRd"]) == (1, 1)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (WireFault.UNANSWERED, CompletionTimeout),
        (WireFault.ABORTED, CompleterAbort),
        (WireFault.POISONED, PoisonedData),
        (WireFault.SURPRISE_DOWNS, LinkDown),
    ],
)
def test_a_failed_read_raises_its_error_after_it_is_settled(fault: WireFault, error: type[MemoryFault]) -> None:
    ends = Ends()
    memory = ends.memory(32, 8)
    ends.fail(fault)
    with pytest.raises(error) as caught:
        memory.copy(0, 8, writable=False)
    assert (caught.value.addr, caught.value.size, ends.settled) == (32, 8, 1)


def test_memory_that_is_gone_since_is_unsupported_and_each_failure_has_an_error() -> None:
    ends = Ends()
    memory = ends.memory(SIZE - 8, 8)
    ends.bench.root.memory = bytearray(8)
    with pytest.raises(UnsupportedRequest):
        memory.copy(0, 8, writable=False)
    assert set(ERRORS) == set(Failure)


def test_a_write_over_a_lost_link_is_refused_at_the_pin() -> None:
    ends = Ends()
    words = ends.memory().pin(0, 4, "H")
    ends.bench.wire.take_down()
    with pytest.raises(LinkDown):
        words[0] = 1
    assert ends.bench.root.memory[0] == 0
