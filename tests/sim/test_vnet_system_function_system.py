"""A system of one function for vfio-user clients: its links, and the NTB between two clients."""

from __future__ import annotations

import os
import struct
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from drivers.carriers.ntb_registers import MSIX_ENABLE, SPAD_OFFSET, SPADS, Bar, CommandStatus, FunctionCommand, Word
from rings.memory import Addr
from support.rigs.vfio_user import Client
from vnet.errors import ConfigError
from vnet.functions import FUNCTIONS
from vnet.linux.ipc import connect
from vnet.system.function_system import function_topology, open_function
from vnet.testing import fds, until
from vnet.vfio_user.constants import IrqSet, IrqType, Region

SIZE = 64 << 10


UP = CommandStatus.OK | CommandStatus.LINK_UP


class Host:
    """A client that uses the registers of its side of the NTB."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def put(self, bar: int, offset: int, *words: int) -> None:
        for at, word in enumerate(words):
            await self.client.write(bar, offset + 4 * at, struct.pack("<I", word))

    async def get(self, bar: int, offset: int) -> int:
        return int.from_bytes(await self.client.read(bar, offset, 4), "little")

    async def command(self, command: FunctionCommand, argument: int = 0) -> int:
        await self.put(Bar.CONFIG, Word.ARGUMENT, argument)
        await self.put(Bar.CONFIG, Word.COMMAND, command)
        return await self.get(Bar.CONFIG, Word.STATUS)


async def test_two_clients_reach_each_other_through_an_ntb(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    lines: list[str] = []
    async with (
        open_function("ntb0", FUNCTIONS["ntb"], paths, report=lines.append) as system,
        AsyncExitStack() as stack,
    ):
        hosts = []
        for path in paths:
            client = Client(await connect(path))
            stack.callback(client.close)
            await client.agree()
            await client.share()
            await client.write(Region.CONFIG, 4, b"\x06\0")
            flags = IrqSet.EVENTFD | IrqSet.TRIGGER
            assert not (await client.set_irqs(flags, IrqType.MSIX, 3, 1, [client.call_fd])).error
            hosts.append(Host(client))
        near, far = hosts
        assert await near.command(FunctionCommand.CONFIGURE_DOORBELL, 8 | MSIX_ENABLE) == CommandStatus.OK
        assert await far.command(FunctionCommand.CONFIGURE_DOORBELL, 8 | MSIX_ENABLE) == CommandStatus.OK
        assert await near.command(FunctionCommand.LINK_UP) == CommandStatus.OK
        assert await far.command(FunctionCommand.LINK_UP) == UP

        await near.put(Bar.CONFIG, SPAD_OFFSET + 4 * SPADS + 8, 0x1234)
        assert await far.get(Bar.CONFIG, SPAD_OFFSET + 8) == 0x1234
        await near.put(Bar.DOORBELLS, 4 * 3, await near.get(Bar.CONFIG, Word.DB_DATA + 4 * 3))
        assert (near.client.called(), far.client.called()) == (0, 1)

        memory, data = far.client.memory, os.urandom(64)
        buffer = memory.alloc(SIZE, SIZE)
        await far.put(Bar.CONFIG, Word.ADDR_LO, buffer.addr & 0xFFFF_FFFF, buffer.addr >> 32, SIZE)
        assert await far.command(FunctionCommand.CONFIGURE_MW, 0) == UP
        window = await near.get(Bar.CONFIG, Word.MW1_OFFSET)
        await near.client.write(Bar.WINDOWS, window + 4096, data)
        assert bytes(memory.view(Addr(buffer.addr + 4096), 64)) == data
        assert await near.client.read(Bar.WINDOWS, window + 4096, 64) == data

        far.client.socket.close()  # as its guest does that ends
        await until(lambda: not system.sessions[1].server.connected)
        assert await near.get(Bar.CONFIG, Word.STATUS) == CommandStatus.OK
        assert set(await near.client.read(Bar.WINDOWS, window, 8)) == {0xFF}
    assert "ntb0 link 1: the client hung up" in lines


@pytest.mark.parametrize(
    ("sockets", "links"),
    [(["a"], {"ntb0": "client"}), (["a", "b"], {"ntb0-link0": "client", "ntb0-link1": "client2"})],
)
def test_links_are_called_as_the_function_with_a_number_if_there_are_several(
    sockets: list[str], links: dict[str, str]
) -> None:
    topology = function_topology("ntb0", [Path(socket) for socket in sockets])
    assert {name: link.root for name, link in topology.links.items()} == links
    assert not topology.devices


async def test_a_socket_that_cannot_be_is_an_error_and_nothing_is_left(tmp_path: Path) -> None:
    before = fds()
    with pytest.raises(ConfigError, match="none/b"):
        async with open_function("ntb0", FUNCTIONS["ntb"], [tmp_path / "a", tmp_path / "none/b"]):
            pass
    assert fds() == before
