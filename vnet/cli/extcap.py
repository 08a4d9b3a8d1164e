"""``vnet-extcap``: running systems in Wireshark's list of interfaces.

Wireshark runs each program in its extcap folder: to list interfaces and their options, and to capture into a FIFO
(doc/extcap.adoc of Wireshark).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from drivers.contracts.events import Topic
from vnet.capture.filters import parse_filter
from vnet.capture.recorder import SNAP_LENGTH, UPPER_PDU
from vnet.cli.capture import NAMES, SNAP_LENGTHS
from vnet.cli.capture_outputs import pcapng
from vnet.cli.common import errors_in_one_line
from vnet.cli.interrupt import raise_on_interrupt
from vnet.cli.live_names import part_names
from vnet.cli.reception import CaptureChoice, begin, receive
from vnet.errors import ControlError
from vnet.system.state import running, system_names
from vnet.version import __version__

__all__ = ["command"]

PREFIX = "vnet-"
"""Start of the names of interfaces; the name of the system follows."""


@click.command("vnet-extcap", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.version_option(__version__, prog_name="vnet-extcap")
@click.option("--extcap-interfaces", "interfaces", is_flag=True, help="List the running systems.")
@click.option("--extcap-interface", "interface", default="", help="Interface of a system.")
@click.option("--extcap-dlts", "link_types", is_flag=True, help="List the link types of the interface.")
@click.option("--extcap-config", "config", is_flag=True, help="List the options of the interface.")
@click.option("--capture", is_flag=True, help="Capture into the FIFO.")
@click.option("--fifo", type=click.Path(path_type=Path), help="FIFO, or another file.")
@click.option("--extcap-capture-filter", "condition", default="", help="Condition on a field of the events.")
@click.option("--on", type=NAMES, default="", help="Devices and links.")
@click.option("--events", type=NAMES, default="", help="Kinds of events.")
@click.option("--snaplen", type=SNAP_LENGTHS, default=SNAP_LENGTH, help="Bytes of a frame to capture.")
@errors_in_one_line
def command(
    interfaces: bool,
    interface: str,
    link_types: bool,
    config: bool,
    capture: bool,
    fifo: Path | None,
    condition: str,
    on: list[str],
    events: list[str],
    snaplen: int,
) -> None:
    """Show running systems to Wireshark.

    Wireshark runs this program itself, if it finds it in its extcap folder, which Help, About Wireshark, Folders names.
    """
    raise_on_interrupt()
    system = interface.removeprefix(PREFIX)
    if interfaces:
        click.echo("\n".join(_interfaces()))
    elif not interface:
        raise click.UsageError("choose --extcap-interfaces, or an --extcap-interface")
    elif link_types:
        click.echo(f"dlt {{number={UPPER_PDU}}}{{name=WIRESHARK_UPPER_PDU}}{{display=Frames and events of vnet}}")
    elif config:
        click.echo("\n".join(_config(system)))
    elif capture:
        if fifo is None:
            raise click.UsageError("--capture requires --fifo")
        _capture(system, fifo, CaptureChoice(on, events, [condition] if condition else [], snaplen))
    elif condition:
        _check(condition)


def _interfaces() -> Iterator[str]:
    yield f"extcap {{version={__version__}}}{{display=vnet}}"
    try:
        names = [name for name in system_names() if running(name) is not None]
    except (ControlError, OSError):  # a user without a runtime directory has no systems
        names = []
    for name in names:
        yield f"interface {{value={PREFIX}{name}}}{{display=vnet system {name}}}"


def _config(system: str) -> Iterator[str]:
    """Yield the options of a system. Raises ControlError, OSError."""
    about = "{tooltip=None: all. A link stands also for the devices on it.}"
    yield f"arg {{number=0}}{{call=--on}}{{display=Devices and links}}{about}{{type=multicheck}}"
    for name in part_names(system, "devices", "links"):
        yield f"value {{arg=0}}{{value={name}}}{{display={name}}}"
    yield "arg {number=1}{call=--events}{display=Events}{tooltip=None: all.}{type=multicheck}"
    for topic in Topic:
        yield f"value {{arg=1}}{{value={topic.value}}}{{display={topic.value}}}"
    bounds = f"{{range={SNAP_LENGTHS.min},{SNAP_LENGTHS.max}}}{{default={SNAP_LENGTH}}}"
    yield f"arg {{number=2}}{{call=--snaplen}}{{display=Bytes of a frame}}{{type=integer}}{bounds}"


def _check(condition: str) -> None:
    """Print why Wireshark must not take a condition; nothing if it may."""
    try:
        parse_filter(condition)
    except ValueError as exc:
        click.echo(str(exc))


def _capture(system: str, fifo: Path, choice: CaptureChoice) -> None:
    """Capture until Wireshark closes the FIFO or sends SIGTERM. Raises ControlError, OSError."""
    with begin(system, choice) as stream, pcapng(fifo) as output:
        try:
            receive(stream, [output])
        except BrokenPipeError:
            pass
