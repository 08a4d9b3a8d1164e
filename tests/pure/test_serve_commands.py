"""The commands that examples show for ``vnet serve`` are ones that it takes."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import click
import pytest
from guest import shared

from vnet.cli.serve import command, hint
from vnet.serve import Export
from vnet.topology import parse_device

EXAMPLE = Path(__file__).parents[2] / "examples/qemu_guest.md"
SHOWN = re.findall(r"vnet serve (\w+ --vhost-user [^\n`]*)", EXAMPLE.read_text(encoding="utf-8"))


def test_the_example_shows_a_network_and_a_disk_and_where_they_move_to() -> None:
    assert [line.split()[0] for line in SHOWN] == ["net", "blk", "net", "blk"]


@pytest.mark.parametrize("line", SHOWN)
def test_what_the_example_shows_is_understood(line: str) -> None:
    assert isinstance(command, click.Group)
    kind, *options = shlex.split(line)
    found = command.get_command(click.Context(command), kind)
    assert found is not None
    given = found.make_context(kind, options).params
    assert given["path"].is_absolute()


def words(text: str) -> list[str]:
    """Each option of QEMU with its argument; names of character and network devices do not matter."""
    options = shlex.split(text.replace("\\\n", " "))
    plain = [re.sub(r"\b[cn]\d\b", "x", word).replace(",vectors=0", "") for word in options]
    return [f"{option} {value}" for option, value in itertools.pairwise(plain) if option.startswith("-")]


def exported(kind: str, path: str, connect: bool = False, **device: object) -> list[str]:
    """The options that ``vnet serve`` tells."""
    said = hint(f"{kind}0", Export(parse_device({"type": kind, **device}, "test"), Path(path), connect))
    return words(said.split("For QEMU:")[1])


def test_qemu_in_the_example_is_told_what_serve_tells_and_what_the_tests_of_guests_tell() -> None:
    [shown] = re.findall(r"```sh\n(qemu-.*?)```", EXAMPLE.read_text(encoding="utf-8"), re.DOTALL)
    told = words(shown)
    for option in (*exported("net", "/tmp/net0.sock"), *exported("blk", "/tmp/disk0.sock")):
        assert option in told
    for option, value in itertools.pairwise(shared()):
        assert not option.startswith("-") or f"{option} {value}" in told
    assert shown.count("-pci,") == shown.count(",vectors=0")


def test_qemu_is_told_of_pairs_of_queues_packed_rings_and_who_listens() -> None:
    several = exported("net", "/run/s", queue_pairs=3, ring="packed")
    assert "-netdev vhost-user,id=x,chardev=x,queues=3" in several
    assert "-device virtio-net-pci,netdev=x,mq=on,packed=on" in several
    assert "-chardev socket,id=x,path=/run/s,server=on" in exported("net", "/run/s", connect=True)
    assert "-chardev socket,id=x,path=/run/s" in exported("scsi", "/run/s")
