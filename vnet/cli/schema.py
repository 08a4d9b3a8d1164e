"""``vnet schema``: print the schema or the reference of topology files."""

from __future__ import annotations

import json

import click

from vnet.topology.reference import json_schema, reference

__all__ = ["command"]


@click.command("schema")
@click.option("--markdown", is_flag=True, help="Print the reference as Markdown tables instead.")
def command(markdown: bool) -> None:
    """Print the JSON Schema of topology files.

    Editors that know TOML complete and check a file whose first line is `#:schema vnet.schema.json`.
    The schema includes the device types and transports of --load.
    """
    click.echo(reference() if markdown else json.dumps(json_schema(), indent=2))
