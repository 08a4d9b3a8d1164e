"""``vnet unbind``: take the driver, or the device type, from a device."""

from __future__ import annotations

import click

from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.live_names import complete_devices
from vnet.qmp.client import CHANGE_PATIENCE, ask

__all__ = ["command"]


@click.command("unbind")
@name_option
@click.argument("device", shell_complete=complete_devices)
@click.argument("side", type=click.Choice(["driver", "device"]))
@errors_in_one_line
def command(name: str, device: str, side: str) -> None:
    """Unbind the driver or the device type of DEVICE.

    It stays unbound until `vnet bind`. Without its driver, a device is reset. Without its device type, it offers
    nothing, and its driver waits.
    """
    ask(name, "device-unbind", {"name": device, "side": side}, timeout=CHANGE_PATIENCE)
    click.echo(f"{device}: the {side} is unbound")
