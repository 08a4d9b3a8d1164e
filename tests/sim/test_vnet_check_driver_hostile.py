"""Runs of lies to a driver: the verdicts of drivers that give up, crash, hang and go on, and runs that can't begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.rigs.lied_to import tell
from vnet.check.runner import NoDevice
from vnet.check.verdicts import Verdict


@pytest.mark.parametrize(
    ("reaction", "verdict"), [("gives up", Verdict.PASS), ("crashes", Verdict.CRASHED), ("hangs", Verdict.WEDGED)]
)
async def test_a_reaction_has_its_verdict(tmp_path: Path, reaction: str, verdict: Verdict) -> None:
    [result] = (await tell(tmp_path, "blk", reaction, "D01.size")).values()
    assert result.verdict is verdict
    assert (result.section, result.alone) == ("hostile row D01", "vnet check driver D01.size")


async def test_a_driver_that_sets_the_device_up_again_survives(tmp_path: Path) -> None:
    results = await tell(tmp_path, "blk", "goes on", "D01.size", "D05.back", "D11")
    assert {result.verdict for result in results.values()} == {Verdict.PASS}
    assert {result.seen for result in results.values()} == {"the driver's program ended with status 0"}


async def test_a_driver_that_makes_too_few_requests_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoDevice, match="No such file or directory"):
        await tell(tmp_path, "blk", "absent", "D01.size")
    with pytest.raises(NoDevice, match="makes 6 requests, not 101: ended with status 0"):
        await tell(tmp_path, "blk", "gives up", "D01.size", after=100)


async def test_a_file_in_place_of_the_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "lied").write_text("data")
    with pytest.raises(FileExistsError, match="the file is no socket"):
        await tell(tmp_path, "blk", "gives up", "D01.size")
    assert (tmp_path / "lied").read_text() == "data"
