"""Two Linux guests on the two links of our NTB: their ntb_hw_epf, ntb_transport and ntb_netdev, and a ping across."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.guest import Guest, GuestKernel, Serve
from support.new_qemu import function

MODULES = ("ntb", "ntb_hw_epf", "ntb_transport max_mw_size=0x40000 transport_mtu=2048", "ntb_netdev")
"""Linux's drivers, with windows that a guest of this size can allocate and room for many packets in them."""


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("privileged")
def test_two_guests_ping_each_other_through_an_ntb(
    driver_kernel: GuestKernel, new_qemu: Sequence[str], tmp_path: Path
) -> None:
    far = tmp_path / "far.sock"
    with ExitStack() as stack:
        ntb = Serve(tmp_path, "near", "ntb", "--vfio-user", str(far), by="--vfio-user")
        stack.callback(ntb.end)
        guests = []
        for path in (ntb.socket, far):
            guest = Guest(driver_kernel, tmp_path / f"guest-{path.stem}", function(path), qemu=new_qemu, wait=False)
            stack.callback(guest.close)
            guests.append(guest)
        for number, guest in enumerate(guests, 1):
            guest.wait_up()
            for module in MODULES:
                name, _, options = module.partition(" ")
                guest.run(f"insmod /modules/{name}.ko {options}")
            guest.run(f"ip addr add 198.18.9.{number}/24 dev eth0; ip link set eth0 up")
        for guest in guests:
            guest.run("until [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do sleep 0.1; done")
            assert "0000:00:01.0" in guest.run("ls /sys/bus/pci/drivers/ntb_hw_epf")
        guests[0].run("ping -c 3 -w 50 198.18.9.2")
        guests[1].run("ping -c 3 -w 50 198.18.9.1")
        guests[1].close()
        guests[0].run("until [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do sleep 0.1; done")
        assert "ntb0 link 1: the client hung up" in ntb.output
