"""``vnet capture``: record what happens in a running system, for Wireshark, for Perfetto, or as lines of text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from vnet.capture.recorder import SNAP_LENGTH
from vnet.cli.capture_outputs import STANDARD, lines, pcapng, timeline
from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.live_names import complete_parts, complete_topics
from vnet.cli.reception import CaptureChoice, begin, receive

__all__ = ["NAMES", "SNAP_LENGTHS", "command"]


class _Names(click.ParamType[list[str]]):
    """Names with commas between."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        return value if isinstance(value, list) else [name for name in value.split(",") if name]


NAMES = _Names()
SNAP_LENGTHS = click.IntRange(0, 1 << 18)


def _print_dissector(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        from vnet.capture.dissector import dissector

        click.echo(dissector(), nl=False)
        context.exit()


@click.command("capture")
@name_option
@click.option(
    "--on",
    type=NAMES,
    default="",
    metavar="NAME,...",
    shell_complete=complete_parts,
    help="Devices and links; a link stands also for the devices on it. Default: all.",
)
@click.option(
    "--events",
    type=NAMES,
    default="",
    metavar="KIND,...",
    shell_complete=complete_topics,
    help="Kinds: frames, rings, registers, tlps, lifecycle, losses, links, vhost-user, control. Default: all.",
)
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="CONDITION",
    help="Condition on a field, such as 'ring.written > 1000' or 'queue == transmitq1'. Repeatable: all must hold.",
)
@click.option(
    "--snaplen", type=SNAP_LENGTHS, default=SNAP_LENGTH, show_default=True, help="Bytes of a frame to capture."
)
@click.option(
    "-w",
    "--write",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for pcapng; - is standard output.",
)
@click.option("--perfetto", type=click.Path(dir_okay=False, path_type=Path), help="File for a timeline.")
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), help="Length of the capture. Default: until Ctrl-C."
)
@click.option(
    "--dissector",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_dissector,
    help="Print the Wireshark dissector of the events, a Lua program.",
)
@errors_in_one_line
def command(
    name: str,
    on: list[str],
    events: list[str],
    filters: Sequence[str],
    snaplen: int,
    file: Path | None,
    perfetto: Path | None,
    seconds: float | None,
) -> None:
    """Record what happens in a running system.

    Without -w and --perfetto, print a line per event. The capture ends at Ctrl-C, after --seconds, or with the system.
    A last line on standard error says how many events were captured, and how many were lost because the output took
    them too slowly: the system never waits for it.

    \b
    vnet capture -w - | wireshark -k -i -
    """
    if file == STANDARD and sys.stdout.isatty():
        raise click.UsageError("-w - would write to the terminal: redirect standard output, or name a file")
    with begin(name, CaptureChoice(on, events, list(filters), snaplen)) as stream, ExitStack() as stack:
        outputs = []
        if file is not None:
            outputs.append(stack.enter_context(pcapng(file)))
        if perfetto is not None:
            outputs.append(stack.enter_context(timeline(perfetto)))
        if not outputs:
            outputs.append(lines())
        click.echo(f"capturing {name}; Ctrl-C ends it", err=True)
        report = receive(stream, outputs, seconds)
    click.echo(str(report), err=True)
