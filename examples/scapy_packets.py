"""Sends a packet built with scapy from one host's port to the other's. Needs no root.

python examples/scapy_packets.py
"""

import trio
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from vnet.demo import default_topology
from vnet.system.world import open_world


async def main() -> None:
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    packet = ether / IP(src="198.18.0.1", dst="198.18.0.2") / UDP(dport=7) / b"hello"
    async with open_world(default_topology("memory")) as world:
        await world.wait_up()
        world.memory_port("net0", "driver").inject(bytes(packet))
        header, frame = await world.memory_port("net0", "device").receive()
        print("virtio_net_hdr:", header.hex())
        Ether(frame).show()


if __name__ == "__main__":
    trio.run(main)
