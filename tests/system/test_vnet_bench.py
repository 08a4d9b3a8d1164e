"""The benchmark runs end to end, with few and short runs; its figures are not judged here."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner

from support.machine import NETNS, RequireTool
from vnet.bench import disk, guest_kernel
from vnet.bench.figures import FIGURES, QueueFigures, Results
from vnet.bench.links import LinksFigures, LinksResults
from vnet.bench.measure import WORKLOADS
from vnet.bench.suites import CARRIERS, NET, SUITES, WITH_GUEST, traffic
from vnet.cli import bench


@pytest.fixture(autouse=True)
def tools(no_leaks: None, privileged: None, require_tool: RequireTool) -> None:
    require_tool("ping", "iperf3", "nsenter")


def names(cls: type) -> set[str]:
    return {field.name for field in attrs.fields(cls)}


@pytest.mark.timeout(600)
def test_a_round_gives_every_figure_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few = {"tcp1": "bits_per_second", "udp64-reverse": "packets_per_second", "ping": "rtt_median"}
    comparison = attrs.evolve(NET, workloads=tuple(workload for workload in WORKLOADS if workload.name in few))
    monkeypatch.setattr(bench, "SUITES", {**SUITES, "net": traffic(comparison)})
    file = tmp_path / "bench.json"
    args = ["--suite", "net,rpmsg", "--rounds", "1", "--seconds", "1", "--json", str(file)]
    done = CliRunner().invoke(bench.command, args)
    assert done.exit_code == 0, done.output
    assert "round 1 of 1, ping after 10 ms of rest: tun " in done.output
    assert "\n```text\n" in done.output

    measured = json.loads(file.read_text())
    assert set(measured) == {"net", "rpmsg"}
    assert set(measured["rpmsg"]["medians"]) == set(CARRIERS.contestants)
    results = measured["net"]
    assert set(results) == names(Results)
    assert results["failures"] == []
    assert results["congestion"] in Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    assert set(results["peak_memory"]) == {"tun", "tap", "bare"}
    assert set(results["workloads"]) == set(few)
    for workload, headline in few.items():
        assert set(results["workloads"][workload]) == set(NET.contestants)
        for contestant, result in results["workloads"][workload].items():
            assert result["median"][headline] > 0
            assert result["ratio"][headline] > 0
            assert set(result["median"]) <= set(FIGURES)
            [sample] = result["rounds"]
            for queue in sample["queues"]:
                assert set(queue) == names(QueueFigures)
            frames = [queue for queue in sample["queues"] if queue["queue"] != "controlq"]
            assert len(frames) == (2 if contestant in {"tun", "tap"} else 0)
    tcp = results["workloads"]["tcp1"]
    assert {name for name in tcp if "cpu_seconds_per_gigabyte" in tcp[name]["median"]} == {"tun", "tap", "bare"}


@pytest.mark.timeout(600)
def test_carriers_are_compared_with_pci(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    few = ["pci", "ntb-mediated"]
    args = ["--suite", "carriers", "--only", "ping", "--contestants", ",".join(few)]
    done = CliRunner().invoke(bench.command, [*args, "--rounds", "1", "--json", str(file)])
    assert done.exit_code == 0, done.output
    by_contestant = json.loads(file.read_text())["carriers"]["workloads"]["ping"]
    assert set(by_contestant) == set(few)
    assert by_contestant["pci"]["ratio"]["rtt_median"] == 1
    assert by_contestant["ntb-mediated"]["ratio"]["rtt_median"] > 0
    # Four queues: those of the two devices that the mediator joins.
    assert len(by_contestant["ntb-mediated"]["rounds"][0]["queues"]) == 4


def test_two_processes_are_compared_with_one(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    args = ["--suite", "processes", "--only", "tcp", "--rounds", "1", "--congestion", "reno", "--json", str(file)]
    done = CliRunner().invoke(bench.command, args)
    assert done.exit_code == 0, done.output
    assert " TCP with reno; " in done.output
    results = json.loads(file.read_text())["processes"]
    for by_contestant in results["workloads"].values():
        assert set(by_contestant) == {"vhost_user", "two-processes", "two-processes-link", "bare", "bare-two-processes"}
        for result in by_contestant.values():
            assert result["median"]["bits_per_second"] > 0
            assert result["median"]["cpu_seconds_per_gigabyte"] > 0
    for one, two in (("vhost_user", "two-processes"), ("bare", "bare-two-processes")):
        assert results["peak_memory"][two] > results["peak_memory"][one]


@pytest.mark.timeout(300)
def test_peers_that_are_missing_are_left_out_in_one_line_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without socat; whether the others are installed depends on the machine."""
    installed = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "socat" else installed(name))
    file = tmp_path / "bench.json"
    few = ["tun", "bare-c", "socat", "pasta", "dpdk"]
    args = ["--suite", "peers", "--only", "ping", "--contestants", ",".join(few), "--rounds", "1", "--json", str(file)]
    done = CliRunner().invoke(bench.command, args)
    assert done.exit_code == 0, done.output
    results = json.loads(file.read_text())["peers"]
    measured = results["workloads"]["ping"]
    assert set(measured) | set(results["left_out"]) == set(few)
    assert {"tun", "bare-c"} <= set(measured)
    assert all(result["median"]["rtt_median"] > 0 for result in measured.values())
    why = results["left_out"]["socat"]
    assert why == "not installed: socat; try: sudo apt-get install -y socat"
    assert done.output.count(f"socat is left out: {why}\n") == done.output.count(f"left out: socat: {why}\n") == 1


def test_an_unknown_congestion_control_fails_each_run() -> None:
    args = ["--suite", "net", "--contestants", "bare", "--only", "tcp", "--rounds", "1", "--congestion", "vnet-none"]
    done = CliRunner().invoke(bench.command, args)
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert all("bare: iperf3: " in line and "congestion" in line for line in lines), lines


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("guest_kernel_package", "new_qemu")
def test_a_guest_is_compared_with_tun_to_tun_and_with_itself_over_vfio_user(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    done = CliRunner().invoke(bench.command, ["--suite", "guest", "--rounds", "1", "--json", str(file)])
    assert done.exit_code == 0, done.output
    results = json.loads(file.read_text())["guest"]
    assert set(results["workloads"]) == {"tcp1", "tcp1-reverse"}
    for by_contestant in results["workloads"].values():
        assert set(by_contestant) == set(WITH_GUEST.contestants)
        for figure in ("bits_per_second", "cpu_seconds_per_gigabyte"):
            for contestant in ("guest", "guest-vfio-user"):
                assert by_contestant[contestant]["median"][figure] > 0
            assert by_contestant["guest-vfio-user"]["ratio"][figure] > 0


def test_a_kernel_that_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch, require_tool: RequireTool) -> None:
    require_tool(*guest_kernel.TOOLS)
    monkeypatch.setattr(guest_kernel, "_have", lambda: None)
    done = CliRunner().invoke(bench.command, ["--suite", "guest"])
    assert done.exit_code == 1
    assert done.stderr.startswith("vnet: the package linux-image-amd64 can't be downloaded; try: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_nothing_left_behind(number: signal.Signals) -> None:
    code = "from vnet.cli import main; main(['bench', '--rounds', '1', '--seconds', '1', '--only', 'ping,tcp'])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()  # the first figures: everything is set up
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert b"Traceback" not in output
    assert set(NETNS.glob(f"vnet-bench-{process.pid}-*")) == set()


def test_a_missing_program_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(bench.command, [])
    assert done.exit_code == 1
    assert done.stderr.startswith("vnet: not installed: ping, iperf3")
    assert len(done.stderr.splitlines()) == 1


def test_a_disk_is_measured_beside_nbdkit(require_tool: RequireTool, tmp_path: Path) -> None:
    require_tool(*disk.TOOLS)
    file = tmp_path / "bench.json"
    args = ["--suite", "disk", "--rounds", "1", "--seconds", "1", "--size", "16", "--json", str(file)]
    done = CliRunner().invoke(bench.command, args)
    assert done.exit_code == 0, done.output
    results = json.loads(file.read_text())["disk"]
    assert set(results) == names(disk.DiskResults)
    assert set(results["workloads"]) == set(disk.WORKLOADS)
    for by_contestant in results["workloads"].values():
        assert set(by_contestant) == {"vnet", disk.BARE}
        for result in by_contestant.values():
            assert result["median"] > 0
            assert result["ratio"] > 0
    assert "nbdcopy, sequential read, MB/s" in done.output


@pytest.mark.timeout(600)
def test_many_links_are_measured_beside_few(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    args = ["--suite", "links", "--links", "1,3", "--rounds", "1", "--seconds", "1", "--json", str(file)]
    done = CliRunner().invoke(bench.command, args)
    assert done.exit_code == 0, done.output
    results = json.loads(file.read_text())["links"]
    assert set(results) == names(LinksResults)
    assert set(results["counts"]) == {"1", "3"}
    for result in results["counts"].values():
        assert set(result["median"]) == names(LinksFigures)
        assert all(result["median"][figure] > 0 for figure in ("start", "memory", "ping", "cpu_per_packet"))
        assert result["cpu_per_packet_ratio"] > 0
    assert "CPU us/packet" in done.output
