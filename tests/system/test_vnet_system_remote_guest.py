"""A guest in QEMU as the root complex of a topology's link: its functions are two devices of one endpoint."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.cli import READY, Up, clean_machine, vnet
from support.guest import Guest, GuestKernel
from support.new_qemu import function

pytestmark = [pytest.mark.usefixtures("privileged"), pytest.mark.timeout(1800)]

SIZE = 4 << 20
COALESCED = "calls after: receiveq1 16 packets 2000 us, transmitq1 8 packets 1000 us"
TOPOLOGY = """\
[hosts.ep]
[links.pcie0]
root = {{ vfio_user = "{folder}/guest" }}
endpoint = "ep"
[devices.net0]
link = "pcie0"
device = {{ kind = "tap", addresses = ["198.18.0.2/24"] }}
[devices.blk0]
type = "blk"
link = "pcie0"
function = 1
device = {{ store = "file", path = "{folder}/disk.img" }}
"""


def test_a_guest_uses_all_functions_of_a_link_and_another_guest_after_it(
    guest_kernel: GuestKernel, new_qemu: Sequence[str], tmp_path: Path
) -> None:
    """The first one is killed. The second one keeps its memory: our device accesses it by messages."""
    file, image, prefix = tmp_path / "guest.toml", tmp_path / "disk.img", f"t{os.getpid()}-guest"
    file.write_text(TOPOLOGY.format(folder=tmp_path))
    image.write_bytes(os.urandom(SIZE))
    devices = [*function(tmp_path / "guest"), *function(tmp_path / "guest.1")]
    with clean_machine(prefix) as started:
        up = Up(prefix, str(file), "-v")
        started.append(up)
        up.wait_for(READY)
        assert "in another process" in vnet("show", "--name", prefix, "--all").stdout
        for turn in range(2):
            guest = Guest(guest_kernel, tmp_path / f"guest{turn}", devices, qemu=new_qemu, share=not turn)
            try:
                whole = hashlib.md5(image.read_bytes()).hexdigest()
                assert guest.run("md5sum /dev/vda").split()[0] == whole
                guest.run("dd if=/dev/urandom of=/dev/vda bs=1M count=1 oflag=direct conv=fsync")
                assert guest.run("md5sum /dev/vda").split()[0] == hashlib.md5(image.read_bytes()).hexdigest()
                guest.run("ethtool -C eth0 rx-usecs 2000 rx-frames 16 tx-usecs 1000 tx-frames 8")
                guest.run("ip link set eth0 up; ip addr add 198.18.0.1/24 dev eth0")
                guest.run("ping -c 3 -w 60 198.18.0.2")
                assert up.exec("ep", "ping", "-c", "3", "-w", "60", "198.18.0.1").returncode == 0
                shown = vnet("show", "--name", prefix, "--all").stdout
                for part in ("device net0: net over pci on pcie0", "connected", ": up", "DRIVER_OK", COALESCED):
                    assert part in shown
                guest.process.kill()
            finally:
                guest.close()
        assert up.end(signal.SIGTERM) == 0, up.text
    assert up.text.count("blk0: a client is connected") == 2, up.text
    assert "Traceback" not in up.text
