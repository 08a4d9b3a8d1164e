"""Options of ``vnet serve``: each value counts, and what can't be is one line that names the option."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from vnet.cli import serve
from vnet.ends.scsi import ScsiSpec
from vnet.ends.scsi.serve import _luns
from vnet.system.exports import DeviceExport
from vnet.topology import parse_device

SOCKET = ["--vhost-user", "/nowhere/s"]
LONG = "/" + "x" * 107
DISK = ["blk", *SOCKET, "--file", "/nowhere/x"]
TAP = ["net", *SOCKET, "--tap", "t"]
REFUSED = [
    ([*DISK, "--size", "0"], "blk: --size = 0: must be between 1 and 1073741824 (MiB)"),
    ([*DISK, "--size", "-1"], "blk: --size = -1: must be between 1 and 1073741824 (MiB)"),
    ([*DISK, "--queues", "0"], "blk: --queues = 0: must be between 1 and 16"),
    ([*DISK, "--queues", "17"], "blk: --queues = 17: must be between 1 and 16"),
    ([*DISK, "--queue-size", "0"], "blk: --queue-size = 0: must be a power of two between 2 and 32768"),
    ([*DISK, "--queue-size", "2"], "blk: --queue-size = 2: must be at least 4 for a blk device"),
    ([*DISK, "--serial", 21 * "a"], f"blk: --serial = '{21 * 'a'}': must be at most 20 printable ASCII characters"),
    ([*DISK, "--features-off", "X"], "blk: --features-off = ['X']: unknown feature X; known are SIZE_MAX, "),
    (["blk", *SOCKET, "--file", ""], "blk: --file = '': must be a file path"),
    (["blk", "--vhost-user", LONG, "--file", "x"], f"blk: --vhost-user = '{LONG}': must be a socket path"),
    ([*TAP, "--mtu", "0"], "net: --mtu = 0: must be between 68 and 65521 (bytes)"),
    ([*TAP, "--pairs", "0"], "net: --pairs = 0: must be between 1 and 64"),
    ([*TAP, "--mac", ""], "net: --mac = '': must be a unicast MAC address"),
    ([*TAP, "--address", "198.18.0.1"], "net: --address = ['198.18.0.1']: must be addresses with prefix length"),
    ([*TAP, "--netns", ""], "net: --netns = '': must be the name of a namespace"),
    (["net", *SOCKET, "--tap", ""], "net: --tap = '': must be an interface name"),
    (["net", *SOCKET, "--tun", "all"], "net: --tun = 'all': must be an interface name"),
    (["scsi", *SOCKET, "--queues", "0", "--lun", "path=x"], "scsi: --queues = 0: must be between 1 and 16"),
    (["scsi", *SOCKET, "--lun", "path=x,lun=-1"], "scsi: --lun[0].lun = -1: must be between 0 and 16383"),
    (
        ["scsi", *SOCKET, "--lun", "path=x", "--lun", "path=y,size=big"],
        "scsi: --lun[1].size = 'big': must be a whole",
    ),
    (
        ["rpmsg", *SOCKET, "--channel", "name=a", "--channel", "name=b,surface=pty"],
        "rpmsg: --channel[1].path: must be given for surface pty",
    ),
    (["scsi", *SOCKET, "--lun", "path=x,colour=1"], "scsi: --lun[0].colour = '1': unknown key; known are store, path"),
]


@pytest.mark.parametrize(("options", "line"), REFUSED)
def test_a_value_that_can_not_be_is_one_line_with_its_option(options: list[str], line: str) -> None:
    done = CliRunner().invoke(serve.command, options)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"vnet: vnet serve {line}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["path", "path=x,path=y", "path=x,", ""])
def test_a_unit_has_each_key_once_and_with_a_value(text: str) -> None:
    done = CliRunner().invoke(serve.command, ["scsi", *SOCKET, "--lun", text])
    assert done.exit_code == 2
    assert "must be KEY=VALUE,..., each key once" in done.stderr


def test_the_type_of_a_units_value_is_that_of_its_key() -> None:
    units = _luns(["path=1,serial=123,size=64,read_only=true", "path=true=false,lun=7,block_size=4096"])
    spec = parse_device({"type": "scsi", "device": {"luns": units}}, "test")
    assert isinstance(spec, ScsiSpec)
    first, second = spec.device.luns
    assert (first.path, first.serial, first.size, first.read_only, first.lun) == ("1", "123", 64, True, 0)
    assert (second.path, second.lun, second.block_size) == ("true=false", 7, 4096)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "exactly one of --vhost-user and --vfio-user must be given"),
        ([*SOCKET, "--vfio-user", "/nowhere/f"], "exactly one of --vhost-user and --vfio-user must be given"),
        ([*SOCKET, "--transport", "epf_mailbox"], "--transport requires --vfio-user"),
        (["--vfio-user", "/nowhere/f", "--transport", "ntb"], "'ntb' is not one of 'pci', 'epf_mailbox'"),
        (["--vfio-user", "/nowhere/f", "--connect"], "--connect requires --vhost-user: vfio-user clients connect"),
    ],
)
def test_a_device_has_one_socket_of_one_kind(options: list[str], why: str) -> None:
    done = CliRunner().invoke(serve.command, ["blk", *options, "--file", "/nowhere/x"])
    assert done.exit_code == 2
    assert why in done.stderr


def test_a_device_with_too_many_queues_for_its_transport_is_one_line(tmp_path: Path) -> None:
    options = ["--vfio-user", str(tmp_path / "s"), "--transport", "epf_mailbox", "--tap", "t0", "--pairs", "5"]
    done = CliRunner().invoke(serve.command, ["net", *options])
    assert done.exit_code == 1
    why = "must be less: it takes 11 queues, and transport epf_mailbox carries 8"
    assert done.stderr == f"vnet: vnet serve net: --pairs = 5: {why}\n"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_function_has_a_socket_for_each_of_its_links(count: int) -> None:
    done = CliRunner().invoke(serve.command, ["ntb", *(count * ["--vfio-user", "/nowhere/f"])])
    assert done.exit_code == 2
    assert "--vfio-user must be given 2 times" in done.stderr


def test_the_arguments_for_qemu_name_the_functions_socket() -> None:
    export = DeviceExport(parse_device({"type": "blk", "device": {"size": 1}}, "test"), Path("/a b/s"), vfio_user=True)
    lines = serve.hint("blk0", export).splitlines()
    assert lines[:2] == ["blk0 listens at /a b/s; Ctrl-C ends it.", "For QEMU: (from 10.1 on)"]
    word, device = shlex.split(lines[-1])
    assert word == "-device"
    assert json.loads(device) == {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": "/a b/s"}}
