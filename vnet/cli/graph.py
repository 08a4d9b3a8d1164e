"""``vnet graph``: a topology file or a running system as a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import click

from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.query import query
from vnet.cli.topology_file import FILE, open_topology
from vnet.graph.build import of_system, of_topology
from vnet.graph.model import Graph
from vnet.graph.svg import to_svg
from vnet.graph.texts import to_dot, to_mermaid
from vnet.views.system import SystemView

__all__ = ["command"]

FORMATS: Mapping[str, Callable[[Graph], str]] = {"svg": to_svg, "mermaid": to_mermaid, "dot": to_dot}
SUFFIXES = {".svg": "svg", ".mmd": "mermaid", ".dot": "dot", ".gv": "dot"}
"""Format by suffix of the output file."""


@click.command("graph")
@click.argument("file", required=False, type=FILE)
@name_option
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    help="Format of the picture. Default: by the suffix of --output, else svg.",
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File for the picture instead of stdout."
)
@click.pass_context
@errors_in_one_line
def command(context: click.Context, file: Path | None, name: str, form: str | None, output: Path | None) -> None:
    """Draw a topology FILE, or a running system with its states.

    Hosts are boxes, links thick lines, devices thin lines from the driver to the device. FILE - is standard input.
    mermaid renders in Markdown, and `dot -Tsvg` of Graphviz draws dot.
    """
    if file is None:
        graph = of_system(query(name, SystemView, "query-vnet"))
    elif context.get_parameter_source("name") is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("FILE and --name exclude each other")
    else:
        graph = of_topology(*open_topology(file))
    chosen = form or (SUFFIXES.get(output.suffix, "svg") if output is not None else "svg")
    picture = FORMATS[chosen](graph)
    if output is None:
        click.echo(picture, nl=False)
    else:
        output.write_text(picture, encoding="utf-8")
