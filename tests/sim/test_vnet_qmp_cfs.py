"""The commands of the management tree return entries and values, and errors that begin with the kernel's symbol."""

from __future__ import annotations

import errno
import stat
from collections.abc import AsyncIterator

import pytest

from support.rigs.configfs import TWO_LINKS
from vnet.qmp.cfs import error_number
from vnet.qmp.codec import QmpError
from vnet.qmp.commands import Context, execute
from vnet.system.world import World, open_world
from vnet.topology import parse

START = "pci_ep/controllers/pcie0/start"
FUNCTION = "pci_ep/functions/pci_epf_virtio/func1"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world(parse(TWO_LINKS), "t-cfs") as world:
        yield world


async def test_a_function_is_made_linked_unlinked_and_removed(world: World) -> None:
    context = Context(world)
    link = f"{START.removesuffix('/start')}/func1"
    assert await execute(context, "cfs-mkdir", {"path": FUNCTION}) == {}
    for end in ("driver", "device"):
        path = f"{FUNCTION}/pci_epf_virtio.0/{end}/kind"
        assert await execute(context, "cfs-write", {"path": path, "data": "memory\n"}) == {}
        assert await execute(context, "cfs-read", {"path": path}) == {"text": "memory\n"}
    await execute(context, "cfs-symlink", {"path": link, "target": FUNCTION})
    await execute(context, "cfs-write", {"path": START, "data": "1"})
    assert world.devices["func1"].up
    target = "../../functions/pci_epf_virtio/func1"
    entry = {"name": "func1", "mode": stat.S_IFLNK | 0o700, "target": target}
    assert await execute(context, "cfs-stat", {"path": link}) == entry
    assert await execute(context, "cfs-list", {"path": "pci_ep/controllers/pcie0"}) == [
        entry,
        {"name": "start", "mode": stat.S_IFREG | 0o600},
    ]
    assert await execute(context, "cfs-unlink", {"path": link}) == {}
    assert await execute(context, "cfs-rmdir", {"path": FUNCTION}) == {}
    assert world.devices == {}


@pytest.mark.parametrize(
    ("command", "arguments", "number"),
    [
        ("cfs-list", {"path": "x"}, errno.ENOENT),
        ("cfs-read", {"path": "pci_ep"}, errno.EISDIR),
        ("cfs-write", {"path": START, "data": ""}, errno.EINVAL),
        ("cfs-write", {"path": START, "data": "\udcff"}, errno.EINVAL),
        ("cfs-write", {"path": "devices/x", "data": "1"}, errno.ENOENT),
        ("cfs-mkdir", {"path": "x"}, errno.EPERM),
        ("cfs-mkdir", {"path": "n" * 256}, errno.ENAMETOOLONG),
        ("cfs-symlink", {"path": "x", "target": "pci_ep"}, errno.EPERM),
        ("cfs-unlink", {"path": START}, errno.EPERM),
        ("cfs-rmdir", {"path": "pci_ep"}, errno.EPERM),
    ],
)
async def test_an_error_begins_with_its_symbol(
    world: World, command: str, arguments: dict[str, str], number: int
) -> None:
    with pytest.raises(QmpError) as caught:
        await execute(Context(world), command, arguments)
    assert error_number(caught.value.desc) == number


def test_other_errors_have_the_number_of_an_input_or_output_error() -> None:
    assert [error_number(text) for text in ("", "x: EBUSY: y", "EXYZ: z", "the system is gone")] == [errno.EIO] * 4
