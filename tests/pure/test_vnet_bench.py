"""The benchmark's arithmetic, its reading of /proc, its table and its forwarder."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Thread

import attrs
import pytest
from click.testing import CliRunner

from drivers.flow.pump import BATCH_BUCKETS
from support.native import NEEDS_NATIVE
from vnet.bench.apart import driver_topology, export
from vnet.bench.figures import (
    Machine,
    QueueFigures,
    Results,
    Sample,
    between,
    from_samples,
    median_of,
    queue_figures,
)
from vnet.bench.forwarder import forward
from vnet.bench.measure import WORKLOADS, rotated
from vnet.bench.processes import parse_cpu_ticks, parse_peak_memory
from vnet.bench.relay import PRODUCED, SHARED, SLOTS, Lane, relay
from vnet.bench.rpmsg import RpmsgFigures, RpmsgResults
from vnet.bench.suites import CARRIERS, NET, SUITES, BenchOptions
from vnet.cli.bench import SHOW, command
from vnet.cli.bench_tables import bucket_names, peers_table, rpmsg_table, tables
from vnet.ends.net import NetSpec
from vnet.system.snapshot import QueueRow
from vnet.transports import TRANSPORTS
from vnet.views.system import QueueCounters

MACHINE = Machine(2, "a processor", "Linux 6.1", "CPython 3.11")
QUIET = (0,) * BATCH_BUCKETS


def tcp(*gigabits: float | None) -> list[Sample | None]:
    return [None if value is None else Sample(bits_per_second=value * 1e9) for value in gigabits]


# Figures


@pytest.mark.parametrize(
    ("values", "expected"), [((3, 1, 2), 2), ((1, 2), 1.5), ((None, 7), 7), ((None,), None), ((), None)]
)
def test_a_median_is_of_what_was_measured(values: tuple[float | None, ...], expected: float | None) -> None:
    assert median_of(values) == expected


def test_a_ratio_compares_runs_of_the_same_round() -> None:
    # The machine was ten times as fast in the second round: the ratios don't know of it.
    result = from_samples(tcp(1, 10, 3), tcp(2, 20, 4))
    assert result.median == {"bits_per_second": 3e9}
    assert result.ratio == {"bits_per_second": 0.5}


def test_a_failed_run_is_left_out_with_its_counterpart() -> None:
    result = from_samples(tcp(None, 9, 3), tcp(1, None, 4))
    assert result.median == {"bits_per_second": 6e9}
    assert result.ratio == {"bits_per_second": 0.75}
    assert result.rounds[0] is None


def test_without_the_bare_forwarder_there_are_no_ratios() -> None:
    assert from_samples(tcp(1), ()).ratio == {}


def row(side: str, **figures: int) -> QueueRow:
    assert side in {"driver", "device"}
    every = {"kicks": 0, "calls": 0, "packets": 0} | figures
    return QueueRow(
        "net0",
        "driver" if side == "driver" else "device",
        "transmitq1",
        QueueCounters(suppressed=0, bytes=0, drops={}, batches=(every["packets"], *QUIET[1:]), **every),
    )


def test_kicks_are_counted_where_the_driver_sends_them_and_calls_where_the_device_does() -> None:
    rows = [row("driver", kicks=5, calls=1, packets=9), row("device", kicks=4, calls=2, packets=8)]
    assert queue_figures(rows) == (QueueFigures("transmitq1", 8, 5, 2, (9, *QUIET[1:]), (8, *QUIET[1:])),)


def test_the_events_between_two_snapshots_are_their_difference() -> None:
    before = QueueFigures("receiveq1", 1, 2, 3, (1, 0), (0, 1))
    after = QueueFigures("receiveq1", 11, 22, 33, (4, 5), (0, 6))
    assert between([before], [after]) == (QueueFigures("receiveq1", 10, 20, 30, (3, 5), (0, 5)),)


def test_notifications_are_shown_per_packet_and_per_batch_of_their_sender() -> None:
    queues = (QueueFigures("receiveq1", 90, 0, 4, (5, 0), (4, 4)), QueueFigures("transmitq1", 10, 5, 1, (5, 0), (2, 0)))
    sample = Sample(bits_per_second=1.0).with_queues(queues)
    assert sample.bits_per_second == 1.0
    assert sample.notifications_per_packet == pytest.approx(0.1)
    assert sample.kicks_per_batch == pytest.approx(0.5)
    assert sample.calls_per_batch == pytest.approx(0.5)


def test_a_run_without_packets_has_no_notifications_per_packet() -> None:
    assert Sample().with_queues((QueueFigures("receiveq1", 0, 0, 0, QUIET, QUIET),)) == Sample(
        queues=(QueueFigures("receiveq1", 0, 0, 0, QUIET, QUIET),)
    )


def test_each_contestant_comes_first_in_turn() -> None:
    assert [rotated("abc", by) for by in range(4)] == [[*"abc"], [*"bca"], [*"cab"], [*"abc"]]


def test_workloads_have_names_of_their_own() -> None:
    assert len({workload.name for workload in WORKLOADS}) == len({w.title for w in WORKLOADS}) == len(WORKLOADS)


# /proc


def test_cpu_time_is_found_behind_any_process_name() -> None:
    stat = "41 (a (b) c) S 1 41 41 0 -1 4194560 1 2 3 4 150 25 6 7 20 0 1 0 99 1000 200\n"
    assert parse_cpu_ticks(stat) == 175


def test_peak_memory_is_in_bytes() -> None:
    assert parse_peak_memory("Name:\tpython\nVmPeak:\t  900 kB\nVmHWM:\t   72 kB\nVmRSS:\t   70 kB\n") == 72 * 1024


def test_a_process_that_has_ended_has_no_memory() -> None:
    assert parse_peak_memory("Name:\tpython\nState:\tZ (zombie)\n") is None


def test_our_own_process_is_read() -> None:
    proc = Path("/proc/self")
    assert parse_cpu_ticks((proc / "stat").read_text()) > 0
    assert (parse_peak_memory((proc / "status").read_text()) or 0) > 1 << 20


# Table


@pytest.fixture
def results() -> Results:
    flood = QueueFigures("transmitq1", 100, 1, 1, (0, 0, 1, *QUIET[3:]), (1, 0, 3, *QUIET[4:], 0))
    udp: list[Sample | None] = [Sample(bits_per_second=5.12e6, packets_per_second=10000.0).with_queues((flood,))]
    runs: dict[str, dict[str, list[Sample | None]]] = {
        "tcp1": {"tun": tcp(9, 10, 11), "bare": tcp(10, 10, 10), "veth": tcp(20, 20, 20)},
        "udp64": {"tun": udp, "bare": [Sample(bits_per_second=1.024e7, packets_per_second=20000.0)], "veth": [None]},
    }
    workloads = {
        name: {who: from_samples(rounds, by_name["bare"]) for who, rounds in by_name.items()}
        for name, by_name in runs.items()
    }
    return Results(MACHINE, 3, 2, "cubic", "bare", workloads, {"tun": 72 << 20, "bare": 12 << 20}, ())


def lines(results: Results) -> Iterator[list[str]]:
    """The table's lines, cut where two blanks are."""
    for line in tables(results).splitlines():
        yield [part.strip() for part in line.split("  ") if part.strip()]


def test_the_table_shows_each_figure_beside_its_ratio_to_bare(results: Results) -> None:
    actual = list(lines(results))
    assert ["vnet TUN", "/bare", "bare", "veth", "/bare"] in actual
    assert ["TCP 1 stream, rc to ep, Gbit/s", "10.00", "1.00", "10.00", "20.00", "2.00"] in actual
    assert ["UDP 64 bytes, rc to ep, 1000 packets/s", "10.0", "0.50", "20.0", "-", "-"] in actual
    assert ["UDP 64 bytes, notifications per packet", "0.020", "-", "-", "-", "-"] in actual
    assert ["peak memory, MiB", "72.0", "6.00", "12.0", "-", "-"] in actual


def test_the_table_shows_how_large_batches_were(results: Results) -> None:
    actual = list(lines(results))
    assert bucket_names() == ["1", "2-3", "4-7", "8-15", "16-31", "32-63", "64-127", "128-255", "256-"]
    device = ["UDP 64 bytes, % of batches of", "vnet TUN", "device", "25.0", "0.0", "75.0", *["0.0"] * 6]
    assert device in actual


def test_the_table_is_fenced_text_without_what_was_not_measured(results: Results) -> None:
    text = tables(results)
    assert text.startswith("```text\n2 cores (a processor), Linux 6.1, CPython 3.11\n")
    assert text.endswith("\n```")
    assert "ping" not in text
    assert "TAP" not in text


def test_without_bare_the_table_has_no_ratios(results: Results) -> None:
    alone = {"tcp1": {"tun": from_samples(tcp(1), ())}}
    text = tables(Results(MACHINE, 1, 2, "cubic", "bare", alone, {}, ()))
    header = text.splitlines()[4]
    assert header.split() == ["vnet", "TUN"]


def test_another_reference_names_the_ratios(results: Results) -> None:
    runs = {"pci": tcp(8), "ntb": tcp(6), "ntb-mediated": tcp(4)}
    workload = {name: from_samples(rounds, runs["pci"]) for name, rounds in runs.items()}
    text = tables(attrs.evolve(results, reference="pci", workloads={"tcp1": workload}), batches=False)
    assert "/pci: median of each round's ratio to pci" in text
    header, _, row = (re.split("  +", line) for line in text.splitlines()[4:7])
    assert header[1:] == ["pci", "ntb", "/pci", "ntb med.", "/pci"]
    assert row == ["TCP 1 stream, rc to ep, Gbit/s", "8.00", "6.00", "0.75", "4.00", "0.50"]


def test_peers_are_shown_with_the_ratio_of_this_stack_to_each() -> None:
    runs = {"tun": tcp(9, 10), "bare-c": tcp(10, 20), "veth": tcp(18, 40)}
    runs |= {"two-processes": tcp(6, 6), "bare-two-processes": tcp(8, 8)}
    workload = {name: from_samples(rounds, runs["bare-c"]) for name, rounds in runs.items()}
    why = "not installed: socat; try: install it"
    text = peers_table(Results(MACHINE, 2, 1, "cubic", "bare-c", {"tcp1": workload}, {}, (), {"socat": why}))
    assert f"left out: socat: {why}" in text
    rows = [re.split("  +", line) for line in text.splitlines()]
    assert ["TCP 1 stream, rc to ep, Gbit/s", "9.50", "15.00", "29.00", "6.00", "8.00"] in rows
    assert rows[-4][1:] == ["/bare C", "/veth", "2 processes/bare, 2 proc."]
    assert rows[-1] == ["```"]
    assert rows[-2] == ["TCP 1 stream, rc to ep, Gbit/s", "0.70", "0.38", "0.75"]


def test_a_peer_alone_has_no_ratios() -> None:
    alone = {"tcp1": {"veth": from_samples(tcp(1), ())}}
    text = peers_table(Results(MACHINE, 1, 2, "cubic", "bare-c", alone, {}, ()))
    assert "ratio," not in text
    assert "1.00" in text


def test_rpmsg_has_a_line_for_each_transport() -> None:
    figures = RpmsgFigures(to_device=1.5e5, to_driver=1.25e5, round_trip=7e-5)
    text = rpmsg_table(RpmsgResults(MACHINE, 3, 64, {"pci": figures, "ntb": figures}, {}))
    assert [line.split() for line in text.splitlines() if line.startswith("ntb")] == [["ntb", "150.0", "125.0", "70.0"]]


def test_only_suites_with_the_requested_kinds_run() -> None:
    options = BenchOptions(
        rounds=2, seconds=1, only=("tcp",), contestants=("tun", "pci", "ntb"), size=1 << 20, congestion="reno"
    )
    assert CARRIERS.runs(options) == 2 * 2 * 2
    assert NET.runs(options) == 2 * 1 * 4
    assert SUITES["net"].duration(attrs.evolve(options, contestants=("pci",))) == 0
    assert set(SUITES) == set(SHOW)
    messages = {name: suite.messages(options) for name, suite in SUITES.items()}
    traffic = {"net": 8, "carriers": 4, "processes": 8, "peers": 8, "guest": 4}
    assert messages == {**traffic, "disk": 6, "rpmsg": 2, "links": 10}


def test_every_transport_and_mode_is_compared_with_pci() -> None:
    assert CARRIERS.reference == "pci"
    assert set(CARRIERS.contestants) == {
        *TRANSPORTS,
        *(f"{name}-mediated" for name, transport in TRANSPORTS.items() if transport.on != "host"),
    }


def test_the_two_halves_of_two_processes_are_those_of_the_default_topology(tmp_path: Path) -> None:
    socket = tmp_path / "socket"
    [driver] = driver_topology(socket, "first").devices.values()
    [device] = export(socket, "second").values()
    assert isinstance(driver, NetSpec)
    assert isinstance(device.spec, NetSpec)
    assert (driver.socket, device.socket) == (str(socket), socket)
    assert (driver.driver.netns, device.spec.device.netns) == ("first", "second")
    assert (driver.driver.addresses, device.spec.device.addresses) == tuple(
        port.addresses for _, _, port in device.spec.ports(("", ""))
    )


def test_the_results_are_plain_data(results: Results) -> None:
    read = json.loads(json.dumps(results.as_dict()))
    assert read["workloads"]["tcp1"]["tun"]["ratio"] == {"bits_per_second": 1.0}
    assert read["workloads"]["udp64"]["tun"]["rounds"][0]["queues"][0]["queue"] == "transmitq1"


# Command line


@pytest.mark.parametrize(
    "args", [["--only", "tcp,sctp"], ["--contestants", ""], ["--suite", "net,gpu"], ["--seconds", "0.5"]]
)
def test_a_choice_that_does_not_exist_is_refused(args: list[str]) -> None:
    result = CliRunner().invoke(command, args)
    assert result.exit_code == 2
    assert "Invalid value" in result.output


def test_nothing_to_measure_is_an_error() -> None:
    result = CliRunner().invoke(command, ["--suite", "net", "--contestants", "ntb"])
    assert result.exit_code == 2
    assert "no suite has anything to measure" in result.output


# Forwarder


def native_forward(peers: Mapping[int, int], stop: int) -> None:
    from vnet.bench import _forwarder

    first, second = peers
    _forwarder.forward(first, second, stop)


@pytest.mark.parametrize("forward", [forward, pytest.param(native_forward, marks=NEEDS_NATIVE)])
def test_the_forwarder_forwards_both_ways_until_it_is_stopped(forward: Callable[..., None]) -> None:
    left, first = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    right, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    stop, events = os.pipe()
    with left, first, right, second:
        for end in (first, second):
            end.setblocking(False)
        for end in (left, right):
            end.settimeout(5)
        peers = {first.fileno(): second.fileno(), second.fileno(): first.fileno()}
        thread = Thread(target=forward, args=(peers, stop))
        thread.start()
        try:
            for packet in (b"one", b"two"):
                left.send(packet)
            assert [right.recv(100), right.recv(100)] == [b"one", b"two"]
            right.send(b"back")
            assert left.recv(100) == b"back"
        finally:
            os.close(events)
            thread.join(5)
            os.close(stop)
        assert not thread.is_alive()


@NEEDS_NATIVE
def test_the_forwarder_in_c_raises_the_kernels_error() -> None:
    from vnet.bench import _forwarder

    with pytest.raises(OSError, match="Bad file descriptor"):
        _forwarder.forward(-1, -1, -1)


def test_the_yardstick_in_two_processes_passes_on_all_frames_and_waits_for_a_slow_reader() -> None:
    memory = memoryview(bytearray(SHARED))
    lanes = [Lane(memory[: SHARED // 2]), Lane(memory[SHARED // 2 :])]
    kicks = [os.eventfd(0), os.eventfd(0)]
    stop, events = os.pipe()
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    threads = []
    for side, (far, near) in enumerate(pairs):
        near.setblocking(False)
        far.settimeout(5)
        args = (near.fileno(), lanes[side], lanes[1 - side], kicks[side], kicks[1 - side], stop)
        threads.append(Thread(target=relay, args=args))
    (left, _), (right, _) = pairs
    packets = [bytes([i]) * (1 + i) for i in range(100)]
    try:
        threads[0].start()
        for packet in packets:  # a lane holds fewer, the socket the rest
            left.send(packet)
        right.settimeout(0.1)
        with pytest.raises(TimeoutError):
            right.recv(1000)
        assert lanes[0].words[PRODUCED] == SLOTS
        right.settimeout(5)
        threads[1].start()
        assert [right.recv(1000) for _ in packets] == packets
        for source, sink in ((left, right), (right, left)):
            for packet in packets:
                source.send(packet)
            assert [sink.recv(1000) for _ in packets] == packets
    finally:
        os.close(events)
        for thread in threads:
            thread.join(5)
        for fd in (stop, *kicks):
            os.close(fd)
        for end in (end for pair in pairs for end in pair):
            end.close()
    assert not any(thread.is_alive() for thread in threads)
