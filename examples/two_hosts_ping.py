"""Pings across the virtqueues of two hosts joined by simulated PCI Express, with the system's ping. Needs root.

python examples/two_hosts_ping.py
"""

import trio

from vnet.system.world import open_world
from vnet.topology import DEFAULT, parse
from vnet.traffic.kernel import ping


async def main() -> None:
    async with open_world(parse(DEFAULT), "example") as world:
        await world.wait_up()
        result = await ping(world.netns("rc"), "198.18.0.2")
        print(f"{result.received} of {result.sent} replies, {result.rtt_avg} ms on average")
        for queue in world.devices["net0"].vhost.queues:
            print(queue.name, queue.statistics())


if __name__ == "__main__":
    trio.run(main)
