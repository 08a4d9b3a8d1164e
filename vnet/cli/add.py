"""``vnet add``: add parts to a running system."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vnet.cli.change import change, read_tables
from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.live_names import complete_devices
from vnet.errors import ControlError

__all__ = ["command"]


@click.command("add")
@name_option
@click.option("--device", metavar="NAME", help="Add the device NAME, whose keys follow as KEY=VALUE.")
@click.option(
    "--lun",
    metavar="NAME",
    shell_complete=complete_devices,
    help="Add a LUN to the SCSI host NAME; the LUN's keys follow as KEY=VALUE.",
)
@click.argument("what", nargs=-1, required=True, metavar="FILE | KEY=VALUE...")
@errors_in_one_line
def command(name: str, device: str | None, lun: str | None, what: Sequence[str]) -> None:
    """Add the parts in FILE to a running system.

    FILE has tables of a topology file: hosts, links, ntbs, devices. They may refer to parts that run. All parts are
    added and their devices come up, or nothing is changed. FILE - is standard input.

    With --device, the keys of one device are given as KEY=VALUE, each as in a topology file. A VALUE that is no number,
    list or table is text, and a KEY with dots is one of a table. --lun takes the keys of one LUN in the same way, which
    a running SCSI host reports to its driver.

    \b
    vnet add net1.toml
    vnet add --device net1 type=net link=pcie0 function=1 driver.addresses='["198.18.1.1/24"]'
    vnet add --lun scsi0 lun=1 store=memory size=16
    """
    if device is not None and lun is not None:
        raise ControlError("only one of --device and --lun can be given")
    if lun is not None:
        change(name, "lun-add", {"name": lun, "lun": _keys(what), "file": "vnet add"})
    elif device is not None:
        change(name, "topology-add", {"topology": {"devices": {device: _keys(what)}}, "file": "vnet add"})
    elif len(what) == 1:
        change(name, "topology-add", read_tables(Path(what[0])))
    else:
        raise ControlError(f"one FILE is needed, not {len(what)}; for keys, give --device NAME or --lun NAME")


def _keys(given: Sequence[str]) -> dict[str, Any]:
    """Return the keys of a device. Raises ControlError."""
    keys: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ControlError(f"{text!r}: must be KEY=VALUE")
        *tables, last = name.split(".")
        place = keys
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise ControlError(f"{text!r}: {table} is not a table")
        if last in place:
            raise ControlError(f"{text!r}: {name} is given twice")
        place[last] = _value(value)
    return keys


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except ValueError:
        return text
