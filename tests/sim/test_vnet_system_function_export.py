"""A device served as a PCI function: clients at its socket, and lines for the user about them."""

from __future__ import annotations

from pathlib import Path

from rings.ids import DeviceId
from support.rigs.vfio_user import COMMAND_BITS, C, Client
from vnet.linux.ipc import connect
from vnet.pcie.config_space import COMMAND
from vnet.system.exports import DeviceExport, open_exports
from vnet.testing import until
from vnet.topology import parse_device
from vnet.vfio_user.constants import Region
from vnet.vfio_user.messages import emit


async def test_clients_come_and_go_and_are_reported(tmp_path: Path) -> None:
    path, lines = tmp_path / "s", list[str]()
    spec = parse_device({"type": "blk", "device": {"size": 1}}, "test")
    exports = {"disk": DeviceExport(spec, path, vfio_user=True)}
    async with open_exports(exports, report=lines.append) as served:
        server = served["disk"].server
        for _ in range(2):
            client = Client(await connect(path))
            await client.agree()
            identity = await client.read(Region.CONFIG, 0, 4)
            assert identity == (0x1AF4 | 0x1040 + DeviceId.BLOCK << 16).to_bytes(4, "little")
            await client.write(Region.CONFIG, COMMAND, COMMAND_BITS.to_bytes(2, "little"))
            await client.share()
            await client.bring_up()
            data = bytes(512)
            assert await client.request(data) == data + b"\0"
            client.close()
            await until(lambda: not server.connected)
        assert lines == 2 * [
            "disk: a client is connected",
            "disk: the client hung up; its queues carried requestq1 1",
        ]
        lines.clear()
        client = Client(await connect(path))
        await client.send(emit(1, C.DEVICE_RESET))
        await until(lambda: bool(lines) and not server.connected)
        client.close()
        refusal = "DEVICE_RESET: the session is without a version"
        assert lines == ["disk: a client is connected", f"disk: the connection was closed: {refusal}"]
        assert server.statistics.broken == 1
        client = Client(await connect(path))
        await client.agree()
        await until(lambda: lines[-1] == "disk: a client is connected")
        client.close()
        await until(lambda: not server.connected)
    assert not path.exists()
