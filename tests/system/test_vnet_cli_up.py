"""vnet up and what goes with it: real interfaces, real signals, and nothing left behind however it ends."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cli import PATIENCE, PING, READY, Up, clean_machine, left_behind, vnet
from support.machine import NETNS, MakeNetns, RequireTool
from support.paths import VNET
from vnet.topology import DEFAULT

pytestmark = pytest.mark.usefixtures("privileged")


@pytest.fixture(scope="module")
def shared(privileged: None) -> Iterator[Up]:
    """One system for all tests that leave it as it was."""
    with clean_machine(f"t{os.getpid()}-shared") as started:
        up = Up(f"t{os.getpid()}-shared")
        started.append(up)
        up.wait_for(READY)
        yield up


# While it runs


def test_it_says_what_to_type_elsewhere_and_that_works(shared: Up, require_tool: RequireTool) -> None:
    require_tool("ip", "ping")
    pings = re.findall(r"^  (ip netns exec .* ping .*?) +#", shared.text, flags=re.MULTILINE)
    assert [ping.split()[-1] for ping in pings] == ["198.18.0.2", "2001:2::2", "198.18.0.1", "2001:2::1"]
    for ping in pings:
        command, target = ping.rsplit(" ", 1)
        done = subprocess.run(
            [*command.split(), *PING[1:], target],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 0
    assert f"vnet exec --name {shared.name} rc -- " in shared.text
    assert f"vnet down --name {shared.name}" in shared.text


def test_show_prints_tree_features_rings_and_counters(shared: Up) -> None:
    done = vnet("show", "--name", shared.name, "--all")
    assert (done.returncode, done.stderr) == (0, "")
    for part in ("0000:01:00.0 1af4:1041", "BAR 0 at", "MSI-X", "EVENT_IDX", "transmitq1", "tun vnet0 in"):
        assert part in done.stdout
    actual = json.loads(vnet("show", "--name", shared.name, "--json").stdout)
    assert actual["name"] == shared.name
    assert actual["devices"]["net0"]["driver"]["port"]["netns"] == f"{shared.name}-rc"


def test_show_prints_a_few_lines_and_more_of_what_is_named(shared: Up) -> None:
    done = vnet("show", "--name", shared.name)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) <= 10
    for part in ("host rc", "link pcie0: rc", ": up\n", "driver on rc: in "):
        assert part in done.stdout
    assert "virtio_net bound" in vnet("show", "--name", shared.name, "net0").stdout
    queue = vnet("show", "--name", shared.name, "net0", "transmitq1", "--hex").stdout
    for part in ("device transmitq1: live", "split ring of 256 descriptors", "descriptor area, 4096 bytes"):
        assert part in queue
    sides = json.loads(vnet("show", "--name", shared.name, "net0", "transmitq1", "--json").stdout)
    assert sides.pop("ring")["ring"]["num"] == 256
    assert [side["index"] for side in sides.values()] == [1, 1]


def test_ps_lists_running_systems(shared: Up) -> None:
    rows = {row["name"]: row for row in json.loads(vnet("ps", "--json").stdout)}
    row = rows[shared.name]
    assert (row["pid"], row["state"], row["hosts"]) == (shared.process.pid, "up", 2)
    assert (row["devices"], row["devices_up"]) == (1, 1)
    assert row["uptime"] > 0
    assert re.search(rf"^{shared.name} .* up$", vnet("ps").stdout, re.MULTILINE)


def test_exec_becomes_the_program_in_the_hosts_namespace(shared: Up, require_tool: RequireTool) -> None:
    require_tool("ping", "ip")
    assert shared.exec("rc", *PING, "198.18.0.2").returncode == 0
    addresses = [shared.exec(host, "ip", "-br", "-4", "address").stdout for host in ("rc", "ep")]
    assert ["198.18.0.1" in addresses[0], "198.18.0.2" in addresses[1]] == [True, True]
    assert shared.exec("rc", "sh", "-c", "exit 7").returncode == 7
    assert vnet("exec", "--name", shared.name, "ep", "sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("exec", "moon", "--", "true"), "vnet: {}: host 'moon': must be one of rc, ep\n"),
        (("exec", "rc", "--", "no-such-program"), "vnet: no-such-program: No such file or directory\n"),
        (("link", "down", "moon"), "vnet: link 'moon': must be one of pcie0\n"),
        (("set", "moon", "mtu", "1400"), "vnet: device or link 'moon': must be one of net0, pcie0\n"),
        (("set", "net0", "mtu", "1"), "vnet: net0: mtu '1': must be between 68 and 65521\n"),
        (("set", "net0", "pairs", "2"), "vnet: net0: pairs '2': the device has one queue pair\n"),
        (("show", "moon"), "vnet: device or link 'moon': must be one of net0, pcie0\n"),
        (("show", "net0", "moon"), "vnet: net0: queue 'moon': must be one of receiveq1, transmitq1, controlq\n"),
        (("up",), "vnet: {0} is running already; try: vnet show --name {0}\n"),
    ],
)
def test_an_impossible_request_to_a_running_system_is_one_line(shared: Up, args: tuple[str, ...], line: str) -> None:
    done = vnet(args[0], "--name", shared.name, *args[1:])
    assert (done.returncode, done.stderr) == (1, line.format(shared.name))


def test_a_link_goes_down_and_up_under_a_running_ping(up: Up, require_tool: RequireTool) -> None:
    require_tool("ping")
    ping = subprocess.Popen(
        [VNET, "exec", "--name", up.name, "rc", "--", "ping", "-O", "-i", "0.05", "198.18.0.2"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert ping.stdout is not None
    assert any("bytes from" in line for line in ping.stdout)
    assert vnet("link", "--name", up.name, "down").stdout == "pcie0 is down\n"
    assert not json.loads(vnet("show", "--name", up.name, "--json").stdout)["devices"]["net0"]["up"]
    assert any("no answer yet" in line for line in ping.stdout)
    assert vnet("link", "--name", up.name, "up", "pcie0").stdout == "pcie0 is up\n"
    replies = (line for line in ping.stdout if "bytes from" in line)
    assert len(list(itertools.islice(replies, 10))) == 10
    ping.send_signal(signal.SIGINT)
    ping.communicate(timeout=PATIENCE)
    actual = json.loads(vnet("show", "--name", up.name, "--json").stdout)
    assert (actual["links"]["pcie0"]["epoch"], actual["devices"]["net0"]["up"]) == (2, True)


def test_two_names_run_side_by_side(name: str, started: list[Up], require_tool: RequireTool) -> None:
    require_tool("ping")
    started += [Up(f"{name}-a"), Up(f"{name}-b")]
    for each in started:
        each.wait_for(READY)
    for each in started:
        assert each.exec("rc", *PING, "198.18.0.2").returncode == 0
    assert vnet("down", "--name", f"{name}-a").stdout == f"{name}-a is down\n"
    assert started[0].end() == 0
    assert started[1].exec("ep", *PING, "198.18.0.1").returncode == 0


# However it ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_well_and_nothing_stays(up: Up, number: signal.Signals) -> None:
    assert left_behind(up.name) == [f"{up.name}-ep", f"{up.name}-rc", f"{up.name}.json", f"{up.name}.sock"]
    assert up.end(number) == 0
    assert left_behind(up.name) == []


@pytest.mark.parametrize("late", [0.0, 0.03, 0.1, 0.2])
def test_a_signal_while_it_comes_up_leaves_nothing(name: str, started: list[Up], late: float) -> None:
    started.append(Up(name))
    deadline = time.monotonic() + PATIENCE
    while not left_behind(name) and time.monotonic() < deadline:  # its file is the first thing it makes
        time.sleep(0.002)
    time.sleep(late)
    status = started[0].end(signal.SIGTERM)
    assert status == (0 if READY in started[0].text else 128 + signal.SIGTERM)
    assert "Traceback" not in started[0].text
    assert left_behind(name) == []


def test_a_second_signal_does_not_hurry_it_into_leaving_something(up: Up) -> None:
    for _ in range(3):
        up.process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    assert up.end() == 0
    assert left_behind(up.name) == []


def test_down_ends_it_and_waits(up: Up) -> None:
    done = vnet("down", "--name", up.name)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{up.name} is down\n", "")
    assert left_behind(up.name) == []
    assert up.end() == 0
    assert vnet("down", "--name", up.name).stdout == f"{up.name} is not running\n"


def test_down_cleans_up_after_kill_9(up: Up) -> None:
    assert up.end(signal.SIGKILL) == -signal.SIGKILL
    assert f"{up.name}-rc" in left_behind(up.name)
    for args in (("show",), ("exec", "rc", "--", "true"), ("link", "down")):
        done = vnet(args[0], "--name", up.name, *args[1:])
        assert (done.returncode, done.stderr) == (1, f"vnet: {up.name} is not running; try: vnet up --name {up.name}\n")
    killed = next(row for row in json.loads(vnet("ps", "--json").stdout) if row["name"] == up.name)
    assert (killed["state"], killed["uptime"], killed["hosts"], killed["devices"]) == ("killed", None, 2, None)
    assert f"killed; try: vnet down --name {up.name}" in vnet("ps").stdout
    done = vnet("down", "--name", up.name)
    assert (done.returncode, done.stdout) == (0, f"{up.name} was killed; removed {up.name}-ep, {up.name}-rc\n")
    assert left_behind(up.name) == []


def test_after_kill_9_it_comes_up_again_and_still_removes_what_it_made(up: Up, started: list[Up]) -> None:
    up.end(signal.SIGKILL)
    started.append(Up(up.name))
    started[1].wait_for(READY)
    assert started[1].end(signal.SIGTERM) == 0
    assert left_behind(up.name) == []


# --exec


@pytest.mark.parametrize(
    ("run", "status"), [("exit 5", 5), ("kill -9 $$", 137), (" ".join((*PING, "198.18.0.2")), 0), ("nonsense", 127)]
)
def test_exec_ends_with_the_status_of_the_command(
    name: str, started: list[Up], require_tool: RequireTool, run: str, status: int
) -> None:
    require_tool("ping")
    started.append(Up(name, "--exec", run))
    assert started[0].end() == status
    assert left_behind(name) == []


def test_a_signal_ends_the_command_and_its_children_too(name: str, started: list[Up]) -> None:
    started.append(Up(name, "--exec", "sleep 60 & echo child $!; wait; echo done"))
    started[0].wait_for("child")
    child = int(started[0].text.split()[-1])
    assert started[0].end(signal.SIGTERM) == 128 + signal.SIGTERM
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{child}").exists()
    assert "done" not in started[0].text
    assert left_behind(name) == []


# Topology files


def write(path: Path, **ports: str) -> str:
    """The built-in topology with other ports, in a file; its path."""
    text = DEFAULT
    for end, port in ports.items():
        text = re.sub(rf"^{end} = .*$", f"{end} = {{ {port} }}", text, flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_namespace_that_was_there_before_is_used_and_stays(
    name: str, started: list[Up], netns: MakeNetns, tmp_path: Path, require_tool: RequireTool
) -> None:
    require_tool("ping")
    given = netns("given")
    driver = f"netns = '{given}', addresses = ['198.18.0.1/24']"
    started.append(Up(name, write(tmp_path / "t.toml", driver=driver)))
    started[0].wait_for(READY)
    assert left_behind(name) == [f"{name}-ep", f"{name}.json", f"{name}.sock"]
    assert started[0].exec("rc", *PING, "198.18.0.2").returncode == 0
    assert started[0].end(signal.SIGKILL) == -signal.SIGKILL
    assert vnet("down", "--name", name).returncode == 0
    assert (NETNS / given).exists()


MISSING = "must be an existing namespace; try: ip netns add"


def test_a_topology_that_can_not_be_is_one_line(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.toml", driver="kind = 'veth'")
    for file, line in (
        (path, f"{path}: devices.net0.driver.kind = 'veth': must be one of tun, tap, memory"),
        ("/nowhere.toml", "/nowhere.toml: No such file or directory"),
        (
            write(tmp_path / "n.toml", driver="netns = 'nowhere'"),
            f"{tmp_path}/n.toml: devices.net0.driver.netns = 'nowhere': {MISSING} nowhere",
        ),
    ):
        done = vnet("up", "--name", name, file)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"vnet: {line}\n")
    assert left_behind(name) == []


WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-net_admin,-sys_admin", "--")
WITHOUT_TUN = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")


@pytest.mark.hostile("X03")
@pytest.mark.parametrize(
    ("prefix", "line"),
    [
        (WITHOUT_RIGHTS, "vnet: no right to make the network namespace "),
        (WITHOUT_TUN, "vnet: /dev/net/tun is missing; try: sudo modprobe tun\n"),
    ],
)
def test_a_missing_right_or_tun_is_one_line_and_ports_in_memory_still_work(
    name: str, started: list[Up], tmp_path: Path, require_tool: RequireTool, prefix: tuple[str, ...], line: str
) -> None:
    require_tool(prefix[0])
    done = vnet("up", "--name", name, prefix=prefix)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(line)
    assert left_behind(name) == []
    in_memory = write(tmp_path / "t.toml", driver="kind = 'memory'", device="kind = 'memory'")
    started.append(Up(name, in_memory, prefix=prefix))
    started[0].wait_for(READY)
    assert json.loads(vnet("show", "--name", name, "--json").stdout)["devices"]["net0"]["up"]
    assert vnet("exec", "--name", name, "rc", "true").stderr == (
        f"vnet: {name}: host 'rc': must be a host with a namespace; this one only has in-memory ports\n"
    )
    assert started[0].end(signal.SIGTERM) == 0


@pytest.mark.parametrize("command", ["up", "down", "show", "link", "exec"])
def test_a_bad_name_is_a_usage_error(command: str) -> None:
    done = vnet(command, "--name", "../x", *{"link": ["up"], "exec": ["rc", "true"]}.get(command, []))
    assert done.returncode == 2
    assert "Invalid value for '--name'" in done.stderr
