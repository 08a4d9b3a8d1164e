"""The commands that examples show for ``vnet serve`` are ones that it takes."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import click
import pytest

from support.guest import shared
from support.paths import EXAMPLES
from vnet.cli.serve import command, hint
from vnet.system.exports import DeviceExport
from vnet.system.qemu import PROGRAM, Version, qemu_version
from vnet.topology import parse_device

EXAMPLE = EXAMPLES / "qemu_guest.md"
SHOWN = re.findall(r"vnet serve (\w+ --vhost-user [^\n`]*)", EXAMPLE.read_text(encoding="utf-8"))


def test_the_example_shows_a_network_and_a_disk_and_where_they_move_to() -> None:
    assert [line.split()[0] for line in SHOWN] == ["net", "blk", "net", "blk"]


@pytest.mark.parametrize("line", SHOWN)
def test_the_commands_of_the_example_are_understood(line: str) -> None:
    assert isinstance(command, click.Group)
    kind, *options = shlex.split(line)
    actual = command.get_command(click.Context(command), kind)
    assert actual is not None
    given = actual.make_context(kind, options).params
    assert given["path"].is_absolute()


def words(text: str) -> list[str]:
    """Each option of QEMU with its argument; names of character and network devices do not matter."""
    options = shlex.split(text.replace("\\\n", " "))
    plain = [re.sub(r"\b[cn]\d\b", "x", word).replace(",vectors=0", "") for word in options]
    return [f"{option} {value}" for option, value in itertools.pairwise(plain) if option.startswith("-")]


def exported(
    kind: str, path: str, connect: bool = False, version: Version | None = (7, 2), **device: object
) -> list[str]:
    """The options that ``vnet serve`` prints for that version of QEMU."""
    output = hint(
        f"{kind}0", DeviceExport(parse_device({"type": kind, **device}, "test"), Path(path), connect), version
    )
    return words(output.split("For QEMU:")[1])


def test_qemu_in_the_example_has_the_arguments_of_serve_and_of_the_guest_tests() -> None:
    [shown] = re.findall(r"```sh\n(qemu-.*?)```", EXAMPLE.read_text(encoding="utf-8"), re.DOTALL)
    events = words(shown)
    for option in (*exported("net", "/tmp/net0.sock"), *exported("blk", "/tmp/disk0.sock")):
        assert option in events
    for option, value in itertools.pairwise(shared()):
        assert not option.startswith("-") or f"{option} {value}" in events
    assert shown.count("-pci,") == shown.count(",vectors=0")


def test_qemu_gets_pairs_of_queues_packed_rings_and_the_listening_side() -> None:
    several = exported("net", "/run/s", queue_pairs=3, ring="packed")
    assert "-netdev vhost-user,id=x,chardev=x,queues=3" in several
    assert "-device virtio-net-pci,netdev=x,disable-legacy=on,mq=on,packed=on" in several
    assert "-chardev socket,id=x,path=/run/s,server=on" in exported("net", "/run/s", connect=True)
    assert "-chardev socket,id=x,path=/run/s" in exported("scsi", "/run/s")


def test_qemu_gets_queues_their_size_and_the_mtu() -> None:
    assert "-device vhost-user-blk-pci,chardev=x,disable-legacy=on,num-queues=1" in exported("blk", "/run/s")
    several = exported("blk", "/run/s", queues=4, queue_size=64)
    assert "-device vhost-user-blk-pci,chardev=x,disable-legacy=on,num-queues=4,queue-size=64" in several
    several = exported("scsi", "/run/s", queues=2, queue_size=4096)
    assert "-device vhost-user-scsi-pci,chardev=x,disable-legacy=on,num_queues=2,virtqueue_size=1024" in several
    assert "-device virtio-net-pci,netdev=x,disable-legacy=on,host_mtu=9000" in exported("net", "/run/s", mtu=9000)


@pytest.mark.parametrize(
    ("version", "option"),
    [
        ((7, 2), "reconnect=1"),
        ((9, 1), "reconnect=1"),
        ((9, 2), "reconnect-ms=1000"),
        ((11, 1), "reconnect-ms=1000"),
        (None, "reconnect-ms=1000"),
    ],
)
def test_qemu_gets_the_reconnect_option_of_its_version(version: Version | None, option: str) -> None:
    for kind in ("net", "blk"):
        assert f"-chardev socket,id=x,path=/run/s,{option}" in exported(kind, "/run/s", version=version)
    again = f",{option}" if option == "reconnect-ms=1000" else ""  # older versions exit if a SCSI host goes away
    assert f"-chardev socket,id=x,path=/run/s{again}" in exported("scsi", "/run/s", version=version)
    assert "-chardev socket,id=x,path=/run/s,server=on" in exported("blk", "/run/s", True, version)


def test_without_a_version_the_hint_says_which_one_it_is_for() -> None:
    export = DeviceExport(parse_device({"type": "blk"}, "test"), Path("/run/s"))
    assert "For QEMU: (from 9.2 on; before that, reconnect=1 at the socket)" in hint("blk0", export)
    assert "9.2" not in hint("blk0", export, (11, 0))


def test_a_path_that_a_shell_and_qemu_would_take_apart_is_quoted_for_both() -> None:
    assert "-chardev socket,id=x,path=/run/a b,,c,reconnect=1" in exported("blk", "/run/a b,c")


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", (7, 2)),
        ("QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)", (11, 1)),
        ("no such thing", None),
    ],
)
def test_the_version_is_that_of_the_program_on_path(
    output: str, version: Version | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert qemu_version() is None
    program = tmp_path / PROGRAM
    program.write_text(f"#!/bin/sh\necho '{output}'\n")
    program.chmod(0o755)
    assert qemu_version() == version
