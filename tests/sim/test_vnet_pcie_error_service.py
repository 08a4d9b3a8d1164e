"""The handling of errors at the host of the root complex."""

from __future__ import annotations

from drivers.contracts.hw import PciError
from support.rigs.aer import NAMES, NOWHERE, PROVOCATIONS, open_errors, settled
from support.rigs.wire import DOWN, UP
from vnet.link.datalink.errors import DataLinkError


async def test_a_driver_hears_of_errors_and_sees_the_reset_after_a_fatal_one() -> None:
    async with open_errors(2) as bench:
        PROVOCATIONS[DataLinkError.BAD_DLLP](bench, UP)
        await settled()
        assert bench.reports == [PciError(NAMES[UP], "correctable", ("bad DLLP",))]
        bench.reports.clear()
        bench.write(DOWN, NOWHERE)
        await settled()
        assert bench.reports[0] == PciError(NAMES[UP], "non-fatal", ("unsupported request",))
        assert bench.link.epoch == 1
        bench.reports.clear()
        PROVOCATIONS[DataLinkError.FLOW_CONTROL](bench, DOWN)
        assert bench.link.up
        await settled()
        assert bench.reports == [PciError(NAMES[DOWN], "fatal", ("flow control protocol error",))]
        assert bench.link.epoch == 2
        assert bench.function.online
        bench.function.watch_errors(None)
        bench.write(DOWN, NOWHERE)


async def test_a_function_that_is_gone_reports_nothing_and_one_that_comes_reports() -> None:
    async with open_errors(2) as bench:
        bench.epc.clear(1)
        PROVOCATIONS[DataLinkError.BAD_TLP](bench, UP)
        await settled()
        assert [event.location for event in bench.handled] == [NAMES[UP]]
        views = bench.epc.errors.views() if bench.epc.errors is not None else {}
        assert list(views) == [0]


async def test_many_errors_at_once_are_handled_together_and_not_one_look_each() -> None:
    async with open_errors() as bench:
        for _ in range(200):
            PROVOCATIONS[DataLinkError.BAD_TLP](bench, UP)
        await settled()
        assert 1 <= len(bench.handled) <= 3
        assert bench.handled[0].errors == ("bad TLP",)


async def test_a_look_at_the_registers_of_a_function_takes_few_packets() -> None:
    async with open_errors() as bench:
        before = dict(bench.port(DOWN).tlps)
        PROVOCATIONS[DataLinkError.BAD_TLP](bench, UP)
        await settled()
        assert len(bench.handled) == 1
        after = bench.port(DOWN).tlps
        assert (after["CfgRd"] - before["CfgRd"], after["CfgWr"] - before["CfgWr"]) == (2, 2)
