"""``vnet set``: change a setting of a device in a running system."""

from __future__ import annotations

import click

from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.live_names import complete_devices
from vnet.system.client import ask

__all__ = ["command"]


@click.command("set")
@name_option
@click.argument("device", shell_complete=complete_devices)
@click.argument("setting")
@click.argument("value", default="")
@errors_in_one_line
def command(name: str, device: str, setting: str, value: str) -> None:
    """Change SETTING of DEVICE while the system runs.

    \b
    Settings of a network device at the driver's side:
      mac ADDRESS          pairs NUMBER|all       offloads all|none|csum,tso4,...
      promisc on|off       allmulti on|off        alluni, nomulti, nouni, nobcast
      unicast ADDRESS,...  multicast ADDRESS,...  vlans NUMBER,...   (none: empty)
    Settings at the device's side:
      carrier on|off       mtu BYTES              announce
    """
    ask(name, "device-set", {"name": device, "setting": setting, "value": value})
    click.echo(" ".join(filter(None, (f"{device}: {setting}", value))))
