"""``vnet remove``: remove a part of a running system."""

from __future__ import annotations

import click

from vnet.cli.change import change
from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.live_names import complete_all_parts

__all__ = ["command"]


@click.command("remove")
@name_option
@click.option("--surprise", is_flag=True, help="Pull it like a card: drivers notice afterwards.")
@click.argument("part", shell_complete=complete_all_parts)
@errors_in_one_line
def command(name: str, surprise: bool, part: str) -> None:
    """Remove PART: a device, LUN, NTB, link or host.

    An NTB or a link takes with it what it carries; a host must have no links and devices. Requests under way are
    finished first, and drivers are unbound, unless --surprise is given. If two parts have the name, PART is table.name,
    such as links.pcie0. A LUN of a SCSI host is DEVICE:TARGET:LUN, such as scsi0:0:1, and its device runs on.
    """
    change(name, "topology-remove", {"name": part, "surprise": surprise})
