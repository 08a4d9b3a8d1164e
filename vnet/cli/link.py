"""``vnet link``: take links of a running system down and up."""

from __future__ import annotations

import click

from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.live_names import complete_links, part_names
from vnet.errors import ControlError
from vnet.qmp.client import ask

__all__ = ["command"]

CONTROLLER = {"start": "started", "stop": "stopped"}
"""Moves of the endpoint controller of a link, with the state after each."""


@click.command("link")
@name_option
@click.argument("move", type=click.Choice(["up", "down", "start", "stop"]))
@click.argument("link", required=False, shell_complete=complete_links)
@errors_in_one_line
def command(name: str, move: str, link: str | None) -> None:
    """Take LINK, or all links, down or up; stop or start its endpoint.

    A link that is down keeps its functions: they are lost, and come back. `stop` stops the endpoint controller, as if
    the card was pulled from its slot: its functions are gone from the bus until `start`.
    """
    links = part_names(name, "links") if link is None else [link]
    if not links:
        raise ControlError(f"{name} has no link: all its devices are within one host")
    for each in links:
        if move in CONTROLLER:
            ask(name, f"controller-{move}", {"name": each})
        else:
            ask(name, "set_link", {"name": each, "up": move == "up"})
        click.echo(f"{each} is {CONTROLLER.get(move, move)}")
