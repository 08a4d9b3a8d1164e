"""A Linux guest that enumerates our PCI functions over vfio-user: its own virtio-pci and drivers, nothing of QEMU's."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from drivers.transports.epf_mailbox.registers import (
    DEVICE_DOORBELL,
    DOORBELL_SIZE,
    EXT_MAGIC,
    DeviceCommand,
    Ext,
    MailboxOutcome,
    Reg,
)
from support.cli import vnet
from support.functions import BLK, MAILBOX, NET, PCI_TEST, RNG, RPMSG, SCSI, Machine
from support.guest import PATIENCE, GuestKernel
from support.machine import RequireTool, ip
from support.paths import VNET
from vnet.vfio_user.constants import Command
from vnet.vfio_user.messages import HEADER_SIZE, emit
from vnet.vfio_user.payloads import Version

pytestmark = [pytest.mark.usefixtures("privileged"), pytest.mark.timeout(1800)]

RESET = int(DeviceCommand.RESET)
MINE = """
[hosts.rc]
[hosts.ep]
[links.pcie0]
root = "rc"
endpoint = "ep"
[devices.scsi0]
type = "scsi"
link = "pcie0"
device = { luns = [{ store = "memory", size = 8 }] }
"""
"""The topology of scsi0's function with our own root complex and driver."""
PINGS = 6
"""Packets of IP that the guest receives by pings over one version of it."""
COALESCED = (
    "calls after: receiveq1 16 packets 2000 us, transmitq1 8 packets 1000 us, "
    "receiveq2 16 packets 2000 us, transmitq2 8 packets 1000 us"
)
OWNERS = re.compile(
    r"^\S+ |, scsi0 on pcie0|\tPhysical Slot.*\n|\tIOMMU group.*\n|\tKernel .*\n|DisINTx.|IRQ \d+|Memory at \S+"
    r"|Subsystem: .*|PciCfg|<unknown>",
    re.MULTILINE,
)
"""Parts of the lines of ``lspci -vv`` that come from a root complex or a version of lspci."""


@pytest.fixture(scope="module")
def machine(
    driver_kernel: GuestKernel,
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
        machine = Machine(driver_kernel, new_qemu, tmp_path_factory.mktemp("machine"), netns)
        try:
            yield machine
        finally:
            machine.stack.close()
    finally:
        ip("netns", "del", netns)


def test_the_guest_enumerates_our_functions_and_binds_its_own_drivers(machine: Machine) -> None:
    guest = machine.guest
    drivers = {NET: "virtio_net", BLK: "virtio_blk", SCSI: "virtio_scsi", RNG: "virtio_rng"}
    for ids, driver in drivers.items():
        bound = guest.run(f"basename $(readlink {machine.sysfs(ids)}/driver)")
        assert bound.strip() == "virtio-pci"
        assert driver in guest.run(f"readlink {machine.sysfs(ids)}/virtio*/driver")
    for ids, queue in ((BLK, "req.0"), (NET, "input.0"), (SCSI, "request"), (RNG, "input")):
        assert re.search(rf"PCI-MSI.*virtio\d-{queue}", machine.interrupts(ids))


def test_lspci_in_the_guest_shows_what_vnet_lspci_shows(machine: Machine, tmp_path: Path) -> None:
    """For the driver that does the same with it: MSI-X and bus mastering are on."""
    (tmp_path / "mine.toml").write_text(MINE)
    mine = subprocess.run(
        [VNET, "up", tmp_path / "mine.toml", "--exec", f"{VNET} lspci -vv"],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = machine.lspci(SCSI)
    assert "MSI-X: Enable+ Count=4 Masked-" in theirs
    assert OWNERS.sub("", theirs).strip() == OWNERS.sub("", mine.stdout).strip()


def test_the_disks_are_read_and_written(machine: Machine) -> None:
    machine.disk_works()
    machine.disk_works("sda")
    machine.file_system_works("sda")


def test_the_guest_reads_random_bytes(machine: Machine) -> None:
    machine.random_bytes()


def test_a_channel_carries_the_messages_of_the_guest(machine: Machine) -> None:
    """Our device echoes. Linux makes a character device of each channel that is called rpmsg-raw."""
    modules = " ".join(f"/modules/{name}.ko" for name in ("rpmsg_core", "rpmsg_ns", "virtio_rpmsg_bus"))
    machine.guest.run(f"for module in {modules}; do insmod $module; done")
    # Linux creates the channel in the interrupt of its announcement, where making a character device would sleep.
    machine.guest.run(
        "until ls -d /sys/bus/rpmsg/devices/*.rpmsg-raw.*; do sleep 0.1; done; insmod /modules/rpmsg_char.ko"
    )
    machine.guest.run("until [ -e /dev/rpmsg0 ]; do sleep 0.1; done; exec 3<>/dev/rpmsg0")
    for text in ("one", "two"):
        echoed = machine.guest.run(f"echo -n {text} >&3; dd bs=512 count=1 <&3 2>/dev/null")
        assert echoed == text
    machine.guest.run("exec 3>&-")
    assert "virtio_rpmsg_bus" in machine.guest.run(f"readlink {machine.sysfs(RPMSG)}/virtio*/driver")


def test_linux_tests_an_endpoint_function_of_ones_own(machine: Machine) -> None:
    """Linux's pci_endpoint_test and its pcitest on `examples/pci_test.py`: BARs, each type of interrupt, DMA."""
    guest = machine.guest
    guest.run("insmod /modules/pci_endpoint_test.ko; until [ -e /dev/pci-endpoint-test.0 ]; do sleep 0.1; done")
    assert "pci-endpoint-test" in guest.run(f"readlink {machine.sysfs(PCI_TEST)}/driver")
    msi, msix = [f"-m {vector}" for vector in (1, 2, 17, 32)], [f"-x {vector}" for vector in (1, 2, 64)]
    interrupts = ["-i 0", "-l", "-i 1", *msi, "-i 2", *msix]
    transfers = [f"{what} -s {size}" for size in (1, 1024, 1025, 1024001) for what in ("-r", "-w", "-c")]
    by_type = [option for kind in range(3) for option in (f"-i {kind}", *transfers)]
    options = [*(f"-b {bar}" for bar in (0, 2, 4)), *interrupts, *by_type]
    output = guest.run("; ".join(f"pcitest {option}" for option in options), ok=False)
    results = output.splitlines()
    assert len(results) == len(options)
    assert not [line for line in results if not line.endswith("\tOKAY")]
    assert guest.run("pcitest -x 65", ok=False).strip().endswith("NOT OKAY")  # there are 64


def test_the_guest_accesses_registers_of_a_mailbox(machine: Machine) -> None:
    """Linux has no driver for it: a reset by its command, which a doorbell of the second BAR announces."""
    run = machine.guest.run
    run(f"echo 1 > {machine.sysfs(MAILBOX)}/enable")
    rows = run(f"cat {machine.sysfs(MAILBOX)}/resource").splitlines()
    registers, doorbells = (int(rows[bar].split()[0], 16) for bar in (0, 2))

    def word(offset: int, size: int = 32) -> int:
        return int(run(f"devmem {registers + offset:#x} {size}"), 16)

    assert word(Ext.MAGIC.offset) == EXT_MAGIC
    assert word(Reg.NUM_QUEUES.offset, 16) == 1
    run(f"devmem {registers + Ext.SEQUENCE.offset:#x} 32 7; devmem {registers + Reg.CMD.offset:#x} 8 {RESET}")
    run(f"devmem {doorbells + DOORBELL_SIZE * DEVICE_DOORBELL:#x} 32 1")
    assert word(Reg.CMD_STATUS.offset, 8) == MailboxOutcome.OKAY
    assert word(Ext.COMPLETED.offset) == 7


def test_the_guest_s_driver_commands_our_network_device(machine: Machine) -> None:
    """Its control queue is the function's, not QEMU's."""
    run = machine.guest.run
    run("ip link set eth0 address 02:00:00:00:00:77; ip link set eth0 promisc on; ip link set eth0 up")
    run("ethtool -L eth0 combined 2; ethtool -C eth0 rx-usecs 2000 rx-frames 16 tx-usecs 1000 tx-frames 8")
    shown = " ".join(vnet("show", "--name", "serve-net-net0", "--all").stdout.split())
    for part in ("02:00:00:00:00:77", "pairs of queues 2 of 2", "receives: promisc", COALESCED):
        assert part in shown
    run("ip link set eth0 promisc off; ethtool -L eth0 combined 1")


def test_the_guest_s_driver_has_frames_steered_by_their_hash(machine: Machine) -> None:
    """Linux negotiates RSS and HASH_REPORT, and configures them by ethtool."""
    run = machine.guest.run
    machine.set_up_network()
    run("ethtool -L eth0 combined 2; ethtool -X eth0 weight 0 1; ethtool -K eth0 rxhash on")
    shown = " ".join(vnet("show", "--name", "serve-net-net0", "--all").stdout.split())
    assert "128 entries to receiveq2; other frames to receiveq1" in shown
    assert "reports hashes of ipv4 tcpv4 udpv4 ipv6 tcpv6 udpv6" in shown
    before = run("ethtool -S eth0")
    machine.pings()
    ((count,), (later,)) = (re.findall(r"rx_queue_1_packets: (\d+)", text) for text in (before, run("ethtool -S eth0")))
    assert int(later) - int(count) >= 2 * PINGS


def test_both_sides_ping_each_other(machine: Machine) -> None:
    machine.pings()


def test_functions_are_reset_and_probed_again_under_load(machine: Machine) -> None:
    guest = machine.guest
    guest.run("(while :; do dd if=/dev/vda of=/dev/null bs=64k; cat /dev/hwrng | head -c 4096; done) >/dev/null 2>&1 &")
    guest.run("(ping -f 198.18.0.1 >/dev/null 2>&1 &); sleep 1")
    for ids in (NET, BLK, RNG):
        machine.unbind(ids)
        guest.run(f"echo 1 > {machine.sysfs(ids)}/reset")
        machine.bind(ids)
    guest.run("killall ping; kill %1 2>/dev/null; true")
    machine.disk_works()
    machine.random_bytes()
    machine.set_up_network()
    machine.pings()


def test_functions_without_msix_interrupt_by_intx(machine: Machine) -> None:
    guest = machine.guest
    for ids in (NET, BLK, SCSI, RNG):
        machine.unbind(ids)
        guest.run(f"echo 0 > {machine.sysfs(ids)}/msi_bus")
        machine.bind(ids)
        lines = machine.interrupts(ids)
        assert "IO-APIC" in lines
        assert "PCI-MSI" not in lines
    machine.disk_works()
    guest.run("until [ -e /dev/sda ]; do sleep 0.1; done")
    machine.disk_works("sda")
    machine.random_bytes()
    machine.set_up_network()
    machine.pings()


def test_the_guest_reboots(machine: Machine) -> None:
    machine.guest.monitor("system_reset")
    machine.guest.wait_up()
    machine.disk_works()
    machine.set_up_network()
    machine.pings()


def test_a_function_is_removed_in_use_and_found_again(machine: Machine) -> None:
    """As far as the guest can do it alone; QEMU 11.1 aborts when it unplugs a vfio-user device (device_del)."""
    guest = machine.guest
    guest.run("(while dd if=/dev/sda of=/dev/null bs=64k iflag=direct; do :; done) >/dev/null 2>&1 &")
    guest.run(f"echo 1 > {machine.sysfs(SCSI)}/remove")
    assert "no" in guest.run(f"[ -e /dev/sda ] || [ -e {machine.sysfs(SCSI)} ] || echo no")
    guest.run("echo 1 > /sys/bus/pci/rescan; until [ -e /dev/sda ]; do sleep 0.1; done")
    machine.disk_works("sda")


def test_a_function_is_plugged_while_the_guest_runs(machine: Machine, tmp_path: Path) -> None:
    """The guest's own driver of hot-plug slots finds it."""
    image = tmp_path / "late.img"
    image.write_bytes(os.urandom(1 << 20))
    machine.plug("late0", "blk", "--file", str(image))
    machine.guest.run("until [ -e /dev/vdb ]; do sleep 0.1; done")
    assert machine.guest.run("md5sum /dev/vdb").split()[0] == hashlib.md5(image.read_bytes()).hexdigest()


def test_the_guest_goes_on_without_a_server_that_was_killed(machine: Machine) -> None:
    disk, net = machine.functions["blk0"], machine.functions["net0"]
    before = len(machine.guest.errors.read_text().splitlines())
    disk.end(signal.SIGKILL)
    machine.pings()
    lines = machine.guest.errors.read_text().splitlines()[before:]
    assert [line.split(": ", 1)[1] for line in lines] == ["failed to read header: EOF"]
    disk.start()  # in the place of the socket that was left
    disk.end()
    assert "a client is connected" in net.output
    assert "Traceback" not in net.output


def test_a_function_outlives_a_qemu_that_unplugs_it(machine: Machine) -> None:
    """QEMU 11.1.3 aborts (``subregion->container == mr``) once the guest has released the slot. It comes last."""
    late = machine.functions["late0"]
    machine.guest.monitor("device_del", id="late0")
    deadline = time.monotonic() + PATIENCE
    while "the client hung up" not in late.output:
        assert time.monotonic() < deadline, machine.guest.complaints()
        time.sleep(0.1)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(late.socket))
        client.sendall(emit(1, Command.VERSION, Version(0, 0, {})))
        assert len(client.recv(4096)) > HEADER_SIZE
    assert "Traceback" not in late.output
