"""``vnet set``: change a setting of a device or a link in a running system."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.live_names import complete_things, part_names
from vnet.errors import ControlError
from vnet.link.tlp import TIMING_KEYS
from vnet.names import named
from vnet.qmp.client import ask

__all__ = ["command"]


def _settings() -> Iterator[str]:
    """Yield a paragraph for help texts per device type and side that has settings, and one for links."""
    from vnet.ends import DEVICE_TYPES
    from vnet.system.device_keys import device_key_rows
    from vnet.system.link_settings import link_setting_rows

    for name, kind in DEVICE_TYPES.items():
        for side in ("driver", "device"):
            rows = [(f"{key} {own.values}", own.help) for key, own in kind.settings.items() if own.side == side]
            if rows:
                yield _paragraph(f"Settings of a {name} device at the {side}'s side:", rows)
    yield _paragraph("Settings of any device whose driver is unbound:", device_key_rows())
    yield _paragraph("Settings of a link whose accesses take time, see topology files:", link_setting_rows())


def _paragraph(title: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(setting) for setting, _ in rows)
    return "\n".join(["\b", title, *(f"  {setting:<{width}}  {about}" for setting, about in rows)])


class SetCommand(click.Command):
    """The command, whose help lists the settings of all device types and of links. Only the help imports them."""

    _about: str | None = None

    def _set_help(self, text: str | None) -> None:
        self._about = text

    def _full_help(self) -> str:
        return "\n\n".join([self._about or "", *_settings()])

    help = property(_full_help, _set_help)


@click.command("set", cls=SetCommand)
@name_option
@click.argument("part", shell_complete=complete_things)
@click.argument("setting")
@click.argument("value", default="")
@errors_in_one_line
def command(name: str, part: str, setting: str, value: str) -> None:
    """Change SETTING of a device or link while the system runs."""
    links, devices = part_names(name, "links"), part_names(name, "devices")
    named("device or link", dict.fromkeys((*devices, *links)), part, ControlError)
    is_link = part in links and (part not in devices or setting in TIMING_KEYS)
    ask(name, "link-set" if is_link else "device-set", {"name": part, "setting": setting, "value": value})
    click.echo(" ".join(filter(None, (f"{part}: {setting}", value))))
