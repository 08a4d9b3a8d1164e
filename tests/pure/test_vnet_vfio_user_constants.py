"""Constants of vfio-user agree with each other and with the tables that use them."""

from __future__ import annotations

import pytest

from support.rigs.vfio_user_messages import message, state_of
from vnet.vfio_user.accesses import RegionRead, RegionWrite, RegionWrites
from vnet.vfio_user.constants import (
    DATA_MAX,
    FDS_MAX,
    IRQ_TYPES,
    MESSAGE_MAX,
    PAGE,
    REGIONS,
    UNMAP_ALL,
    WRITES_MAX,
    Command,
    DmaFlag,
    HeaderFlag,
    IrqSet,
    IrqType,
    Region,
)
from vnet.vfio_user.function import BAR_COUNT
from vnet.vfio_user.messages import HEADER_SIZE, MESSAGES, SERVER_MESSAGES, parse
from vnet.vfio_user.payloads import DmaUnmap


def test_each_command_has_its_row() -> None:
    assert MESSAGES.keys() | SERVER_MESSAGES.keys() == set(Command)
    assert not MESSAGES.keys() & SERVER_MESSAGES.keys()
    assert len({kind.body for kind in MESSAGES.values()}) == len(MESSAGES)


@pytest.mark.parametrize("command", Command)
def test_the_longest_body_and_the_most_descriptors_of_a_command_fit_in_a_message(command: Command) -> None:
    kind = {**MESSAGES, **SERVER_MESSAGES}[command]
    for body, fds in ((kind.body, kind.fds), (kind.reply, kind.reply_fds)):
        low, high = body.SIZES
        assert 0 <= low <= high <= MESSAGE_MAX - HEADER_SIZE
        assert fds <= FDS_MAX


def test_the_longest_accesses_are_accepted() -> None:
    writes = RegionWrites((RegionWrite(0, 0, bytes(8)),) * WRITES_MAX)
    for command, payload in (
        (Command.REGION_READ, RegionRead(0, 0, DATA_MAX)),
        (Command.REGION_WRITE, RegionWrite(0, 0, bytes(DATA_MAX))),
        (Command.REGION_WRITE_MULTI, writes),
        (Command.DMA_UNMAP, DmaUnmap(24, 0, PAGE, PAGE)),
        (Command.DMA_UNMAP, DmaUnmap(24, UNMAP_ALL, 0, 0)),
    ):
        assert parse(message(command, payload.emit()), state_of(command)) == payload


def test_a_device_has_its_bars_and_the_other_regions_and_all_interrupt_types() -> None:
    assert [*range(BAR_COUNT), *Region] == list(range(REGIONS))
    assert list(IrqType) == list(range(IRQ_TYPES))


@pytest.mark.parametrize("flags", [DmaFlag, IrqSet])
def test_flags_are_single_bits_from_the_lowest_on(flags: type[DmaFlag | IrqSet]) -> None:
    assert [int(flag) for flag in flags] == [1 << i for i in range(len(flags))]


def test_flags_of_a_header_leave_its_type_alone() -> None:
    kind = 0xF
    assert HeaderFlag.REPLY & kind
    assert not (HeaderFlag.NO_REPLY | HeaderFlag.ERROR) & kind
