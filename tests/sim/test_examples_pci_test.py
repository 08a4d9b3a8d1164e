"""`examples/pci_test.py` behind a vfio-user client: registers, DMA, and each type of interrupt by eventfd."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from rings.memory import Addr
from support.paths import EXAMPLES
from support.rigs.vfio_user import C, Client
from vnet.functions import FUNCTIONS
from vnet.linux.ipc import connect
from vnet.system.function_system import open_function
from vnet.topology.extensions import load_extension, temporarily
from vnet.vfio_user.constants import IrqSet, IrqType, Region
from vnet.vfio_user.payloads import IrqInfo

MIB = 1 << 20
SIZE = MIB // 4
TRIGGER = IrqSet.EVENTFD | IrqSet.TRIGGER
PART = 4096


@attrs.define(eq=False)
class Driver:
    """A client that uses the registers as Linux's driver does."""

    client: Client
    test: Any

    async def put(self, register: str, value: int) -> None:
        size = 8 if register in ("SOURCE", "DESTINATION") else 4
        await self.client.write(0, self.test.Reg[register], value.to_bytes(size, "little"))

    async def get(self, register: str) -> int:
        return int.from_bytes(await self.client.read(0, self.test.Reg[register], 4), "little")

    async def run(self, command: str, **registers: int) -> str:
        """Run a command and return the names of the status."""
        for register, value in registers.items():
            await self.put(register, value)
        await self.put("COMMAND", self.test.Command[command])
        status = self.test.Status(await self.get("STATUS"))
        await self.put("STATUS", 0)
        return str(status.name)


@asynccontextmanager
async def driven(folder: Path) -> AsyncIterator[Driver]:
    with temporarily():
        test = load_extension(EXAMPLES / "pci_test.py")
        path = folder / "s"
        async with open_function("pci_test0", FUNCTIONS["pci_test"], [path]) as system:
            client = Client(await connect(path))
            await client.agree()
            await client.share()
            await client.write(Region.CONFIG, 4, b"\x06\0")
            try:
                yield Driver(client, test)
            finally:
                client.close()
            assert system.sessions[0].server.statistics.broken == 0


async def test_memory_is_read_written_and_copied_across_mappings(tmp_path: Path) -> None:
    async with driven(tmp_path) as driver:
        client, memory = driver.client, driver.client.memory
        await client.unshare()
        for start in range(0, MIB, SIZE):  # other parts, so that each transfer is in two
            await client.share(start, SIZE)
        source, destination = (Addr(memory.base + at * SIZE - PART) for at in (1, 3))
        data = os.urandom(2 * PART)
        memory.view(source, PART, True)[:], memory.view(Addr(source + PART), PART, True)[:] = data[:PART], data[PART:]
        places = {"SOURCE": source, "DESTINATION": destination, "SIZE": 2 * PART}
        checksum = driver.test.crc32([memoryview(data)])
        assert await driver.run("READ", CHECKSUM=checksum, **places) == "READ_SUCCESS|IRQ_RAISED"
        assert await driver.run("READ", CHECKSUM=checksum ^ 1, **places) == "READ_FAIL|IRQ_RAISED"
        assert await driver.run("COPY", **places) == "COPY_SUCCESS|IRQ_RAISED"
        assert bytes(memory.view(destination, 2 * PART)) == data
        assert await driver.run("WRITE", **places) == "WRITE_SUCCESS|IRQ_RAISED"
        written = memory.view(destination, 2 * PART)
        assert await driver.get("CHECKSUM") == driver.test.crc32([written])


async def test_memory_that_is_not_there_fails_a_command(tmp_path: Path) -> None:
    async with driven(tmp_path) as driver:
        nowhere = {"SOURCE": 1 << 40, "DESTINATION": 1 << 40, "SIZE": 64}
        assert await driver.run("READ", **nowhere) == "READ_FAIL|IRQ_RAISED|SOURCE_INVALID"
        assert await driver.run("WRITE", **nowhere) == "WRITE_FAIL|IRQ_RAISED|DESTINATION_INVALID"
        assert await driver.run("COPY", **nowhere) == "COPY_FAIL|IRQ_RAISED|SOURCE_INVALID"
        nowhere["SOURCE"] = driver.client.memory.base
        assert await driver.run("COPY", **nowhere) == "COPY_FAIL|IRQ_RAISED|DESTINATION_INVALID"


@pytest.mark.parametrize(
    ("kind", "index", "vector"),
    [(0, IrqType.INTX, 0), (1, IrqType.MSI, 0), (1, IrqType.MSI, 17), (2, IrqType.MSIX, 63)],
)
async def test_each_type_of_interrupt_comes_by_eventfd(tmp_path: Path, kind: int, index: IrqType, vector: int) -> None:
    async with driven(tmp_path) as driver:
        client = driver.client
        assert not (await client.set_irqs(TRIGGER, index, vector, 1, [client.call_fd])).error
        assert await driver.run("COPY", SIZE=0, IRQ_TYPE=kind, IRQ_NUMBER=vector + 1) == "COPY_SUCCESS|IRQ_RAISED"
        assert client.called() == 1
        await client.do(C.DEVICE_RESET)  # interrupts stay as they were set up
        await client.write(Region.CONFIG, 4, b"\x06\0")
        await driver.run("COPY", SIZE=0, IRQ_TYPE=kind, IRQ_NUMBER=vector + 1)
        assert client.called() == 1
        await driver.run("COPY", SIZE=0, IRQ_TYPE=3, IRQ_NUMBER=vector + 1)
        assert client.called() == 0
        assert not (await client.set_irqs(IrqSet.NONE | IrqSet.TRIGGER, index, 0, 0)).error
        await driver.run("COPY", SIZE=0, IRQ_TYPE=kind, IRQ_NUMBER=vector + 1)
        assert client.called() == 0


async def test_the_client_owns_the_registers_of_msi_and_uses_one_type_at_a_time(tmp_path: Path) -> None:
    async with driven(tmp_path) as driver:
        client = driver.client
        answer = IrqInfo.parse(await client.do(C.DEVICE_GET_IRQ_INFO, IrqInfo(16, 0, IrqType.MSI, 0)))
        assert (answer.flags, answer.count) == (1 | 8, 32)
        config = await client.read(Region.CONFIG, 0, 256)
        at = config[0x34]
        while config[at] != 5:
            at = config[at + 1]
        await client.write(Region.CONFIG, at + 2, b"\xff\xff")
        await client.write(Region.CONFIG, at + 4, b"\xff" * 8)
        await client.write(Region.CONFIG, at + 12, b"\x41\x42")
        assert (await client.read(Region.CONFIG, at + 2, 12)).hex() == "fb00fcffffffffffffff4142"
        assert not (await client.set_irqs(TRIGGER, IrqType.MSI, 0, 1, [client.call_fd])).error
        assert (await client.set_irqs(TRIGGER, IrqType.MSIX, 0, 1, [client.call_fd])).error == errno.EINVAL
        await driver.run("COPY", SIZE=0, IRQ_TYPE=1, IRQ_NUMBER=1)
        assert client.called() == 1
