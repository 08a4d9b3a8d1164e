"""``vnet link``: take links of a running system down and up."""

from __future__ import annotations

import click
import trio

from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.live_names import complete_links
from vnet.errors import ControlError
from vnet.system.control import ask

__all__ = ["command"]


@click.command("link")
@name_option
@click.argument("move", type=click.Choice(["up", "down"]))
@click.argument("link", required=False, shell_complete=complete_links)
@errors_in_one_line
def command(name: str, move: str, link: str | None) -> None:
    """Take LINK, or all links, down or up while the system runs."""
    trio.run(_set, name, link, move == "up")


async def _set(name: str, link: str | None, up: bool) -> None:
    links = await _all_links(name) if link is None else (link,)
    if not links:
        raise ControlError(f"{name} has no link: all its devices are within one host")
    for each in links:
        await ask(name, "link-set", {"name": each, "up": up})
        click.echo(f"{each} is {'up' if up else 'down'}")


async def _all_links(name: str) -> tuple[str, ...]:
    snapshot = await ask(name, "query-vnet")
    assert isinstance(snapshot, dict)
    return tuple(snapshot["links"])
