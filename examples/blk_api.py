"""Reads and writes a disk across a simulated PCI Express link, with the Python API. Needs no root.

python examples/blk_api.py
"""

import trio

from vnet.ends.blk import DiskEnd
from vnet.system.world import open_world
from vnet.topology import parse

TOPOLOGY = """
[hosts.rc]
[hosts.ep]
[links.pcie0]
root = "rc"
endpoint = "ep"
[devices.disk0]
type = "blk"
link = "pcie0"
device = { store = "memory", size = 64, serial = "vnet-0001" }
"""


async def main() -> None:
    async with open_world(parse(TOPOLOGY), "example") as world:
        await world.wait_up()
        end = world.devices["disk0"].driver_end
        assert isinstance(end, DiskEnd)
        disk = end.disk
        await disk.write(4096, b"written through a virtqueue".ljust(512, b"\0"), fua=True)
        print((await disk.read(4096, 512)).rstrip(b"\0").decode())
        await disk.discard(0, 1 << 20)
        print((await disk.get_id()).decode(), disk.geometry)
        for queue in world.devices["disk0"].vhost.queues:
            print(queue.name, queue.statistics())


if __name__ == "__main__":
    trio.run(main)
