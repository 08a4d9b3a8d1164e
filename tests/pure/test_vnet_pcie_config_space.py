"""The configuration space against the PCI Express Base Specification, register by register."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.contracts.hw import PciHeader
from vnet.pcie.config_space import (
    CAP_MSIX,
    CAP_PCI_EXPRESS,
    CAP_VENDOR,
    Capability,
    ConfigSpace,
    PciCommand,
    msix_capability,
    pci_express_capability,
)
from vnet.views.plain import to_plain

HEADER = PciHeader(0x1AF4, 0x1041, 1, 0x020000, 0x1AF4, 0x0040)


class Notebook:
    """A register block that remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def read(self, offset: int, size: int) -> int:
        self.seen.append(("read", offset, size))
        return 0xA0 + offset

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append(("write", offset, size, value))


@pytest.fixture
def config() -> ConfigSpace:
    config = ConfigSpace(HEADER)
    config.add(pci_express_capability())
    config.set_bar(0, 0x4000)
    config.set_bar(4, 0x1000)
    config.add(msix_capability(3, 4, 0, 0x800))
    return config


@pytest.mark.virtio("PCI-DEV-1")
def test_header_shows_identity_at_every_access_size(config: ConfigSpace) -> None:
    assert config.read(0, 4) == 0x10411AF4
    assert (config.read(0, 2), config.read(2, 2)) == (0x1AF4, 0x1041)
    assert [config.read(at, 1) for at in range(4)] == [0xF4, 0x1A, 0x41, 0x10]
    assert config.read(8, 4) == 0x02000001
    assert config.read(0x2C, 4) == 0x00401AF4
    assert config.read(0x0E, 1) == 0  # type 0, one function
    assert config.read(0x3D, 1) == 1  # INTA
    assert config.read(0x100, 4) == 0  # no extended capabilities


@given(st.lists(st.tuples(st.integers(0, 0x140), st.sampled_from((1, 2, 4)), st.integers(0, 2**32 - 1)), max_size=60))
@pytest.mark.virtio("PCI-DEV-1")
def test_read_only_fields_ignore_any_write(writes: list[tuple[int, int, int]]) -> None:
    config = ConfigSpace(HEADER)
    config.add(pci_express_capability())
    config.add(Capability(CAP_VENDOR, b"\x10\x01\x02\x03"))
    read_only = (0x00, 0x08, 0x2C, 0x30, 0x34, 0x40, 0x44, 0x4C, 0x7C)
    before = [config.read(at, 4) for at in read_only]
    pins = config.read(0x3D, 1), config.read(0x06, 2)
    for offset, size, value in writes:
        config.write(offset, size, value)
    assert [config.read(at, 4) for at in read_only] == before
    assert (config.read(0x3D, 1), config.read(0x06, 2)) == pins
    assert int(config.command) & ~sum(PciCommand) == 0  # the complement of a flag leaves out unknown bits


def test_command_register_has_just_the_bits_of_an_endpoint_without_io(config: ConfigSpace) -> None:
    config.write(4, 2, 0xFFFF)
    assert config.read(4, 2) == 0x0546
    config.write(5, 1, 0)
    assert config.command == PciCommand.MEMORY | PciCommand.BUS_MASTER | PciCommand.PARITY


@pytest.mark.parametrize(
    ("requested", "size"), [(1, 128), (128, 128), (129, 256), (0x3001, 0x4000), (1 << 33, 1 << 33), (1 << 62, 1 << 62)]
)
def test_bar_sizing_gives_the_size_rounded_up_to_a_power_of_two(requested: int, size: int) -> None:
    config = ConfigSpace(HEADER)
    assert config.set_bar(2, requested) == size
    for at in (0x18, 0x1C):
        config.write(at, 4, 0xFFFFFFFF)
    mask = config.read(0x18, 4) | config.read(0x1C, 4) << 32
    assert mask & 0xF == 4  # 64-bit, not prefetchable
    assert (~(mask & ~0xF) & (1 << 64) - 1) + 1 == size
    address = 0x7700_0000_0000_0000 & -size
    config.write(0x18, 4, address & 0xFFFFFFFF | 0xF)
    config.write(0x1C, 4, address >> 32)
    (bar,) = config.bars
    assert (bar.index, bar.address, bar.size) == (2, address, size)


def test_absent_bars_read_zero_after_sizing(config: ConfigSpace) -> None:
    for at in (0x18, 0x1C, 0x30):
        config.write(at, 4, 0xFFFFFFFF)
        assert config.read(at, 4) == 0


@pytest.mark.parametrize("bar", [-1, 0, 1, 3, 4, 5])
def test_a_64_bit_bar_needs_two_free_registers(config: ConfigSpace, bar: int) -> None:
    with pytest.raises(ValueError, match="no room for a 64-bit BAR"):
        config.set_bar(bar, 4096)


def test_capability_list_is_announced_linked_and_in_order(config: ConfigSpace) -> None:
    assert config.read(6, 2) & 0x10
    seen = []
    at = config.read(0x34, 1)
    while at:
        seen.append((at, config.read(at, 1)))
        assert at % 4 == 0
        at = config.read(at + 1, 1)
    assert seen == [(0x40, CAP_PCI_EXPRESS), (0x7C, CAP_MSIX)]
    assert [config.capability(cap_id) for _, cap_id in seen] == [0x40, 0x7C]


def test_without_capabilities_there_is_no_list() -> None:
    config = ConfigSpace(HEADER)
    assert config.read(6, 2) == 0
    assert config.read(0x34, 1) == 0


def test_capabilities_end_where_the_header_does(config: ConfigSpace) -> None:
    config.add(Capability(CAP_VENDOR, bytes(0x100 - 0x88 - 2)))
    with pytest.raises(ValueError, match="does not fit"):
        config.add(Capability(CAP_VENDOR, b""))


def test_a_trapped_body_is_reached_only_through_its_block(config: ConfigSpace) -> None:
    book = Notebook()
    at = config.add(Capability(CAP_VENDOR, bytes(18)), book)
    assert config.read(at + 4, 4) == 0xA2
    config.write(at + 16, 2, 0x1234)
    assert book.seen == [("read", 2, 4), ("write", 14, 2, 0x1234)]
    book.seen.clear()
    # The double word with id and next in it: those two bytes are ours, the rest is the block's.
    assert config.read(at, 4) == CAP_VENDOR | 0xA0 << 16
    config.write(at, 4, 0xBBAAFFFF)
    assert book.seen == [("read", 0, 2), ("write", 0, 2, 0xBBAA)]
    assert config.read(at, 2) == CAP_VENDOR


@pytest.mark.hostile("S08")
@pytest.mark.parametrize(
    ("offset", "size"), [(0, 3), (0, 8), (4, 0), (5, 2), (4, 3), (6, 4), (4095, 2), (4096, 1), (4094, 4), (-1, 1)]
)
def test_an_odd_access_reads_all_ones_and_writes_nothing(config: ConfigSpace, offset: int, size: int) -> None:
    before = [config.read(at, 4) for at in range(0, 4096, 4)]
    assert config.read(offset, size) == (1 << 8 * size) - 1
    config.write(offset, size, 0x0606060606060606)
    assert [config.read(at, 4) for at in range(0, 4096, 4)] == before


def test_interrupt_status_shows_and_can_not_be_written(config: ConfigSpace) -> None:
    config.set_interrupt_status(True)
    assert config.read(6, 2) == 0x18
    config.write(6, 2, 0xFFFF)
    assert config.read(6, 2) == 0x18
    config.set_interrupt_status(False)
    assert config.read(6, 2) == 0x10


def test_error_bits_are_cleared_by_writing_one() -> None:
    config = ConfigSpace(HEADER)
    at = config.add(Capability(CAP_VENDOR, b"\x0f\x0f", clearing=b"\x05\x00"))
    config.write(at + 2, 2, 0x0104)
    assert config.read(at + 2, 2) == 0x0F0B


def test_msix_control_has_just_enable_and_function_mask(config: ConfigSpace) -> None:
    config.write(0x7E, 2, 0xFFFF)
    assert config.msix_control == 0xC002
    assert config.read(0x80, 4) == 0x004
    assert config.read(0x84, 4) == 0x804


@pytest.mark.parametrize(("vectors", "table"), [(0, 0), (2049, 0), (1, 4)])
def test_msix_limits_are_refused(vectors: int, table: int) -> None:
    with pytest.raises(ValueError, match="not possible"):
        msix_capability(vectors, 0, table, 0x8000)


def test_function_level_reset_is_requested_once_and_never_reads_back(config: ConfigSpace) -> None:
    control = config.read(0x48, 2)
    config.write(0x48, 2, control | 0x8000)
    assert config.read(0x48, 2) == control
    assert config.take_flr()
    assert not config.take_flr()


def test_no_function_level_reset_where_it_is_not_advertised() -> None:
    config = ConfigSpace(HEADER)
    config.add(pci_express_capability(flr=False))
    config.write(0x48, 2, 0x8000)
    assert not config.take_flr()


def test_reset_restores_defaults_but_not_sizes_identity_and_payload(config: ConfigSpace) -> None:
    fresh = [config.read(at, 4) for at in range(0, 4096, 4)]
    for at in range(0, 0x100, 4):
        config.write(at, 4, 0x7FFF7F7F if at == 0x48 else 0xFFFFFFFF)
    assert config.bars[0].address
    config.reset()
    assert config.read(0x48, 2) & 0x00E0 == 0x0060  # Max_Payload_Size survives (7.5.3.4)
    config.write(0x48, 2, fresh[0x48 // 4])
    assert [config.read(at, 4) for at in range(0, 4096, 4)] == fresh
    assert [(bar.index, bar.address, bar.size) for bar in config.bars] == [(0, 0, 0x4000), (4, 0, 0x1000)]


def test_description_names_capabilities_and_command_bits(config: ConfigSpace) -> None:
    config.write(4, 2, PciCommand.MEMORY | PciCommand.BUS_MASTER)
    tree = to_plain(config.snapshot())
    assert tree["command"] == ["MEMORY", "BUS_MASTER"]
    assert tree["class"] == 0x020000
    assert tree["capabilities"] == [
        {"offset": 0x40, "id": 0x10, "name": "PCI Express"},
        {"offset": 0x7C, "id": 0x11, "name": "MSI-X"},
    ]
