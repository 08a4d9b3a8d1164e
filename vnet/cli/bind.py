"""``vnet bind``: give a device its driver, or its device type, again."""

from __future__ import annotations

import click

from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.live_names import complete_devices
from vnet.qmp.client import CHANGE_PATIENCE, ask

__all__ = ["command"]


@click.command("bind")
@name_option
@click.argument("device", shell_complete=complete_devices)
@click.argument("side", type=click.Choice(["driver", "device"]))
@errors_in_one_line
def command(name: str, device: str, side: str) -> None:
    """Bind the driver or the device type of DEVICE again.

    Returns once DEVICE is up, unless its other side is unbound. A driver that failed is tried again.
    """
    ask(name, "device-bind", {"name": device, "side": side}, timeout=CHANGE_PATIENCE)
    click.echo(f"{device}: the {side} is bound")
