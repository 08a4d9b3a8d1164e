"""Namespaces on machines that are not as usual: rights, IPv6 or /proc/sys are missing, a name is left over."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_interface
from pathlib import Path

import pytest

from support.cli import READY, Up, left_behind, vnet
from support.machine import NETNS, MakeNetns, RequireTool, ip
from vnet.linux import netns as netns_module
from vnet.linux.netns import Route, create_netns, has_netns, remove_netns, run_in_netns, set_up_interface
from vnet.topology import DEFAULT

pytestmark = pytest.mark.usefixtures("privileged")

ETC_NETNS = Path("/etc/netns")
READ_ONLY = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"
READ_ONLY_PROC_SYS = ("unshare", "--mount", "sh", "-c", f'{READ_ONLY} && exec "$@"', "sh")
PINGS = "ping -n -c 1 -w 15 198.18.0.2 && ping -n -c 1 -w 15 2001:2::2"


@pytest.fixture
def stale(name: str) -> Iterator[str]:
    """A name in /run/netns without a namespace behind it, as a killed program leaves it."""
    NETNS.mkdir(exist_ok=True)
    (NETNS / f"{name}-rc").touch(mode=0)
    yield f"{name}-rc"
    (NETNS / f"{name}-rc").unlink(missing_ok=True)


def test_without_cap_net_admin_no_namespace_stays(name: str, require_tool: RequireTool) -> None:
    require_tool("setpriv")
    done = vnet("up", "--name", name, prefix=("setpriv", "--bounding-set=-net_admin", "--"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("vnet: no right to configure the interface lo; try: ")
    assert done.stderr.count("\n") == 1
    assert left_behind(name) == []


def test_a_namespace_that_can_not_be_set_up_never_gets_a_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise OSError("no loopback")

    monkeypatch.setattr(netns_module, "set_up_interface", fail)
    with pytest.raises(OSError, match="no loopback"):
        create_netns(f"{name}-rc")
    assert left_behind(name) == []


def test_with_proc_sys_read_only_all_addresses_work_at_once(name: str, require_tool: RequireTool) -> None:
    """No search for duplicates delays the IPv6 addresses, although /proc/sys can't switch it off."""
    require_tool("unshare", "ping")
    done = vnet("up", "--name", name, "--exec", PINGS, prefix=READ_ONLY_PROC_SYS)
    assert (done.returncode, done.stderr) == (0, "")
    assert left_behind(name) == []


def test_with_proc_sys_read_only_forwarding_is_refused_in_one_line(
    name: str, tmp_path: Path, require_tool: RequireTool
) -> None:
    """It was asked for, and can't be had: unlike addresses, there is nothing that works without it."""
    require_tool("unshare")
    topology = tmp_path / "t.toml"
    topology.write_text(DEFAULT.replace('kind = "tun"', 'kind = "tun", forward = true'), encoding="utf-8")
    done = vnet("up", "--name", name, str(topology), prefix=READ_ONLY_PROC_SYS)
    assert done.returncode == 1
    assert done.stderr.endswith("forwarding: Read-only file system\n")
    assert done.stderr.count("\n") == 1
    assert left_behind(name) == []


def test_on_a_kernel_without_ipv6_the_other_addresses_work_and_a_line_tells_so(
    netns: MakeNetns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(netns_module, "IF_INET6", tmp_path / "if_inet6")
    given = netns("given")
    addresses = tuple(map(ip_interface, ("198.18.0.1/32", "2001:2::1/128")))
    routes = (Route.parse("198.18.1.0/24"), Route.parse("2001:2:1::/48"))
    run_in_netns(given, lambda: set_up_interface("lo", addresses=addresses, routes=routes))
    assert "198.18.0.1/32" in ip("-n", given, "address", "show", "lo")
    assert "198.18.1.0/24" in ip("-n", given, "route")
    assert "2001:2:" not in ip("-n", given, "address", "show", "lo") + ip("-n", given, "-6", "route")
    assert [record.getMessage() for record in caplog.records] == [
        "lo: this kernel has no IPv6; left out: 2001:2::1/128, 2001:2:1::/48"
    ]


def test_a_name_without_a_namespace_is_one_line_and_stays(name: str, stale: str) -> None:
    with pytest.raises(OSError, match="a name left behind without a network namespace"):
        has_netns(stale)
    done = vnet("up", "--name", name)
    line = f"vnet: /run/netns/{stale}: a name left behind without a network namespace; "
    line += f"try: ip netns del {stale}\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
    assert left_behind(name) == [stale]
    remove_netns(stale)
    remove_netns(stale)
    assert left_behind(name) == []


def test_a_name_without_a_namespace_that_a_killed_system_left_is_replaced(
    name: str, stale: str, started: list[Up]
) -> None:
    """As a kill between the two steps of naming leaves it."""
    state = Path("/run/vnet") / f"{name}.json"
    state.parent.mkdir(mode=0o700, exist_ok=True)
    state.write_text(json.dumps({"name": name, "pid": 1, "hosts": {"rc": stale}, "netns": [stale]}))
    started.append(Up(name))
    started[0].wait_for(READY)
    assert has_netns(stale)


@pytest.fixture
def etc_netns(name: str) -> Iterator[Path]:
    """The folder of a namespace's own files."""
    existed = ETC_NETNS.exists()
    folder = ETC_NETNS / f"{name}-rc"
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)
    if not existed:
        with suppress(OSError):  # Another program has its folder there by now.
            ETC_NETNS.rmdir()


def test_a_program_sees_the_sys_and_the_files_of_its_namespace(
    name: str, started: list[Up], etc_netns: Path, require_tool: RequireTool
) -> None:
    """As with `ip netns exec`, for `vnet exec` and for --exec; what cannot be bound is one line."""
    require_tool("ip")
    hosts = Path("/etc/hosts").read_text()
    (etc_netns / "hosts").write_text("198.18.0.2 peer\n")
    look = "ls /sys/class/net; cat /etc/hosts"
    started.append(Up(name, "--exec", f"{look}; echo ready; exec sleep 60"))
    started[0].wait_for("ready")
    seen = subprocess.run(
        ["ip", "netns", "exec", f"{name}-rc", "sh", "-c", look], capture_output=True, text=True, check=True
    ).stdout
    assert "vnet0" in seen
    assert "198.18.0.2 peer" in seen
    assert started[0].text == f"{seen}ready\n"
    (etc_netns / "no-such-file").touch()
    done = started[0].exec("rc", "sh", "-c", look)
    assert (done.returncode, done.stdout) == (0, seen)
    assert "/etc/no-such-file stays as it is outside of the namespace: No such file or directory" in done.stderr
    assert done.stderr.count("\n") == 1
    assert Path("/etc/hosts").read_text() == hosts
