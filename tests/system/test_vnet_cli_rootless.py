"""Systems that an ordinary user runs, with real interfaces, in a user namespace."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from support.cli import PATIENCE, READY
from support.docs import blocks
from support.machine import RequireTool, unavailable
from support.paths import ROOT, VNET

PAGE = blocks((ROOT / "docs" / "running.md").read_text("utf-8").partition("## Without root\n")[2].partition("\n## ")[0])
UID = 64321
"""A user that no machine has."""
_serial = itertools.count(1)


@attrs.frozen
class OrdinaryUser:
    """A user without any right, whose systems are in ``runtime_dir``."""

    runtime_dir: Path

    def argv(self, *args: str) -> list[str]:
        return [sys.executable, str(ROOT / "tests" / "support" / "ordinary.py"), str(UID), *args]

    @property
    def env(self) -> dict[str, str]:
        return os.environ | {"XDG_RUNTIME_DIR": str(self.runtime_dir), "HOME": str(self.runtime_dir)}

    def vnet(self, *args: str) -> subprocess.CompletedProcess[str]:
        argv = self.argv(str(VNET), *args)
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE, env=self.env)


@pytest.fixture
def user(privileged: None, require_tool: RequireTool) -> Iterator[OrdinaryUser]:
    """It may open /dev/net/tun, and make user namespaces."""
    require_tool("ping", "iperf3", "nsenter")
    folder = Path(f"/tmp/t{os.getpid()}-{next(_serial)}")
    folder.mkdir(mode=0o700)
    os.chown(folder, UID, UID)
    user = OrdinaryUser(folder)
    try:
        possible = "from vnet.linux.privileges.rootless import gives_interfaces as g; raise SystemExit(not g())"
        if subprocess.run(user.argv(sys.executable, "-c", possible), check=False, env=user.env).returncode:
            unavailable("an ordinary user may not make user namespaces, or not open /dev/net/tun")
        yield user
    finally:
        shutil.rmtree(folder)


@pytest.mark.usefixtures("no_leaks")
def test_an_ordinary_user_has_real_interfaces_as_the_page_says(user: OrdinaryUser) -> None:
    """Commands outside find them, and see a rootless system without being told so."""
    [start], lines = (block.text.replace(".venv/bin/vnet", "").splitlines() for block in PAGE)
    with subprocess.Popen(user.argv(str(VNET), *start.split()), stdout=subprocess.PIPE, text=True, env=user.env) as up:
        try:
            assert up.stdout is not None
            hints = [line.strip() for line in itertools.takewhile(lambda line: READY not in line, up.stdout)]
            assert "vnet exec rc -- ping 198.18.0.2    # net0, from rc" in hints
            assert not any("ip netns" in hint for hint in hints)
            assert not Path("/run/netns/vnet-rc").exists()
            assert user.vnet("exec", "--rootless", "ep", "--", "id", "-u").stdout == "0\n"
            shown = user.vnet("show", "--rootless")
            assert (shown.returncode, "net0: net over pci" in shown.stdout) == (0, True), shown.stderr
            for line in lines:
                done = user.vnet(*line.split())
                assert (done.returncode, done.stderr) == (0, ""), line
            assert up.wait(PATIENCE) == 0, "the last line ends it"
        finally:
            if up.poll() is None:
                up.send_signal(signal.SIGTERM)
    assert list((user.runtime_dir / "vnet").iterdir()) == []


@pytest.mark.usefixtures("no_leaks")
def test_after_a_kill_nothing_is_left_but_the_file_that_down_removes(user: OrdinaryUser) -> None:
    """Namespaces of the same names outside are another system's."""
    killed = user.vnet("up", "--rootless", "--exec", "kill -9 $PPID")
    assert killed.returncode == -signal.SIGKILL
    outside = Path("/run/netns/vnet-rc")
    outside.parent.mkdir(exist_ok=True)
    outside.touch()
    try:
        done = user.vnet("down")
        assert (done.returncode, done.stdout) == (0, "vnet was killed; removed its files\n")
        assert outside.exists()
    finally:
        outside.unlink()


@pytest.mark.usefixtures("no_leaks")
def test_the_demo_of_an_ordinary_user_runs_in_a_user_namespace_and_says_so(user: OrdinaryUser) -> None:
    done = user.vnet("demo", "--seconds", "1")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines == ["vnet: no right to make network namespaces: running in a user namespace (--rootless)"]
    assert "virtio-net, tun" in done.stdout


def test_without_the_option_the_error_has_the_command_that_works(user: OrdinaryUser) -> None:
    done = user.vnet("up", "--exec", "true")
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("try: vnet up --rootless --exec true")


def test_another_system_is_not_taken_for_a_rootless_one(user: OrdinaryUser, tmp_path: Path) -> None:
    done = user.vnet("up", str(ROOT / "examples/topologies/blk_over_ntb.toml"), "--exec", f"{VNET} show --rootless")
    assert done.stderr == "vnet: vnet is not rootless; leave --rootless out\n"
