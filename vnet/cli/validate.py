"""``vnet validate``: report all problems of topology files."""

from __future__ import annotations

from pathlib import Path

import click

from vnet.cli.common import EXPECTED, lines
from vnet.cli.topology_file import FILE, open_topology

__all__ = ["command"]


@click.command("validate")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=FILE)
def command(files: tuple[Path, ...]) -> None:
    """Check topology files without building anything.

    FILE - is standard input. Each problem of a file is one line: file, key, value, reason. The exit status is 1 if a
    file has a problem. Types and transports of --load are known.
    """
    valid = True
    for path in files:
        try:
            file, _ = open_topology(path)
        except EXPECTED as exc:
            valid = False
            for line in lines(exc):
                click.echo(f"vnet: {line}", err=True)
        else:
            click.echo(f"{file}: ok")
    click.get_current_context().exit(0 if valid else 1)
