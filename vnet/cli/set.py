"""``vnet set``: change a setting of a device in a running system."""

from __future__ import annotations

from collections.abc import Iterator

import click

from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.live_names import complete_devices
from vnet.qmp.client import ask

__all__ = ["command"]


def _settings() -> Iterator[str]:
    """Yield a paragraph for help texts per device type and side that has settings, a line per setting."""
    from vnet.ends import DEVICE_TYPES

    for name, kind in DEVICE_TYPES.items():
        for side in ("driver", "device"):
            rows = [(f"{key} {own.values}", own.help) for key, own in kind.settings.items() if own.side == side]
            if rows:
                width = max(len(setting) for setting, _ in rows)
                lines = [f"  {setting:<{width}}  {about}" for setting, about in rows]
                yield "\n".join(["\b", f"Settings of a {name} device at the {side}'s side:", *lines])


class SetCommand(click.Command):
    """The command, whose help lists the settings of all device types. Only the help imports them."""

    _about: str | None = None

    def _set_help(self, text: str | None) -> None:
        self._about = text

    def _full_help(self) -> str:
        return "\n\n".join([self._about or "", *_settings()])

    help = property(_full_help, _set_help)


@click.command("set", cls=SetCommand)
@name_option
@click.argument("device", shell_complete=complete_devices)
@click.argument("setting")
@click.argument("value", default="")
@errors_in_one_line
def command(name: str, device: str, setting: str, value: str) -> None:
    """Change SETTING of DEVICE while the system runs."""
    ask(name, "device-set", {"name": device, "setting": setting, "value": value})
    click.echo(" ".join(filter(None, (f"{device}: {setting}", value))))
