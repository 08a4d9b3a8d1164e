"""Device types of files and of installed packages, as users of the command line meet them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.cli import vnet
from support.paths import ROOT, VNET

METADATA = "Metadata-Version: 2.1\nName: noise-maker\nVersion: 1.0\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path of the command, as is that of the test support."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), str(ROOT / "tests"))))
    return tmp_path


@pytest.fixture(params=["file", "package"])
def options(request: pytest.FixtureRequest, folder: Path) -> tuple[str, ...]:
    """Options with which the command knows the device type ``noise``: those of a file, none for a package."""
    if request.param == "file":
        file = folder / "noise_file.py"
        file.write_text(
            "from support.outside import CUSTOM, NOISE\n"
            "from vnet.topology.extensions import add_device_type, add_transport\n"
            "add_device_type('noise', NOISE)\n"
            "add_transport('custom', CUSTOM)\n"
        )
        return ("--load", str(file))
    install(
        folder, "[vnet.device_types]\nnoise = support.outside:NOISE\n[vnet.transports]\ncustom = support.outside:CUSTOM"
    )
    return ()


def install(folder: Path, points: str) -> None:
    info = folder / "noise_maker-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(f"{points}\n")


def output(*args: str) -> str:
    done = vnet(*args)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def test_help_lists_it_like_a_built_in_one(options: tuple[str, ...]) -> None:
    demo, serve = output(*options, "demo", "--help"), output(*options, "serve", "--help")
    assert "noise: random bytes read by the Python API." in " ".join(demo.split())
    assert "[net|rpmsg|blk|scsi|noise]" in demo
    assert "vhost_user|custom]" in "".join(demo.split())
    assert "Serve a noise device." in serve
    assert "--limit INTEGER" in output(*options, "serve", "noise", "--help")
    settings = output(*options, "set", "--help")
    assert "Settings of a noise device at the device's side:\n    limit BYTES  most bytes per request\n" in settings
    assert '"const": "noise"' in output(*options, "schema")


@pytest.mark.parametrize("transport", ["pci", "custom"])
def test_its_demonstration_runs_over_a_built_in_transport_and_one_from_outside(
    options: tuple[str, ...], transport: str
) -> None:
    lines = output(*options, "demo", "--device", "noise", "--transport", transport).splitlines()
    assert lines[0].startswith(f"{'rc' if transport == 'pci' else 'box'} (virtio-noise) <== {transport}, direct ==> ")
    assert lines[1].endswith(" ... 1000 bytes")


def test_it_is_served_with_its_own_options(options: tuple[str, ...], folder: Path) -> None:
    argv = [VNET, *options, "serve", "noise", "--vhost-user", str(folder / "socket"), "--limit", "7"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == f"noise0 listens at {folder / 'socket'}; Ctrl-C ends it.\n"
            assert "vhost-user-rng-pci" in "".join(process.stdout.readline() for _ in range(4))
        finally:
            process.terminate()
    done = vnet(*options, "serve", "noise", "--vhost-user", "s", "--limit", "0")
    assert done.returncode == 1
    assert done.stderr == "vnet: vnet serve noise: --limit = 0: must be between 1 and 65536 (bytes)\n"


def test_a_broken_package_is_one_line_and_breaks_no_command(folder: Path) -> None:
    install(folder, "[vnet.device_types]\nnoise = support.outside:NOTHING")
    done = vnet("schema")
    assert done.returncode == 0
    assert done.stdout.startswith("{")
    assert done.stderr == (
        "vnet: vnet.device_types: noise of package noise-maker is left out: "
        "module 'support.outside' has no attribute 'NOTHING'\n"
    )
    for args in (("down",), ("--help",)):
        assert "left out" not in vnet(*args).stderr
