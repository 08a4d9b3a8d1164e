"""A Linux guest that enumerates our PCI functions over vfio-user: its own virtio-pci and drivers, nothing of QEMU's."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.guest import Guest, GuestKernel, Serve, guest_kernel
from support.machine import RequireTool, ip
from support.new_qemu import function, new_qemu

__all__ = ["guest_kernel", "new_qemu"]

pytestmark = [pytest.mark.usefixtures("privileged"), pytest.mark.timeout(900)]

SIZE = 8 << 20
PART = 2 << 20


class Machine:
    """A guest with two of our functions: a network device and a disk."""

    def __init__(self, kernel: GuestKernel, qemu: Sequence[str], folder: Path, netns: str) -> None:
        self.netns, self.stack = netns, ExitStack()
        self.image = folder / "disk.img"
        self.image.write_bytes(os.urandom(SIZE))
        addresses = ["--address", "198.18.0.1/24", "--address", "2001:2::1/64"]
        try:
            self.net = self._serve(folder, "net0", "net", "--tap", "t0", "--netns", netns, *addresses)
            self.disk = self._serve(folder, "blk0", "blk", "--file", str(self.image))
            devices = [*function(self.net.socket), *function(self.disk.socket)]
            self.guest = Guest(kernel, folder / "guest", devices, qemu=qemu)
            self.stack.callback(self.guest.close)
            self.addresses = self._functions()
        except BaseException:
            self.stack.close()
            raise

    def _serve(self, folder: Path, name: str, *argv: str) -> Serve:
        serve = Serve(folder, name, *argv, by="--vfio-user")
        self.stack.callback(lambda: serve.end() if serve.process.poll() is None else None)
        return serve

    def _functions(self) -> dict[str, str]:
        """Return the address of each function in the guest, by its vendor and device id."""
        listed = self.guest.run("cat /sys/bus/pci/devices/*/uevent")
        pairs = re.findall(r"PCI_ID=(\S+).*?PCI_SLOT_NAME=(\S+)", listed, re.DOTALL)
        return {ids.lower(): name for ids, name in pairs}

    def sysfs(self, ids: str) -> str:
        return f"/sys/bus/pci/devices/{self.addresses[ids]}"

    def set_up_network(self) -> None:
        self.guest.run("echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad; ip link set eth0 up")
        self.guest.run("ip addr add 198.18.0.2/24 dev eth0; ip -6 addr add 2001:2::2/64 dev eth0")

    def pings(self) -> None:
        """Both sides reach each other, over IPv4 and IPv6."""
        for host, guest in (("198.18.0.1", "198.18.0.2"), ("2001:2::1", "2001:2::2")):
            self.guest.run(f"ping -c 3 -w 60 {host}")
            ping = ["ip", "netns", "exec", self.netns, "ping", "-c", "3", "-w", "60", guest]
            subprocess.run(ping, check=True, capture_output=True)

    def disk_works(self) -> None:
        """The guest reads what is in the file, and writes what is there afterwards."""
        whole = hashlib.md5(self.image.read_bytes()).hexdigest()
        self.guest.run("echo 3 > /proc/sys/vm/drop_caches")
        assert self.guest.run("md5sum /dev/vda").split()[0] == whole
        self.guest.run(f"dd if=/dev/urandom of=/tmp/x bs={PART} count=1")
        self.guest.run(f"dd if=/tmp/x of=/dev/vda bs={PART} oflag=direct conv=fsync")
        part = self.guest.run("md5sum /tmp/x").split()[0]
        assert hashlib.md5(self.image.read_bytes()[:PART]).hexdigest() == part


@pytest.fixture(scope="module")
def machine(
    guest_kernel: GuestKernel,
    new_qemu: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
    privileged: None,
    require_tool: RequireTool,
) -> Iterator[Machine]:
    require_tool("ip", "ping")
    netns = f"t{os.getpid()}-function"
    ip("netns", "add", netns)
    ip("-n", netns, "link", "set", "lo", "up")
    try:
        machine = Machine(guest_kernel, new_qemu, tmp_path_factory.mktemp("machine"), netns)
        try:
            yield machine
        finally:
            machine.stack.close()
    finally:
        ip("netns", "del", netns)


def test_the_guest_enumerates_our_functions_and_binds_its_own_drivers(machine: Machine) -> None:
    guest = machine.guest
    for ids, driver in (("1af4:1041", "virtio_net"), ("1af4:1042", "virtio_blk")):
        bound = guest.run(f"basename $(readlink {machine.sysfs(ids)}/driver)")
        assert bound.strip() == "virtio-pci"
        assert driver in guest.run(f"readlink {machine.sysfs(ids)}/virtio*/driver")
    interrupts = guest.run("cat /proc/interrupts")
    assert re.search(r"PCI-MSI.*virtio\d-req\.0", interrupts), interrupts
    assert re.search(r"PCI-MSI.*virtio\d-input\.0", interrupts), interrupts


def test_the_disk_is_read_and_written(machine: Machine) -> None:
    machine.disk_works()


def test_both_sides_ping_each_other(machine: Machine) -> None:
    machine.set_up_network()
    machine.pings()


def test_a_function_is_reset_and_probed_again(machine: Machine) -> None:
    guest = machine.guest
    for ids in ("1af4:1041", "1af4:1042"):
        guest.run(f"echo {machine.addresses[ids]} > /sys/bus/pci/drivers/virtio-pci/unbind")
        guest.run(f"echo 1 > {machine.sysfs(ids)}/reset")
        guest.run(f"echo {machine.addresses[ids]} > /sys/bus/pci/drivers/virtio-pci/bind")
    machine.disk_works()
    machine.set_up_network()
    machine.pings()


def test_the_guest_reboots(machine: Machine) -> None:
    machine.guest.monitor("system_reset")
    machine.guest.wait_up()
    machine.disk_works()
    machine.set_up_network()
    machine.pings()


def test_the_guest_goes_on_without_a_server_that_was_killed(machine: Machine) -> None:
    before = len(machine.guest.errors.read_text().splitlines())
    machine.disk.end(signal.SIGKILL)
    machine.pings()
    lines = machine.guest.errors.read_text().splitlines()[before:]
    assert [line.split(": ", 1)[1] for line in lines] == ["failed to read header: EOF"]
    machine.disk.start()  # in the place of the socket that was left
    machine.disk.end()
    assert "a client is connected" in machine.net.output
    assert "Traceback" not in machine.net.output
