"""``vnet cfs`` looks at the management tree and changes it; an error has the symbol of its number and its reason."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result

from support.rigs.configfs import TWO_LINKS
from vnet.cli import cfs
from vnet.cli.group import main
from vnet.errors import ControlError
from vnet.qmp.codec import QmpError
from vnet.qmp.commands import Context, execute
from vnet.system.world import World, open_world
from vnet.topology import parse

Run = Callable[..., Awaitable[Result]]
FUNCTION = "pci_ep/functions/pci_epf_virtio/func1"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[World], Run]:
    """Return a function that runs ``vnet cfs`` in a thread, on a world of this one."""

    def on(world: World) -> Run:
        context = Context(world)

        def ask(name: str, command: str, arguments: Mapping[str, object], *_: object, **__: object) -> Any:
            try:
                return trio.from_thread.run(execute, context, command, arguments)
            except QmpError as exc:
                raise ControlError(str(exc)) from None

        monkeypatch.setattr(cfs, "ask", ask)
        return lambda *args: trio.to_thread.run_sync(partial(CliRunner().invoke, main, ["cfs", *args]))

    return on


async def test_a_function_is_made_linked_and_removed(run: Callable[[World], Run]) -> None:
    async with open_world(parse(TWO_LINKS), "t-cfs") as world:
        vnet = run(world)
        for args in (
            ("mkdir", "vnet", FUNCTION),
            ("echo", "vnet", "memory", f"{FUNCTION}/pci_epf_virtio.0/driver/kind"),
            ("echo", "vnet", "memory", f"{FUNCTION}/pci_epf_virtio.0/device/kind"),
            ("ln", "vnet", f"{FUNCTION}/", "pci_ep/controllers/pcie0"),
            ("echo", "vnet", "1", "pci_ep/controllers/pcie0/start"),
        ):
            done = await vnet(*args)
            assert (done.exit_code, done.output) == (0, "")
        assert world.devices["func1"].up
        assert (await vnet("ls", "vnet", "pci_ep/controllers/pcie0")).output == "func1\nstart\n"
        assert (await vnet("ls", "-l", "vnet", "pci_ep/controllers/pcie0")).output == (
            "lrwx------ func1 -> ../../functions/pci_epf_virtio/func1\n-rw------- start\n"
        )
        values = await vnet("cat", "vnet", "pci_ep/controllers/pcie0/start", "pci_ep/controllers/pcie0/func1/vendorid")
        assert values.output == "1\n0x1af4\n"
        await vnet("rm", "vnet", "pci_ep/controllers/pcie0/func1")
        assert (await vnet("rmdir", "vnet", FUNCTION)).exit_code == 0
        assert world.devices == {}


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("ls", "vnet", "x"), "ENOENT: x: No such file or directory"),
        (("cat", "vnet", "pci_ep"), "EISDIR: pci_ep: Is a directory"),
        (("mkdir", "vnet", "x"), "EPERM: x: no directories can be made here"),
        (("rmdir", "vnet", "pci_ep"), "EPERM: pci_ep: belongs to the system"),
        (("rm", "vnet", "pci_ep"), "EISDIR: pci_ep: Is a directory"),
        (("ln", "vnet", "pci_ep", "x"), "EPERM: x: no links can be made here"),
        (("echo", "vnet", "2", "pci_ep/controllers/pcie0/start"), "must be 1 or 0, not '2'"),
        (("echo", "vnet", "", "devices/x"), "ENOENT: devices/x: No such file or directory"),
        (("mkdir", "vnet", f"{FUNCTION}{'n' * 252}"), "ENAMETOOLONG: pci_ep/functions/pci_epf_virtio/...: File name"),
    ],
)
async def test_an_error_is_one_line_with_its_symbol(
    run: Callable[[World], Run], args: tuple[str, ...], line: str
) -> None:
    async with open_world(parse(TWO_LINKS), "t-cfs") as world:
        done = await run(world)(*args)
        assert done.exit_code == 1
        assert line in done.output
        assert len(done.output.splitlines()) == 1
