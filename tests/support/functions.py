"""A Linux guest with our PCI functions over vfio-user, each served by a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from support.guest import Guest, GuestKernel, Serve
from support.new_qemu import function

__all__ = ["Machine"]

SIZE = 8 << 20
PART = 2 << 20
SLOT = "slot0"
"""Name of the root port with scsi0, which is an endpoint there as on our links; QEMU changes those on its root bus."""
EMPTY_SLOT = "slot1"
"""Name of a root port for a function that is plugged while the guest runs."""
BLK, NET, RNG, RPMSG, SCSI = (f"1af4:{0x1040 + number:x}" for number in (2, 1, 4, 7, 8))
"""Vendor and device ids of virtio's functions."""
PCI_TEST, MAILBOX = "104c:b500", "104c:b0f0"
STEERED = ("--pairs", "2", "--features-on", "RSS", "--features-on", "HASH_REPORT")
IOMMU, PASS_THROUGH = ("-device", "amd-iommu,intremap=on"), "iommu=pt"
"""Remaps interrupts, without which Linux takes one vector of MSI, but, by the kernel's command line, no addresses."""


class Machine:
    """A guest with a function of each device type, a mailbox and pci_test; scsi0 is in a slot of its own."""

    def __init__(self, kernel: GuestKernel, qemu: Sequence[str], folder: Path, netns: str) -> None:
        self.netns, self.stack = netns, ExitStack()
        self.image, self.unit, self.mailbox = (folder / f"{name}.img" for name in ("disk", "unit", "mailbox"))
        for image in (self.image, self.unit, self.mailbox):
            image.write_bytes(os.urandom(SIZE))
        self.functions: dict[str, Serve] = {}
        addresses = ["--address", "198.18.0.1/24", "--address", "2001:2::1/64"]
        try:
            self._serve(folder, "net0", "net", "--tap", "t0", *STEERED, "--netns", netns, *addresses)
            self._serve(folder, "blk0", "blk", "--file", str(self.image))
            self._serve(folder, "scsi0", "scsi", "--lun", f"path={self.unit}")
            self._serve(folder, "entropy0", "entropy")
            self._serve(folder, "rpmsg0", "rpmsg", "--channel", "name=rpmsg-raw,surface=echo")
            self._serve(folder, "pci_test0", "pci_test")
            self._serve(folder, "blk1", "blk", "--file", str(self.mailbox), "--transport", "epf_mailbox")
            self._folder = folder
            ports = [f"pcie-root-port,id={name},chassis={at + 1}" for at, name in enumerate((SLOT, EMPTY_SLOT))]
            devices = [*IOMMU, *(part for port in ports for part in ("-device", port))]
            for name, served in self.functions.items():
                devices += function(served.socket) if name != "scsi0" else _plugged(served)
            self.guest = Guest(kernel, folder / "guest", devices, boot=PASS_THROUGH, qemu=qemu)
            self.stack.callback(self.guest.close)
            self.addresses = self._enumerated()
        except BaseException:
            self.stack.close()
            raise

    def _serve(self, folder: Path, name: str, *argv: str) -> None:
        served = Serve(folder, name, *argv, by="--vfio-user")
        self.functions[name] = served
        self.stack.callback(served.close)

    def plug(self, name: str, *argv: str) -> None:
        """Serve a function, and plug it into the empty slot."""
        self._serve(self._folder, name, *argv)
        socket = {"type": "unix", "path": str(self.functions[name].socket)}
        self.guest.monitor("device_add", driver="vfio-user-pci", id=name, bus=EMPTY_SLOT, socket=socket)

    def _enumerated(self) -> dict[str, str]:
        """Return the address of each function in the guest, by its vendor and device id."""
        listed = self.guest.run("cat /sys/bus/pci/devices/*/uevent")
        pairs = re.findall(r"PCI_ID=(\S+).*?PCI_SLOT_NAME=(\S+)", listed, re.DOTALL)
        return {ids.lower(): name for ids, name in pairs}

    def sysfs(self, ids: str) -> str:
        return f"/sys/bus/pci/devices/{self.addresses[ids]}"

    def unbind(self, ids: str) -> None:
        self.guest.run(f"echo {self.addresses[ids]} > /sys/bus/pci/drivers/virtio-pci/unbind")

    def bind(self, ids: str) -> None:
        self.guest.run(f"echo {self.addresses[ids]} > /sys/bus/pci/drivers/virtio-pci/bind")

    def interrupts(self, ids: str) -> str:
        """Return the lines of /proc/interrupts that belong to the function's virtio device."""
        name = self.guest.run(f"basename {self.sysfs(ids)}/virtio*").strip()
        return self.guest.run(f"grep -w {name}.* /proc/interrupts")

    def set_up_network(self) -> None:
        self.guest.run("echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad; ip link set eth0 up")
        self.guest.run("ip addr add 198.18.0.2/24 dev eth0; ip -6 addr add 2001:2::2/64 dev eth0")

    def pings(self) -> None:
        """Both sides reach each other, over IPv4 and IPv6."""
        for host, guest in (("198.18.0.1", "198.18.0.2"), ("2001:2::1", "2001:2::2")):
            self.guest.run(f"ping -c 3 -w 60 {host}")
            ping = ["ip", "netns", "exec", self.netns, "ping", "-c", "3", "-w", "60", guest]
            subprocess.run(ping, check=True, capture_output=True)

    def disk_works(self, disk: str = "vda") -> None:
        """The guest reads what is in the file, and writes what is there afterwards."""
        image = self.image if disk == "vda" else self.unit
        whole = hashlib.md5(image.read_bytes()).hexdigest()
        self.guest.run("echo 3 > /proc/sys/vm/drop_caches")
        assert self.guest.run(f"md5sum /dev/{disk}").split()[0] == whole
        self.guest.run(f"dd if=/dev/urandom of=/tmp/x bs={PART} count=1")
        self.guest.run(f"dd if=/tmp/x of=/dev/{disk} bs={PART} oflag=direct conv=fsync")
        part = self.guest.run("md5sum /tmp/x").split()[0]
        assert hashlib.md5(image.read_bytes()[:PART]).hexdigest() == part

    def file_system_works(self, disk: str) -> None:
        """A file system is made, filled, and found whole by the guest's e2fsck."""
        run = self.guest.run
        run(f"mke2fs -F /dev/{disk} >/dev/null 2>&1 && mount -t ext4 /dev/{disk} /mnt")
        run("dd if=/dev/urandom of=/mnt/file bs=64k count=60 conv=fsync && md5sum /mnt/file > /tmp/sum")
        run(f"umount /mnt && echo 3 > /proc/sys/vm/drop_caches && mount -t ext4 /dev/{disk} /mnt")
        run(f"md5sum -c /tmp/sum && umount /mnt && e2fsck -f -n /dev/{disk}")

    def random_bytes(self) -> None:
        """The kernel's random generator gets bytes of our device."""
        assert self.guest.run("cat /sys/class/misc/hw_random/rng_current").startswith("virtio_rng")
        hashes = self.guest.run("for i in 1 2; do dd if=/dev/hwrng bs=4k count=1 2>/dev/null | md5sum; done").split()
        assert len({*hashes}) == len(("first", "second", "-"))

    def lspci(self, ids: str) -> str:
        return self.guest.run(f"lspci -D -vv -s {self.addresses[ids]}")


def _plugged(served: Serve) -> list[str]:
    """Return QEMU's arguments for a function in a slot, instead of on the root bus."""
    option, device = function(served.socket)
    return [option, json.dumps({**json.loads(device), "bus": SLOT})]
