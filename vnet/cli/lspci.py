"""``vnet lspci``: the PCI functions of a running system, decoded by lspci of pciutils."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import click

from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.live_names import complete_hosts, complete_links
from vnet.cli.query import query
from vnet.errors import ControlError
from vnet.lspci import decode, describe, dump
from vnet.names import named
from vnet.views.pci import ConfigImages

__all__ = ["command"]


@click.command("lspci")
@name_option
@click.option("-v", "verbose", count=True, help="Print details; -vv prints all fields of each capability.")
@click.option("-n", "numeric", count=True, help="Print vendor and device ids as numbers; -nn prints both.")
@click.option("-t", "tree", is_flag=True, help="Print the buses as a tree.")
@click.option("-x", "as_hex", is_flag=True, help="Print the bytes, in the format that lspci -F reads.")
@click.option("--host", help="Print only functions that HOST enumerates.", shell_complete=complete_hosts)
@click.option("--link", help="Print only functions behind LINK.", shell_complete=complete_links)
@errors_in_one_line
def command(
    name: str, verbose: int, numeric: int, tree: bool, as_hex: bool, host: str | None, link: str | None
) -> None:
    """Print the PCI functions of a system, as lspci does.

    lspci of pciutils decodes them; each function is followed by its device and its link, and BARs have their sizes.
    The bytes are those that the endpoint has: no access crosses a link.
    """
    functions = query(name, ConfigImages, "query-config-space").functions
    for option, chosen in (("host", host), ("link", link)):
        if chosen is not None:
            known = dict.fromkeys(getattr(each, option) for each in functions)
            named(option, known, chosen, ControlError)
            functions = tuple(each for each in functions if getattr(each, option) == chosen)
    if not functions:
        raise ControlError(f"{name} has no PCI function: none of its devices is behind a link")
    options = ["-" + flag * count for flag, count in (("v", verbose), ("n", numeric), ("t", tree)) if count]
    hosts = [(each, list(own)) for each, own in groupby(functions, lambda function: function.host)]
    for each, own in hosts:
        if len(hosts) > 1:
            click.echo(f"host {each}")
        if as_hex:
            lines: Iterable[str] = dump(own)
        elif tree:
            lines = decode(own, options)
        else:
            lines = describe(own, options)
        click.echo("\n".join(lines))
