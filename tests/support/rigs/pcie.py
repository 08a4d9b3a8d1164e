"""A root complex, links and endpoint controllers, without buses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from drivers.contracts.hw import PciHeader
from vnet.link.ideal import IdealLink
from vnet.linux.memory import HostMemory
from vnet.pcie.epc import EndpointController
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.pcie.rc import RootComplex

HEADER = PciHeader(0x1AF4, 0x1041, 1, 0x020000, 0x1AF4, 0x0040)
TABLE = 0x2000


class Registers:
    """Registers that are plain bytes."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.data[offset : offset + size] = value.to_bytes(size, "little")


@attrs.define
class Watcher:
    """Notes what it is told, in order, in a list that several may share."""

    log: list[str]
    name: str

    def link_up(self) -> None:
        self.log.append(f"{self.name} up")

    def link_down(self) -> None:
        self.log.append(f"{self.name} down")

    def reset(self) -> None:
        self.log.append(f"{self.name} reset")

    def irq(self) -> None:
        self.log.append(f"{self.name} irq")

    def function_added(self, function: PciFunctionHandle) -> None:
        self.log.append(f"{self.name} found {function.name}")

    def function_removed(self, function: PciFunctionHandle) -> None:
        self.log.append(f"{self.name} gone {function.name}")


class World:
    """One root complex with 1 MiB of RAM, and one endpoint with function 0, not started."""

    def __init__(self, *, windows: int = 8, window_size: int = 4 << 30, window_align: int = 64 << 10) -> None:
        self.name = f"pcie-{id(self):x}"
        self.memory = HostMemory(1 << 20, name=self.name)
        self.rc = RootComplex(self.memory)
        self.link = IdealLink("link0")
        self.epc = EndpointController(self.link, windows=windows, window_size=window_size, window_align=window_align)
        self.rc.attach(self.link)
        self.registers = Registers(0x4000)
        self.log: list[str] = []
        self.epc.set_header(0, HEADER)
        self.epc.set_bar(0, 0, 0x4000, self.registers)
        self.epc.set_msix(0, 4, 0, TABLE)

    @property
    def function(self) -> PciFunctionHandle:
        return self.rc.functions[0]

    def ready(self) -> PciFunctionHandle:
        self.epc.start()
        self.function.enable_msix()
        return self.function

    def close(self) -> None:
        self.epc.stop()
        self.memory.close()
        assert self.name not in Path("/proc/self/maps").read_text(), "a view of closed memory was kept"


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()
