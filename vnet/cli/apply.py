"""``vnet apply``: make a running system what a topology file says."""

from __future__ import annotations

from pathlib import Path

import click

from vnet.cli.change import change, read_tables
from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.topology_file import FILE

__all__ = ["command"]


@click.command("apply")
@name_option
@click.option("--dry-run", is_flag=True, help="Print the steps, and change nothing.")
@click.argument("file", type=FILE)
@errors_in_one_line
def command(name: str, dry_run: bool, file: Path) -> None:
    """Make a running system what the topology FILE says.

    Parts that FILE does not have are removed, those that only FILE has are added, and those that differ are removed and
    added. All others run on, and notice nothing. Sizes of memory that FILE leaves open stay as they are. If an addition
    fails, the removed parts are made again. FILE - is standard input.
    """
    arguments = {**read_tables(file), "preview": dry_run}
    if not change(name, "topology-apply", arguments, preview=dry_run):
        click.echo(f"{name} is as {arguments['file']} says")
