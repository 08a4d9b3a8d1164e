"""``vnet link``: take links of a running system down and up."""

from __future__ import annotations

import click

from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.live_names import complete_links, part_names
from vnet.errors import ControlError
from vnet.qmp.client import ask

__all__ = ["command"]


@click.command("link")
@name_option
@click.argument("move", type=click.Choice(["up", "down"]))
@click.argument("link", required=False, shell_complete=complete_links)
@errors_in_one_line
def command(name: str, move: str, link: str | None) -> None:
    """Take LINK, or all links, down or up while the system runs."""
    up = move == "up"
    links = part_names(name, "links") if link is None else [link]
    if not links:
        raise ControlError(f"{name} has no link: all its devices are within one host")
    for each in links:
        ask(name, "set_link", {"name": each, "up": up})
        click.echo(f"{each} is {'up' if up else 'down'}")
