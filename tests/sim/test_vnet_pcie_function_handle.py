"""BAR accesses to a function, and words that an endpoint writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rings.memory import Addr
from support.rigs.pcie import HEADER, Registers, World, world
from vnet.link.base import Direction
from vnet.link.ideal import IdealLink
from vnet.linux.memory import HostMemory
from vnet.pcie.config_space import PciCommand
from vnet.pcie.epc import EndpointController
from vnet.pcie.rc import RootComplex

__all__ = ["world"]  # a fixture


TABLE = 0x2000


@pytest.mark.virtio("PCI-DEV-1")
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(-2, 0x1010), st.sampled_from((1, 2, 4, 8)), st.integers(0, (1 << 64) - 1)),
        max_size=80,
    )
)
def test_bar_accesses_match_a_bytearray(accesses: list[tuple[bool, int, int, int]]) -> None:
    link = IdealLink()
    epc = EndpointController(link)
    memory = HostMemory(4096)
    rc = RootComplex(memory)
    rc.attach(link)
    epc.set_header(0, HEADER)
    epc.set_bar(0, 2, 0x1000, Registers(0x1000))
    epc.start()
    (function,) = rc.functions
    model = bytearray(0x1000)
    for write, offset, size, word in accesses:
        inside = 0 <= offset <= 0x1000 - size
        value = word & (1 << 8 * size) - 1
        if write:
            function.bar_write(2, offset, size, value)
            if inside:
                model[offset : offset + size] = value.to_bytes(size, "little")
        else:
            expected = int.from_bytes(model[offset : offset + size], "little") if inside else (1 << 8 * size) - 1
            assert function.bar_read(2, offset, size) == expected
    assert bytes(model) == b"".join(function.bar_read(2, at, 8).to_bytes(8, "little") for at in range(0, 0x1000, 8))
    memory.close()


@pytest.mark.hostile("L09")
def test_unanswered_requests_read_all_ones_write_nothing_and_are_counted(world: World) -> None:
    world.epc.start()
    function = world.function
    before = world.link.statistics()
    address = function.bars[0].address
    assert world.link.config_read(5, 0, 4) == 0xFFFFFFFF
    world.link.config_write(5, 4, 2, 6)
    for addr, size in ((0, 4), (address - 1, 2), (address + 0x3FFF, 2), (address + 0x4000, 8)):
        assert world.link.mem_read(Direction.DOWNSTREAM, addr, size) == (1 << 8 * size) - 1
        world.link.mem_write(Direction.DOWNSTREAM, addr, size, 0)
    function.config_write(4, 2, PciCommand.BUS_MASTER)  # memory decoding off
    assert function.bar_read(0, 0, 4) == 0xFFFFFFFF
    function.bar_write(0, 0, 4, 0x12345678)
    after = world.link.statistics()
    assert after.config.unsupported - before.config.unsupported == 2
    assert after.downstream.unsupported - before.downstream.unsupported == 10
    assert after.upstream.unsupported == 0
    assert not any(world.registers.data)
    for addr in (0x3FFF_FFFF, 0x4010_0000, address):  # from the endpoint: not RAM
        assert world.link.mem_read(Direction.UPSTREAM, addr, 4) == 0xFFFFFFFF
        world.link.mem_write(Direction.UPSTREAM, addr, 4, 0)
    assert world.link.statistics().upstream.unsupported == 6


def test_an_endpoint_may_write_words_to_ram(world: World) -> None:
    world.epc.start()
    world.link.mem_write(Direction.UPSTREAM, 0x4000_0010, 4, 0x11223344)
    assert world.link.mem_read(Direction.UPSTREAM, 0x4000_0010, 2) == 0x3344
    assert bytes(world.memory.view(Addr(0x4000_0010), 4)) == b"\x44\x33\x22\x11"
