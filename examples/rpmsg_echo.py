"""Sends "hello world!" 100 times each way between two hosts, as the sample client of the RFC does. Needs no root.

python examples/rpmsg_echo.py
"""

import trio

from drivers.contracts.ports import RpmsgEndpoint
from vnet.ends.rpmsg import RpmsgEnd
from vnet.system.world import open_world
from vnet.topology import parse

TOPOLOGY = """
[hosts.rc]
[hosts.ep]
[links.pcie0]
root = "rc"
endpoint = "ep"
[devices.rpmsg0]
type = "rpmsg"
link = "pcie0"
"""
COUNT = 100
HELLO = b"hello world!"


async def echo(endpoint: RpmsgEndpoint) -> None:
    """Echo each message: the program on ep."""
    async for message in endpoint:
        await endpoint.send(message)


async def main() -> None:
    async with open_world(parse(TOPOLOGY), "example") as world, trio.open_nursery() as nursery:
        device = world.devices["rpmsg0"]
        rc, ep = device.driver_end, device.device_end
        assert isinstance(rc, RpmsgEnd)
        assert isinstance(ep, RpmsgEnd)
        # Created before the device runs; announced once it does.
        service = ep.bus.create("rpmsg-client-sample")
        nursery.start_soon(echo, service)
        await world.wait_up()
        client = rc.bus.create("rpmsg-client-sample")
        await client.wait_bound()
        print(f"{client} and {service}")
        for _ in range(COUNT):
            await client.send(HELLO)
            assert await client.receive() == HELLO
        print(client.statistics())
        print(f"announced by ep: {dict(rc.bus.services)}")
        service.close()


if __name__ == "__main__":
    trio.run(main)
