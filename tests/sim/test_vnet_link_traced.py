"""A link that writes down what crosses it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio

from vnet.errors import ConfigError
from vnet.link.base import Direction
from vnet.link.ideal import IdealLink
from vnet.link.traced import TracedLink
from vnet.linux.memory import HostMemory
from vnet.pcie.rc import RootComplex
from vnet.spec import FaultSpec, LinkSpec
from vnet.testing import FRAME, Options, open_pair

LINE = re.compile(r"\d+\.\d{9} link0 [^\n]+")


async def test_a_trace_names_registers_doorbells_interrupts_memory_and_moves(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    async with open_pair(Options(link=LinkSpec("rc", "ep", trace=str(path)))) as pair:
        where = pair.device.location
        await trio.sleep(1)
        pair.driver_port.inject(FRAME)
        await pair.device_port.receive()
        pair.device_port.inject(FRAME)
        await pair.driver_port.receive()
        pair.link.bring_down()
        pair.link.bring_up()
        await pair.world.wait_up()
    lines = path.read_text().splitlines()
    assert all(LINE.fullmatch(line) for line in lines)
    times = [float(line.split()[0]) for line in lines]
    assert times == sorted(times)

    def find(pattern: str) -> list[int]:
        return [at for at, line in enumerate(lines) if re.search(pattern, line)]

    assert find(r"link0 up, epoch 1$")[0] == 0
    assert find(r"> config read \.0 0x0\+4 = 0x10411af4")
    status = [lines[at].rsplit(" ", 1)[1] for at in find(rf"> write \S+\+1 {where} device_status")]
    assert status[:5] == ["0x0", "0x1", "0x3", "0xb", "0xf"]
    assert find(rf"> read \S+\+4 {where} device_feature = 0x")
    assert find(rf"> write \S+\+4 {where} queue_desc = 0x")
    assert find(rf"> write \S+ {where} msix\[1\]\+0x8 = 0x")
    assert find(r"< map \.0 0x0\+4294967296$")
    assert find(r"< pin 0x4\w+\+")
    # In order: the doorbell, what the device then reads; what it writes, and its interrupt.
    (bell,) = find(rf"1\.0\d+ link0 > doorbell \S+\+2 {where} notify\[1\] = 0x1")
    size = 12 + len(FRAME)
    assert find(rf"1\.0\d+ link0 < DMA read 0x4\w+\+{size}$")[0] > bell
    assert find(r"1\.0\d+ link0 < interrupt 0xfee00000\+4 = 0x")
    down = find(r"link0 down, epoch 1 is over")
    assert down < find(r"link0 up, epoch 2$")


async def test_a_trace_shows_what_the_driver_saw_of_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    faults = FaultSpec(timeouts=0.05, seed=1)
    async with open_pair(Options(link=LinkSpec("rc", "ep", faults=faults, trace=str(path)))) as pair:
        lost = pair.link.statistics().faults.get("read timed out", 0)
    assert 0 < lost <= len(re.findall(r"> read .* = 0xff(ff){0,3}$", path.read_text(), re.MULTILINE))


async def test_the_registers_scratchpads_and_doorbells_of_an_ntb_have_names_in_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    async with open_pair(Options(link=LinkSpec("rc", "ep", trace=str(path)), transport="ntb")) as pair:
        pair.driver_port.inject(FRAME)
        await pair.device_port.receive()
    text = path.read_text()
    for line in (
        "read .* magic",
        "read .* peer_spad.session",
        r"doorbell .* notify\[1\]",
        r"doorbell .* notify\[control\]",
    ):
        assert re.search(f"> {line} = ", text), line


async def test_an_access_that_did_not_happen_is_not_written_down() -> None:
    lines: list[str] = []
    link = TracedLink(IdealLink("link0"), lines.append)
    memory = HostMemory(4096)
    RootComplex(memory).attach(link)
    assert link.mem_read(Direction.DOWNSTREAM, 8, 4) == 0xFFFF_FFFF
    link.mem_write(Direction.DOWNSTREAM, 8, 4, 1)
    link.intx(0, True)
    assert [line.split(" ", 1)[1] for line in lines] == [
        "link0 > read 0x8+4 = 0xffffffff",
        "link0 > write 0x8+4 = 0x1",
        "link0 < INTx .0 asserted",
    ]
    memory.close()


async def test_a_trace_that_can_not_be_written_is_an_error_of_the_topology(tmp_path: Path) -> None:
    spec = LinkSpec("rc", "ep", trace=str(tmp_path / "no" / "trace"))
    with pytest.raises(ConfigError, match=r"links\.link0\.trace = .*No such file"):
        async with open_pair(Options(link=spec)):
            pass
