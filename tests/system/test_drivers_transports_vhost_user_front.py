"""Our drivers on devices of other programs: QEMU's storage daemon, and `vnet serve` in another process."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.machine import MakeNetns, RequireTool
from support.paths import TOPOLOGIES, VNET
from support.topologies import moved_to

pytestmark = pytest.mark.usefixtures("privileged", "no_leaks")

EXAMPLE = TOPOLOGIES / "vhost_user_blk.toml"
MIB = 1 << 20
SIZE = 64
"""MiB of the disk."""
PATIENCE = 60.0


def run(*argv: str | Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert not ok or not done.returncode, f"{argv}: {done.stdout}{done.stderr}"
    return done


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Shown:
    """The example as it is, with files of this test: the commands in its comments are those that are run."""

    def __init__(self, folder: Path) -> None:
        text = moved_to(folder, EXAMPLE.read_text(encoding="utf-8"))
        self.folder = folder
        self.topology = folder / "topology.toml"
        self.topology.write_text(text)
        truncate, daemon, _ = (line.strip("# &") for line in text.splitlines() if line.startswith("#   "))
        run(*self._words(truncate))
        self.daemon = self._words(daemon)
        self.image = folder / "disk.img"
        self.name = f"t{os.getpid()}-vub"
        self.uri = f"nbd+unix:///disk0?socket={folder}/vnet-disk0.sock"
        self.processes: list[subprocess.Popen[str]] = []

    def _words(self, line: str) -> list[str]:
        return [word.replace("disk.img", str(self.folder / "disk.img")) for word in shlex.split(line)]

    def serve(self, writable: bool = True) -> subprocess.Popen[str]:
        """The other program."""
        argv = [word if writable else word.replace("writable=on", "writable=off") for word in self.daemon]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        self.processes.append(process)  # type: ignore[arg-type]
        return process  # type: ignore[return-value]

    def up(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [VNET, "up", str(self.topology), "--name", self.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    @staticmethod
    def output(process: subprocess.Popen[str], words: str) -> str:
        assert process.stdout is not None
        output = ""
        while words not in output:
            line = process.stdout.readline()
            assert line, f"it ended: {output}"
            output += line
        return output

    def end(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE)
            if process.stdout is not None:
                process.stdout.close()
        run(VNET, "down", "--name", self.name, ok=False)


@pytest.fixture
def shown(require_tool: RequireTool, tmp_path: Path) -> Iterator[Shown]:
    require_tool("qemu-storage-daemon", "nbdinfo", "nbdcopy", "qemu-img", "qemu-io")
    example = Shown(tmp_path)
    try:
        yield example
    finally:
        example.end()


def random_file(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


def test_a_disk_of_the_storage_daemon_keeps_what_our_driver_writes(shown: Shown, tmp_path: Path) -> None:
    """Also if the daemon comes after the system, and read-only if it says so."""
    up = shown.up()
    time.sleep(0.5)
    daemon = shown.serve()
    shown.output(up, "Ctrl-C")
    source = random_file(tmp_path / "source.img", SIZE * MIB)
    run("nbdcopy", "--flush", source, shown.uri)
    assert digest(shown.image) == digest(source)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, shown.uri)
    run("nbdcopy", shown.uri, tmp_path / "copy.img")
    assert digest(tmp_path / "copy.img") == digest(source)
    commands = ("discard 1M 1M", "write -z 3M 1M", "write -P 7 5M 64k", "flush", "read -P 7 5M 64k", "read -P 0 3M 1M")
    run("qemu-io", "-f", "raw", *(word for command in commands for word in ("-c", command)), shown.uri)
    shown_now = run(VNET, "show", "--name", shown.name, "--all").stdout
    assert "in another process" in shown_now
    assert "driver" in shown_now
    daemon.terminate()
    daemon.wait(PATIENCE)
    shown.serve(writable=False)
    deadline = time.monotonic() + PATIENCE
    while "is_read_only: true" not in run("nbdinfo", shown.uri, ok=False).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run("nbdcopy", shown.uri, tmp_path / "again.img")
    assert digest(tmp_path / "again.img") == digest(shown.image)
    up.send_signal(signal.SIGTERM)
    assert up.wait(PATIENCE) == 0


@pytest.mark.hostile("V16")
def test_a_daemon_that_is_killed_under_load_and_comes_back_costs_time_and_no_data(shown: Shown, tmp_path: Path) -> None:
    daemon = shown.serve()
    up = shown.up()
    shown.output(up, "Ctrl-C")
    source = random_file(tmp_path / "source.img", SIZE * MIB)
    with subprocess.Popen(["nbdcopy", "--flush", "--requests=16", source, shown.uri], text=True) as copying:
        for _ in range(3):
            time.sleep(0.02)
            daemon.kill()
            daemon.wait(PATIENCE)
            time.sleep(0.2)
            daemon = shown.serve()
            time.sleep(0.3)
        assert copying.wait(PATIENCE) == 0
    assert digest(shown.image) == digest(source)


@pytest.mark.hostile("C05")
def test_a_system_goes_down_although_its_back_end_was_stopped_with_requests_under_way(
    shown: Shown, tmp_path: Path
) -> None:
    daemon = shown.serve()
    up = shown.up()
    shown.output(up, "Ctrl-C")
    daemon.send_signal(signal.SIGSTOP)
    source = random_file(tmp_path / "source.img", MIB)
    try:
        with subprocess.Popen(["nbdcopy", source, shown.uri], stderr=subprocess.DEVNULL) as copying:
            deadline = time.monotonic() + PATIENCE
            row = r"driver +requestq1 +live +\d+ +\d+ +\d+ +[1-9]"  # the last one is in flight
            while not re.search(row, run(VNET, "show", "--name", shown.name, "--all").stdout):
                assert time.monotonic() < deadline
            assert "is down" in run(VNET, "down", "--name", shown.name).stdout
            assert up.wait(PATIENCE) == 0
            assert copying.wait(PATIENCE) != 0
    finally:
        daemon.send_signal(signal.SIGCONT)


# Both halves are ours, in two processes


@contextmanager
def running(*argv: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A command of ours that runs until the end of the block, or until it is killed."""
    process = subprocess.Popen(
        [VNET, *map(str, argv)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, -signal.SIGKILL), output


NET = """
[hosts.rc]
[devices.net0]
transport = "vhost_user"
host = "rc"
socket = "{socket}"
driver = {{ kind = "{kind}", netns = "{netns}", ifname = "vnet0", addresses = ["198.18.0.1/24", "2001:2::1/64"] }}
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["tun", "tap"])
def test_driver_and_device_in_two_processes_carry_ping_and_tcp(
    kind: str, require_tool: RequireTool, netns: MakeNetns, tmp_path: Path
) -> None:
    require_tool("ping", "iperf3")
    mine, theirs = netns("front"), netns("back")
    sock = tmp_path / "net0.sock"
    (tmp_path / "t.toml").write_text(NET.format(socket=sock, kind=kind, netns=mine))
    addresses = ("--address", "198.18.0.2/24", "--address", "2001:2::2/64")
    name = f"t{os.getpid()}-vun"
    with ExitStack() as stack:
        stack.enter_context(
            running("serve", "net", "--vhost-user", sock, f"--{kind}", "vnet1", "--netns", theirs, *addresses)
        )
        iperf3 = subprocess.Popen(
            ["ip", "netns", "exec", theirs, "iperf3", "-s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        stack.callback(iperf3.wait)
        stack.callback(iperf3.terminate)
        within = ["ip", "netns", "exec", mine]
        script = (
            "ping -c 3 -i 0.2 198.18.0.2 && ping -c 3 -i 0.2 2001:2::2 && ping -c 2 -i 0.2 -s 20000 198.18.0.2"
            " && iperf3 -c 198.18.0.2 -t 1 && sleep 0.2 && iperf3 -c 198.18.0.2 -t 1 -R"
        )
        done = run(VNET, "up", tmp_path / "t.toml", "--name", name, "--exec", shlex.join([*within, "sh", "-c", script]))
        assert done.stdout.count(" 0% packet loss") == 3
        rates = [float(rate) for rate in re.findall(r"([\d.]+) Gbits/sec +receiver", done.stdout)]
        print(f"{kind}: {rates} Gbit/s")


@pytest.mark.timeout(600)
@pytest.mark.hostile("C03", "C04", "C05")
def test_either_process_may_be_stopped_or_killed_and_the_other_goes_on(
    require_tool: RequireTool, netns: MakeNetns, tmp_path: Path
) -> None:
    require_tool("ping")
    mine, theirs = netns("front"), netns("back")
    sock, name = tmp_path / "net0.sock", f"t{os.getpid()}-vuk"
    (tmp_path / "t.toml").write_text(NET.format(socket=sock, kind="tun", netns=mine))
    serve = ("serve", "net", "--vhost-user", sock, "--tun", "vnet1", "--netns", theirs, "--address", "198.18.0.2/24")
    up = ("up", tmp_path / "t.toml", "--name", name)

    def pings() -> bool:
        ping = ("ping", "-c", "5", "-i", "0.1", "-W", "1", "198.18.0.2")
        return " 0% packet loss" in run("ip", "netns", "exec", mine, *ping, ok=False).stdout

    def until_pings() -> None:
        deadline = time.monotonic() + PATIENCE
        while not pings():
            assert time.monotonic() < deadline

    with ExitStack() as stack:
        device = stack.enter_context(running(*serve))
        driver = stack.enter_context(running(*up))
        until_pings()
        device.send_signal(signal.SIGSTOP)
        assert not pings()
        device.send_signal(signal.SIGCONT)
        until_pings()
        device.kill()
        device.wait(PATIENCE)
        stack.enter_context(running(*serve))
        until_pings()
        driver.kill()
        driver.wait(PATIENCE)
        run(VNET, "down", "--name", name)
        stack.enter_context(running(*up))
        until_pings()


def test_a_disk_in_another_process_outlives_that_process(require_tool: RequireTool, tmp_path: Path) -> None:
    require_tool("nbdcopy")
    shown = Shown(tmp_path)
    sock, source = tmp_path / "vnet-vhost-disk0.sock", random_file(tmp_path / "source.img", SIZE * MIB)
    try:
        with running("serve", "blk", "--vhost-user", sock, "--file", shown.image):
            up = shown.up()
            shown.output(up, "Ctrl-C")
            run("nbdcopy", "--flush", source, shown.uri)
            assert digest(shown.image) == digest(source)
        with running("serve", "blk", "--vhost-user", sock, "--file", shown.image):
            run("nbdcopy", shown.uri, tmp_path / "copy.img")
        assert digest(tmp_path / "copy.img") == digest(source)
    finally:
        shown.end()


# Another program's network device


TESTPMD = "dpdk-testpmd"
DPDK = """
[hosts.rc]
[devices.net0]
transport = "vhost_user"
host = "rc"
socket = "{socket}"
driver = {{ addresses = ["198.18.0.1/24"] }}
"""


def test_dpdk_answers_our_pings(require_tool: RequireTool, tmp_path: Path) -> None:
    require_tool(TESTPMD, "ping")
    sock, name = tmp_path / "net0.sock", f"t{os.getpid()}-vud"
    (tmp_path / "t.toml").write_text(DPDK.format(socket=sock))
    memory = ("--no-huge", "-m", "512", "--no-pci", "--iova-mode=va", f"--file-prefix={name}", "-l", "0,1")
    argv = (TESTPMD, *memory, "--vdev", f"net_vhost0,iface={sock}", "--", "--forward-mode=icmpecho", "--auto-start")
    with subprocess.Popen(
        [*argv, "--total-num-mbufs=4096", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as testpmd:
        try:
            ping = f"ip netns exec {name}-rc ping -c 3 -i 0.2 198.18.0.2"
            done = run(VNET, "up", tmp_path / "t.toml", "--name", name, "--exec", ping)
            assert " 0% packet loss" in done.stdout
        finally:
            testpmd.communicate(b"quit\n", timeout=PATIENCE)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("ring", "order"), [("split", "in"), ("packed", "any")])
def test_dpdks_driver_goes_on_with_a_back_end_that_was_killed_and_started_anew(
    ring: str, order: str, require_tool: RequireTool, netns: MakeNetns, tmp_path: Path
) -> None:
    """The driver listens, and comes back to its rings without SET_OWNER, at a place of its own."""
    require_tool(TESTPMD, "ping")
    name, sock, theirs = f"t{os.getpid()}-vur", tmp_path / "net0.sock", netns("back")
    mac = "02:00:00:00:00:02"
    memory = ("--no-huge", "-m", "256", "--no-pci", f"--file-prefix={name}", "-l", "0,1", "--no-telemetry")
    vdev = f"net_virtio_user0,mac={mac},path={sock},server=1,queues=1,queue_size=256,packed_vq={int(ring == 'packed')}"
    argv = (TESTPMD, *memory, "--vdev", vdev, "--", "--total-num-mbufs=4096", "-i", "--forward-mode=icmpecho")
    address = ("--tap", "tap0", "--netns", theirs, "--address", "198.18.0.1/24")
    serve = ("serve", "net", "--vhost-user", sock, "--connect", "--allow-unsealed", *address, "--ring", ring)
    in_order = ("--features-on", "IN_ORDER") if order == "in" else ()

    def until_pings() -> None:
        within = ["ip", "netns", "exec", theirs]
        deadline = time.monotonic() + PATIENCE
        while " 0% packet loss" not in run(*within, "ping", "-c", "5", "-i", "0.1", "198.18.0.2", ok=False).stdout:
            assert time.monotonic() < deadline

    with subprocess.Popen([*argv, "--auto-start"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as testpmd:
        try:
            for number in (signal.SIGKILL, signal.SIGTERM):
                with running(*serve, *in_order) as back:
                    until_pings()
                    back.send_signal(number)
                    back.wait(PATIENCE)
        finally:
            testpmd.communicate(b"quit\n", timeout=PATIENCE)
