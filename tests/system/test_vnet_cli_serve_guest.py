"""A Linux guest whose own drivers use our devices over vhost-user: networks, disks, and what happens to them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rings.layout import WRITE
from support.cli import vnet
from support.guest import Guest, GuestKernel, Serve
from support.machine import RequireTool, ip
from vnet.system.qemu import qemu_version, reconnect

pytestmark = [pytest.mark.usefixtures("privileged"), pytest.mark.timeout(1800)]

PATIENCE = 180.0
OFF = {
    "plain": "",
    "no_mrg": "mrg_rxbuf=off",
    "no_offloads": "csum=off,gso=off,host_tso4=off,host_tso6=off,host_ufo=off,guest_csum=off,guest_tso4=off,"
    "guest_tso6=off,guest_ufo=off",
    "no_event": "event_idx=off,indirect_desc=off",
    "packed": "packed=on",
    "pairs": "mq=on",
}
"""One network device of a guest for each: what QEMU is told of it."""
BITS = {"no_mrg": (15,), "no_offloads": (0, 1, 7, 8, 11, 12), "no_event": (28, 29)}
"""Features that the guest then must not have, and has otherwise."""
DISKS = {"split-disk": "queue-size=128", "packed-disk": "queue-size=512,packed=on"}
"""The disks vda and vdb. The firmware makes rings of 256 descriptors at most, and split ones."""
DISK = pytest.mark.parametrize("disk", DISKS)
RINGS = {"packed": ("--ring", "packed"), "pairs": ("--pairs", "2"), "packed-disk": ("--ring", "packed")}
"""Options of the device's back end."""
CPUS = 2
"""A guest uses no more pairs of queues than it has of them."""


class Machine:
    """A guest with a network device of each kind, a disk, and entropy."""

    def __init__(self, kernel: GuestKernel, folder: Path, netns: str) -> None:
        self.folder, self.netns, self.stack = folder, netns, ExitStack()
        self.serve: dict[str, Serve] = {}
        try:
            devices = []
            for index, (name, off) in enumerate(OFF.items()):
                tap = ["--tap" if index % 2 == 0 else "--tun", f"t{index}", "--netns", netns]
                addresses = ["--address", f"198.18.{index}.1/24", "--address", f"2001:2:0:{index}::1/64"]
                self.add(name, "net", *tap, *RINGS.get(name, ()), *addresses)
                queues = ",queues=2" if name == "pairs" else ""
                devices += [
                    *("-netdev", f"vhost-user,id={name},chardev=c-{name}{queues}"),
                    *(
                        "-device",
                        f"virtio-net-pci,netdev={name},mac=52:54:00:00:00:{index:02x},vectors=0,{off}".rstrip(","),
                    ),
                ]
            for name, options in DISKS.items():
                image = folder / f"{name}.img"
                image.touch()
                os.truncate(image, 64 << 20)
                self.add(name, "blk", "--file", str(image), "--serial", name, *RINGS.get(name, ()))
                devices += ["-device", f"vhost-user-blk-pci,chardev=c-{name},num-queues=1,{options}"]
            self.add("rng", "entropy")
            devices += ["-device", "vhost-user-rng-pci,chardev=c-rng,vectors=0"]
            # QEMU does not wait for a connection of its rng device that it makes again by itself.
            again = f",{reconnect(qemu_version())}"
            chardevs = [
                f"socket,id=c-{name},path={serve.socket}" + (again if name != "rng" else "")
                for name, serve in self.serve.items()
            ]
            arguments = [word for chardev in chardevs for word in ("-chardev", chardev)]
            self.guest = Guest(kernel, folder / "guest", [*arguments, *devices], cpus=CPUS)
            self.stack.callback(self.guest.close)
            self.set_up()
        except BaseException:
            self.close()
            raise

    def add(self, name: str, *argv: str) -> None:
        self.serve[name] = Serve(self.folder, name, *argv)
        self.stack.callback(self.serve[name].close)

    def set_up(self) -> None:
        for index in range(len(OFF)):
            self.guest.run(f"echo 0 > /proc/sys/net/ipv6/conf/eth{index}/accept_dad")
            self.guest.run(f"ip addr add 198.18.{index}.2/24 dev eth{index} && ip link set eth{index} up")
            self.guest.run(f"ip -6 addr add 2001:2:0:{index}::2/64 dev eth{index}")

    def close(self) -> None:
        self.stack.close()


@pytest.fixture(scope="module")
def machine(
    guest_kernel: GuestKernel, tmp_path_factory: pytest.TempPathFactory, privileged: None, require_tool: RequireTool
) -> Iterator[Machine]:
    require_tool("ip", "iperf3")
    netns = f"t{os.getpid()}-guest"
    ip("netns", "add", netns)
    ip("-n", netns, "link", "set", "lo", "up")
    try:
        machine = Machine(guest_kernel, tmp_path_factory.mktemp("machine"), netns)
        try:
            yield machine
        finally:
            machine.close()
    finally:
        ip("netns", "del", netns)


def serving(machine: Machine, port: int, *argv: str) -> subprocess.Popen[bytes]:
    """A server in the device's namespace, which listens at ``port`` already."""
    server = subprocess.Popen(
        ["ip", "netns", "exec", machine.netns, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + PATIENCE
    while f":{port} " not in ip("netns", "exec", machine.netns, "ss", "-ltn"):
        assert server.poll() is None, f"{argv} ended"
        assert time.monotonic() < deadline, f"{argv} does not listen"
        time.sleep(0.02)
    return server


@pytest.mark.parametrize(("name", "form"), [("plain", "split"), ("packed", "packed")])
def test_the_ring_in_the_guest_s_memory_is_shown_while_a_ping_runs(machine: Machine, name: str, form: str) -> None:
    index = list(OFF).index(name)

    def show(queue: str) -> dict[str, Any]:
        done = vnet("show", "--json", "--name", f"serve-net-{name}", "net0", queue)
        assert done.returncode == 0, done.stderr
        shown = json.loads(done.stdout)
        assert isinstance(shown, dict)
        return shown

    machine.guest.run(f"ping -i 0.1 198.18.{index}.1 > /tmp/ping 2>&1 & echo $! > /tmp/pid")
    try:
        shown = show("receiveq1")
        ring = shown["ring"]["ring"]
        assert (ring["format"], ring["fault"], shown["ring"]["driver"]) == (form, "", None)
        assert ring["chains"], "the guest's driver has made receive buffers available"
        assert all(desc["flags"] & WRITE for chain in ring["chains"] for desc in chain["descriptors"])
        sent = show("transmitq1")["device"]["chains"]
        deadline = time.monotonic() + PATIENCE
        while show("transmitq1")["device"]["chains"] < sent + 10:
            assert time.monotonic() < deadline, machine.guest.run("cat /tmp/ping")
    finally:
        machine.guest.run("kill $(cat /tmp/pid)")


def test_each_network_answers_with_the_features_that_were_agreed_on(machine: Machine) -> None:
    for index, name in enumerate(OFF):
        features = machine.guest.run(f"cat /sys/class/net/eth{index}/device/features").strip()
        for other, bits in BITS.items():
            assert all(features[bit] == ("0" if other == name else "1") for bit in bits), (name, features)
        assert (features[34] == "1") == (name == "packed")
        for network in (f"198.18.{index}.", f"2001:2:0:{index}::"):
            machine.guest.run(f"ping -c 3 -i 0.2 -W 5 {network}1")
            done = subprocess.run(
                ["ip", "netns", "exec", machine.netns, "ping", "-c", "3", "-i", "0.2", "-W", "5", f"{network}2"],
                capture_output=True,
                check=False,
                timeout=PATIENCE,
            )
            assert done.returncode == 0, done.stdout


def serving_iperf(stack: ExitStack, machine: Machine, address: str, port: int) -> subprocess.Popen[bytes]:
    """An iperf3 server for one client."""
    server = stack.enter_context(serving(machine, port, "iperf3", "-s", "-1", "-B", address, "-p", str(port)))
    stack.callback(server.kill)
    return server


def received(output: str) -> float:
    """Mbit/s that iperf3's client says its receiver had, of all its streams."""
    return float(output.split("receiver")[-2].splitlines()[-1].split("Mbits/sec")[0].split()[-1])


def test_tcp_runs_both_ways_on_each_network(machine: Machine) -> None:
    for index, name in enumerate(OFF):
        for reverse in ("", "-R"):
            with ExitStack() as stack:
                server = serving_iperf(stack, machine, f"198.18.{index}.1", 5301)
                rate = received(machine.guest.run(f"iperf3 -c 198.18.{index}.1 -p 5301 -n 8M -f m {reverse}"))
                print(f"{name} {reverse or 'to the device'}: {rate:.0f} Mbit/s")
                server.wait(PATIENCE)


@pytest.mark.parametrize("reverse", ["", "-R"], ids=["to_the_device", "to_the_driver"])
def test_two_processors_of_a_guest_use_a_pair_of_queues_each(machine: Machine, reverse: str) -> None:
    guest, index = machine.guest, list(OFF).index("pairs")
    queues = guest.run(f"ls /sys/class/net/eth{index}/queues").split()
    assert sorted(queues) == ["rx-0", "rx-1", "tx-0", "tx-1"]
    assert guest.run(f"cat /sys/class/net/eth{index}/queues/tx-*/xps_cpus").split() == ["1", "2"]
    before = queued(machine, f"t{index}")
    with ExitStack() as stack:
        servers = [serving_iperf(stack, machine, f"198.18.{index}.1", 5301 + cpu) for cpu in range(CPUS)]
        client = f"iperf3 -c 198.18.{index}.1 -t 1 -P 2 -f m {reverse}"
        both = [f"taskset {1 << cpu} {client} -p {5301 + cpu} > /tmp/{cpu} 2>&1" for cpu in range(CPUS)]
        guest.run(f"{both[0]} & {both[1]}; wait $! && cat /tmp/1")
        rates = [received(guest.run(f"cat /tmp/{cpu}")) for cpu in range(CPUS)]
        for server in servers:
            server.wait(PATIENCE)
    assert min(rates) > 0, rates
    # An interface sends a flow by the queue that its last packet was written to: packets of either pair, both ways.
    more = [after - earlier for after, earlier in zip(queued(machine, f"t{index}"), before, strict=True)]
    print(f"two pairs {reverse or 'to the device'}: {rates} Mbit/s, packets {more}")
    assert min(more) > 20, more


def queued(machine: Machine, ifname: str) -> list[int]:
    """Packets to the guest by each pair's queue of the interface."""
    children = json.loads(ip("netns", "exec", machine.netns, "tc", "-s", "-j", "qdisc", "show", "dev", ifname))
    by_parent = {child.get("parent"): child["packets"] for child in children}
    return [by_parent[f":{number + 1:x}"] for number in range(2)]


def test_a_download_is_what_was_sent(machine: Machine) -> None:
    content = os.urandom(4 << 20)
    (machine.folder / "file").write_bytes(content)
    server = serving(machine, 80, "busybox", "httpd", "-f", "-p", "80", "-h", str(machine.folder))
    try:
        for index in range(len(OFF)):
            output = machine.guest.run(f"wget -q -O - http://198.18.{index}.1/file | sha256sum")
            assert hashlib.sha256(content).hexdigest() in output
    finally:
        server.kill()
        server.communicate()


def test_a_link_that_goes_and_comes(machine: Machine) -> None:
    guest = machine.guest
    guest.monitor("set_link", name="plain", up=False)
    guest.run("for i in 1 2 3 4 5 6 7 8 9 10; do [ $(cat /sys/class/net/eth0/carrier) = 0 ] && break; sleep 0.3; done")
    assert guest.run("cat /sys/class/net/eth0/carrier").strip() == "0"
    guest.monitor("set_link", name="plain", up=True)
    guest.run("for i in 1 2 3 4 5 6 7 8 9 10; do [ $(cat /sys/class/net/eth0/carrier) = 1 ] && break; sleep 0.3; done")
    guest.run("ping -c 3 -i 0.2 -W 5 198.18.0.1")


@pytest.mark.parametrize("name", ["no_mrg", "packed"])
def test_a_network_whose_back_end_is_started_anew_goes_on(machine: Machine, name: str) -> None:
    address = f"198.18.{list(OFF).index(name)}.1"
    machine.serve[name].end(signal.SIGKILL)
    machine.serve[name].start()
    machine.guest.run(f"for i in 1 2 3 4 5 6 7 8 9 10; do ping -c 1 -W 2 {address} && break; done")
    machine.guest.run(f"ping -c 3 -i 0.2 -W 5 {address}")


def device(disk: str) -> str:
    return f"vd{'ab'[list(DISKS).index(disk)]}"


def mount(disk: str) -> str:
    return f"mount -t ext4 /dev/{device(disk)} /mnt"


@DISK
def test_a_file_system_on_a_disk(machine: Machine, disk: str) -> None:
    guest = machine.guest
    assert "closed" not in machine.serve[disk].output, "the firmware's rings were good, too"
    assert guest.run(f"cat /sys/block/{device(disk)}/serial").strip() == disk
    packed = guest.run(f"cat /sys/block/{device(disk)}/device/features").strip()[34]
    assert packed == str(int(disk == "packed-disk"))
    guest.run(f"mke2fs /dev/{device(disk)} >/dev/null 2>&1 && {mount(disk)}")
    guest.run("dd if=/dev/urandom of=/mnt/a bs=1M count=16 2>/dev/null && sync")
    before = guest.run("sha256sum /mnt/a")
    guest.run(f"umount /mnt && echo 3 > /proc/sys/vm/drop_caches && {mount(disk)}")
    assert guest.run("sha256sum /mnt/a") == before
    guest.run("umount /mnt")


@pytest.mark.hostile("C01")
@pytest.mark.parametrize(
    ("disk", "number"),
    [("split-disk", signal.SIGTERM), ("split-disk", signal.SIGKILL), ("packed-disk", signal.SIGKILL)],
)
def test_a_disk_whose_back_end_is_started_anew_with_requests_under_way(
    machine: Machine, disk: str, number: int
) -> None:
    guest = machine.guest
    guest.run(mount(disk))
    guest.send(
        "sh -c 'for i in 1 2 3 4; do dd if=/dev/urandom of=/mnt/b$i bs=64k count=64 oflag=direct 2>/dev/null || exit 1;"
        " done; sha256sum /mnt/b*'"
    )
    for pause in (0.2, 0.5, 0.3):
        machine.serve[disk].wait_for_rings()
        time.sleep(pause)
        machine.serve[disk].end(number)
        machine.serve[disk].start()
    written = guest.result()
    guest.run(f"sync; umount /mnt; echo 3 > /proc/sys/vm/drop_caches; {mount(disk)}")
    assert guest.run("sha256sum /mnt/b*") == written
    assert "I/O error" not in guest.run("dmesg")
    guest.run("umount /mnt")


def test_entropy_from_a_device_in_a_file_of_its_own(machine: Machine) -> None:
    guest = machine.guest
    assert "virtio_rng" in guest.run("cat /sys/class/misc/hw_random/rng_available")
    first = guest.run("dd if=/dev/hwrng bs=64 count=4 2>/dev/null | sha256sum")
    assert guest.run("dd if=/dev/hwrng bs=64 count=4 2>/dev/null | sha256sum") != first


def test_drivers_that_let_go_and_come_back(machine: Machine) -> None:
    guest = machine.guest
    guest.run("cd /sys/bus/virtio/drivers/virtio_blk; d=$(ls | grep virtio); for i in $d; do echo $i > unbind; done")
    guest.run("for i in $d; do echo $i > bind; done; cd /")
    for disk in DISKS:
        guest.run(f"{mount(disk)}; sha256sum /mnt/a; umount /mnt")


@pytest.mark.parametrize("by", ["qemu", "the_guest_itself"])
def test_a_reset_and_everything_is_there_again(machine: Machine, by: str) -> None:
    guest = machine.guest
    look = "; ".join(f"{mount(disk)}; sha256sum /mnt/a; sync; umount /mnt" for disk in DISKS)
    before = guest.run(look)
    assert before.count("/mnt/a") == len(DISKS)
    if by == "qemu":
        guest.monitor("system_reset")
    else:
        guest.send("sleep 0.5; reboot -f")
    guest.wait_up()
    machine.set_up()
    for index in range(len(OFF)):
        guest.run(f"for i in 1 2 3 4 5; do ping -c 1 -W 3 198.18.{index}.1 && break; done")
    assert guest.run(look) == before


def test_nothing_is_left_when_they_end(machine: Machine) -> None:
    machine.guest.close()
    for name, serve in machine.serve.items():
        serve.end(signal.SIGINT if name == "plain" else signal.SIGTERM)
        assert "hung up" in serve.output
    [counts] = re.findall("hung up; its queues carried (.*)", machine.serve["pairs"].output)
    carried = {name: int(count) for name, count in (part.split() for part in counts.split(", "))}
    print(carried)
    assert all(carried[f"{which}q{pair}"] > 20 for which in ("receive", "transmit") for pair in (1, 2))
    links = ip("-n", machine.netns, "-o", "link").splitlines()
    assert len(links) == 1, links
