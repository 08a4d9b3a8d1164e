"""A running Linux guest moves to another QEMU, and so from our devices to others of ours, while it uses them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.guest import Guest, GuestKernel, Serve
from support.machine import MakeNetns, RequireTool, ip
from vnet.system.qemu import qemu_version, reconnect

pytestmark = [pytest.mark.usefixtures("privileged", "no_leaks"), pytest.mark.timeout(1800)]

MAC = "52:54:00:00:00:01"
HOST, GUEST = "198.18.0.1", "198.18.0.2"
PATIENCE = 180.0
UNEVEN = f"{(256 << 10) + 8}K"
"""Memory of a guest, of an odd size: QEMU before 9.0 checks 64 pages at a time for changes if it can, and then misses
some of an emulated processor's, so that migrated guests crash with any devices."""
HELD = 4096
"""Bytes a second at which a migration stands still."""


class Place:
    """A guest at one of the two places: devices on the bridge and on the image, and QEMU."""

    def __init__(
        self, stack: ExitStack, kernel: GuestKernel, folder: Path, netns: str, image: Path, *qemu: str
    ) -> None:
        folder.mkdir()
        tap = f"tap-{folder.name}"
        self.serves = [
            Serve(folder, "net", "net", "--tap", tap, "--netns", netns),
            Serve(folder, "disk", "blk", "--file", str(image), "--shared"),
        ]
        for serve in self.serves:
            stack.callback(serve.end)
        ip("-n", netns, "link", "set", tap, "master", "bridge", "up")
        devices = [f"virtio-net-pci,netdev=n,mac={MAC},vectors=0", "vhost-user-blk-pci,chardev=c-disk,vectors=0"]
        arguments = [
            *(word for serve in self.serves for word in ("-chardev", _chardev(serve))),
            *("-netdev", "vhost-user,id=n,chardev=c-net"),
            *(word for device in devices for word in ("-device", device)),
            *qemu,
        ]
        self.guest = Guest(kernel, folder / "guest", arguments, memory=UNEVEN, boot="init_on_alloc=0", wait=not qemu)
        stack.callback(self.guest.close)

    def ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """Arguments of QEMU."""
        answer = self.guest.monitor(command, **arguments)
        assert isinstance(answer, dict)
        return answer


def _chardev(serve: Serve) -> str:
    return f"socket,id=c-{serve.name},path={serve.socket},{reconnect(qemu_version())}"


@pytest.fixture
def netns_with_bridge(netns: MakeNetns, require_tool: RequireTool) -> str:
    """A bridge with an address, by which the guest is reached at whichever place it is."""
    require_tool("ip", "ping", "e2fsck", "bridge")
    name = netns("bridge")
    ip("-n", name, "link", "add", "bridge", "type", "bridge")
    ip("-n", name, "addr", "add", f"{HOST}/24", "dev", "bridge")
    ip("-n", name, "link", "set", "bridge", "up")
    return name


@pytest.fixture
def download(netns_with_bridge: str, tmp_path: Path) -> Iterator[str]:
    """Serve `/file` on the bridge; yield the hash of its contents."""
    folder = tmp_path / "www"
    folder.mkdir()
    (folder / "file").write_bytes(os.urandom(4 << 20))
    argv = ["ip", "netns", "exec", netns_with_bridge, "busybox", "httpd", "-f", "-p", "80", "-h", str(folder)]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as server:
        yield hashlib.sha256((folder / "file").read_bytes()).hexdigest()
        server.kill()


def until(place: Place, status: str, left: float = 1.0) -> dict[str, Any]:
    """Wait until a migration has come so far, with no more ``left`` of the memory to be sent than that."""
    deadline = time.monotonic() + PATIENCE
    while True:
        actual = place.ask("query-migrate")
        ram = actual.get("ram", {"remaining": 0, "total": 1})
        if actual["status"] == status and ram["remaining"] <= left * ram["total"]:
            return actual
        assert actual["status"] not in ("failed", "completed"), actual
        assert time.monotonic() < deadline, (actual, place.guest.complaints())
        time.sleep(0.02)


def pace(place: Place, rate: int, standstill: int = 1) -> None:
    """Let a migration send so many bytes a second, and end once what is left takes no longer than so many ms."""
    place.guest.monitor("migrate-set-parameters", **{"max-bandwidth": rate, "downtime-limit": standstill})


@pytest.mark.hostile("V19")
def test_a_guest_that_reads_writes_and_is_talked_to_is_migrated(
    guest_kernel: GuestKernel, netns_with_bridge: str, download: str, tmp_path: Path
) -> None:
    image = tmp_path / "disk.img"
    image.touch()
    os.truncate(image, 128 << 20)
    began = time.monotonic()

    def lap(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s: {what}")

    with ExitStack() as stack:
        source = Place(stack, guest_kernel, tmp_path / "a", netns_with_bridge, image)
        lap("booted")
        incoming = tmp_path / "incoming.sock"
        target = Place(stack, guest_kernel, tmp_path / "b", netns_with_bridge, image, "-incoming", f"unix:{incoming}")
        guest = source.guest
        guest.run(f"ip addr add {GUEST}/24 dev eth0 && ip link set eth0 up")
        guest.run("mke2fs /dev/vda >/dev/null 2>&1 && mount -t ext4 /dev/vda /mnt")
        guest.run("dd if=/dev/urandom of=/mnt/before bs=1M count=24 2>/dev/null && sync")
        written = guest.run("sha256sum /mnt/before")
        # What goes on all the while.
        guest.run("(i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.05; done) & true")
        guest.run("(while :; do dd if=/dev/zero of=/mnt/busy bs=64k count=8 conv=fsync 2>/dev/null; done) & true")
        pings = stack.enter_context(
            subprocess.Popen(
                ["ip", "netns", "exec", netns_with_bridge, "ping", "-i", "0.05", "-s", "1400", "-q", GUEST],
                stdout=subprocess.PIPE,
            )
        )
        stack.callback(pings.kill)
        lap("set up")

        # One that is given up: logging is switched on, and off again.
        pace(source, HELD)
        guest.monitor("migrate", uri="exec:cat > /dev/null")
        until(source, "active")
        guest.monitor("migrate_cancel")
        until(source, "cancelled")
        guest.run(f"ping -c 1 -W 5 {HOST}")
        lap("cancelled")

        # Pages that were sent already are written by our devices behind the migration's back: only the log says so, as
        # the kernel is told not to clear them first.
        guest.run("echo 3 > /proc/sys/vm/drop_caches")
        guest.run("dd if=/dev/urandom of=/tmp/filled bs=1M count=96 2>/dev/null; rm /tmp/filled")  # other data
        pace(source, 64 << 20)
        guest.monitor("migrate", uri=f"unix:{incoming}")
        until(source, "active", left=0.08)
        pace(source, HELD)
        assert guest.run("sha256sum /mnt/before") == written
        guest.run(f"wget -q -O /tmp/file http://{HOST}/file")
        count = int(guest.run("cat /tmp/count"))
        lap("read while it was going on")
        pace(source, 1 << 30, standstill=300)
        done = until(source, "completed")
        lap(f"completed: {done['downtime']} ms of standstill, {done['ram']['dirty-sync-count']} rounds")

        guest = target.guest
        assert int(guest.run("cat /tmp/count")) >= count
        assert guest.run("sha256sum /mnt/before") == written  # of the cache, which came along
        assert download in guest.run("sha256sum /tmp/file")
        guest.run(f"ping -c 2 -i 0.2 -W 5 {HOST}")
        forwarding = ip("netns", "exec", netns_with_bridge, "bridge", "fdb", "show", "br", "bridge")
        assert f"{MAC} dev tap-b" in forwarding
        guest.run("dd if=/dev/urandom of=/mnt/after bs=1M count=4 2>/dev/null && sync")
        after = guest.run("sha256sum /mnt/after")
        guest.run(
            "kill %1 %2; sleep 1; umount /mnt && echo 3 > /proc/sys/vm/drop_caches && mount -t ext4 /dev/vda /mnt"
        )
        assert guest.run("sha256sum /mnt/before") == written
        assert guest.run("sha256sum /mnt/after") == after
        assert guest.run(f"wget -q -O - http://{HOST}/file | sha256sum").split()[0] == download
        assert int(guest.run("cat /tmp/count")) > count
        guest.run("umount /mnt")
        kernel = guest.run("dmesg")
        assert "I/O error" not in kernel
        assert "EXT4-fs error" not in kernel
        pings.send_signal(2)
        output, _ = pings.communicate(timeout=PATIENCE)
        print(output.decode().splitlines()[-2])
        lap("done")
        for place in (source, target):
            assert "RARP" not in place.guest.errors.read_text()
    checked = subprocess.run(["e2fsck", "-fn", str(image)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
