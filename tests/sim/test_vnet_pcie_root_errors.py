"""The registers of a root port that receives error messages."""

from __future__ import annotations

from support.rigs.aer import COR_MASK, NOWHERE, PROVOCATIONS, ROOT_STATUS, open_errors, settled
from support.rigs.wire import DOWN, UP
from vnet.link.datalink.errors import DataLinkError
from vnet.link.transaction.fields import MessageCode
from vnet.link.wire.errors import DetectedError, TransactionError


async def test_the_root_port_keeps_the_source_of_the_first_message_and_that_there_were_more() -> None:
    async with open_errors() as bench:
        bench.hold()
        PROVOCATIONS[DataLinkError.BAD_TLP](bench, UP)
        bench.read(DOWN)
        assert bench.root.get(ROOT_STATUS) == 0b0000001
        assert bench.root.source == 0x0000_0100
        PROVOCATIONS[DataLinkError.BAD_TLP](bench, DOWN)
        assert bench.root.get(ROOT_STATUS) == 0b0000011
        assert bench.root.source == 0x0000_0100
        PROVOCATIONS[DataLinkError.PROTOCOL](bench, DOWN)
        assert bench.root.get(ROOT_STATUS) == 0b1010111, "the first uncorrectable one was fatal"
        assert bench.root.source == 0x0008_0100
        bench.write(DOWN, NOWHERE)
        bench.read(DOWN)
        assert bench.root.get(ROOT_STATUS) == 0b1111111
        assert bench.root.source == 0x0008_0100
        assert not bench.service.root.asserted
        bench.root.write(0x100 + 0x2C, 4, 7)
        assert bench.service.root.asserted


async def test_a_root_port_takes_no_messages_from_a_link_whose_bridge_forwards_none() -> None:
    async with open_errors() as bench:
        bench.root.write(0x3E, 2, 0)
        bench.write(DOWN, NOWHERE)
        await settled()
        assert bench.port(UP).tlps["Msg"] == 1
        assert not bench.handled


async def test_an_advisory_error_of_the_root_port_is_a_correctable_one_of_its_own() -> None:
    async with open_errors() as bench:
        bench.hold()
        bench.root.write(0x100 + COR_MASK, 4, 0)
        code = bench.root.registers.log(DetectedError(TransactionError.COMPLETER_ABORT, bytes(16), advisory=True))
        assert code is MessageCode.ERR_COR
        assert bench.root.get(ROOT_STATUS) == 0, "the bits of the root error status are set by messages"


async def test_a_root_port_that_may_not_interrupt_by_intx_keeps_its_status() -> None:
    async with open_errors() as bench:
        bench.root.write(4, 2, 0x0506)
        PROVOCATIONS[DataLinkError.BAD_TLP](bench, DOWN)
        await settled()
        assert bench.root.get(ROOT_STATUS) == 1
        assert not bench.handled
        bench.root.write(4, 2, 0x0106)
        await settled()
        assert bench.root.get(ROOT_STATUS) == 0
        assert len(bench.handled) == 1
