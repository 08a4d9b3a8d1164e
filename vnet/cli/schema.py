"""``vnet schema``: what may stand in a topology file."""

from __future__ import annotations

import json

import click

from vnet.topology.reference import json_schema, reference

__all__ = ["command"]


@click.command("schema")
@click.option("--markdown", is_flag=True, help="Print the reference as Markdown tables instead.")
def command(markdown: bool) -> None:
    """Print the JSON Schema of topology files, for editors and checkers.

    A file that begins with `#:schema vnet.schema.json` is completed and checked by editors that know TOML.
    Device types and transports of --load are in it.
    """
    click.echo(reference() if markdown else json.dumps(json_schema(), indent=2))
