"""``vnet serve``: serve one device over vhost-user to a driver in another process, such as a guest in QEMU."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import attrs
import click
import trio

from drivers.registry import DEVICES
from vnet.cli.common import errors_in_one_line, report
from vnet.cli.signals import run_until_ended
from vnet.ends.scsi import LunSpec
from vnet.errors import ConfigError, settings_of
from vnet.spec import ANY_UID, PATH_RULE, fits_socket
from vnet.system.exports import DeviceExport, open_exports
from vnet.system.qemu import Version, arguments, describe, qemu_version
from vnet.topology import parse_device

__all__ = ["command", "hint"]


class _Value:
    """Type of `VALUE`."""


VALUE = _Value()
"""Placeholder for the value from the command line."""


@attrs.frozen
class ServeOption:
    """An option, and the keys of a device in a topology that it sets."""

    flag: str
    """Name, such as --mtu."""
    keys: Mapping[str, object]
    """Values by dotted key; `VALUE` stands for the option's value."""
    help: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    """More arguments of `click.Option`."""
    make: Callable[[Any], object] = lambda given: list(given) if isinstance(given, tuple) else given
    """Converts the option's value to that of a key."""

    @property
    def name(self) -> str:
        """Name of the option's parameter."""
        return self.flag.lstrip("-").replace("-", "_")

    def is_given(self, value: object) -> bool:
        """Return whether the user gave ``value``: an absent option is None, False or an empty tuple."""
        return value is not None and value is not False and value != ()

    def as_click(self) -> click.Option:
        """Return the option for click."""
        return click.Option([self.flag], help=self.help, **self.options)

    def put(self, given: Any, device: dict[str, Any]) -> None:
        """Set the keys of ``device`` for the value ``given``."""
        for path, value in self.keys.items():
            *tables, key = path.split(".")
            table = device
            for name in tables:
                table = table.setdefault(name, {})
            table[key] = self.make(given) if value is VALUE else value


def _value(kind: Any, text: str) -> object:
    """Return ``text`` as a value of type ``kind``, or unchanged if it is none."""
    kinds = {kind, *get_args(kind)}
    if int in kinds and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    return {"true": True, "false": False}.get(text, text) if bool in kinds else text


def _table(text: str, record: type) -> dict[str, object]:
    """Return ``key=value,key=value`` as the table of a record in a topology."""
    kinds = get_type_hints(record)
    rows = [part.partition("=") for part in text.split(",")]
    keys = [key for key, _, _ in rows]
    if len({*keys}) < len(keys) or not all(equals for _, equals, _ in rows):
        raise click.BadParameter(f"{text!r}: must be KEY=VALUE,..., each key once", param_hint="'--lun'")
    return {key: _value(kinds.get(key), value) for key, _, value in rows}


def _luns(given: Sequence[str]) -> list[dict[str, object]]:
    return [{"store": "file", "lun": number, **_table(text, LunSpec)} for number, text in enumerate(given)]


def _flag(options: Sequence[ServeOption], path: str) -> str:
    """Return the option that set the key at ``path`` of a device, else the path itself."""
    key = re.sub(r"^devices\.\w+\.", "", path)
    for option in options:
        for given, value in option.keys.items():
            if value is VALUE and re.match(rf"{re.escape(given)}(\[|$)", key):
                return option.flag + key.removeprefix(given)
    return path


COMMON = (
    ServeOption("--queue-size", {"queue_size": VALUE}, "Largest number of descriptors in a queue.", {"type": int}),
    ServeOption(
        "--ring",
        {"ring": VALUE},
        "Virtqueue format: packed is offered only if it is given here.",
        {"type": click.Choice(["split", "packed"])},
    ),
    ServeOption(
        "--features-off",
        {"features_off": VALUE},
        "Feature that is not offered, such as EVENT_IDX. Repeatable.",
        {"multiple": True, "metavar": "NAME"},
    ),
)
OPTIONS: Mapping[str, Sequence[ServeOption]] = {
    "net": (
        ServeOption(
            "--tap",
            {"device.kind": "tap", "device.ifname": VALUE},
            "Make a TAP interface of this name as the device's port.",
            {"metavar": "NAME"},
        ),
        ServeOption(
            "--tun",
            {"device.kind": "tun", "device.ifname": VALUE},
            "Make a TUN interface of this name as the device's port.",
            {"metavar": "NAME"},
        ),
        ServeOption("--netns", {"device.netns": VALUE}, "Existing namespace for the interface."),
        ServeOption(
            "--address",
            {"device.addresses": VALUE},
            "Address of the interface, with prefix length. Repeatable.",
            {"multiple": True, "metavar": "ADDRESS"},
        ),
        ServeOption("--mtu", {"mtu": VALUE}, "MTU in bytes.", {"type": int}),
        ServeOption("--pairs", {"queue_pairs": VALUE}, "Largest number of queue pairs.", {"type": int}),
        ServeOption(
            "--mac", {"mac": VALUE}, "MAC address of the driver's interface; learnt from its frames by default."
        ),
    ),
    "blk": (
        ServeOption(
            "--file",
            {"device.store": "file", "device.path": VALUE},
            "File or block device with the sectors.",
            {"metavar": "IMG", "required": True},
        ),
        ServeOption("--read-only", {"device.read_only": True}, "Refuse writes.", {"is_flag": True}),
        ServeOption(
            "--shared",
            {"device.shared": True},
            "Let other processes with this option open the file, such as the back end of a migrated guest.",
            {"is_flag": True},
        ),
        ServeOption("--size", {"device.size": VALUE}, "Size in MiB; needed to make a new file.", {"type": int}),
        ServeOption("--serial", {"device.serial": VALUE}, "Serial number of the disk, by default blk0."),
        ServeOption("--queues", {"queues": VALUE}, "Largest number of request queues.", {"type": int}),
    ),
    "scsi": (
        ServeOption(
            "--lun",
            {"device.luns": VALUE},
            "Logical unit, such as path=disk.img,size=256; more keys are target, lun, read_only, shared, block_size, "
            "serial. Repeatable.",
            {"multiple": True, "required": True, "metavar": "KEY=VALUE,..."},
            _luns,
        ),
        ServeOption("--queues", {"queues": VALUE}, "Largest number of request queues.", {"type": int}),
    ),
}
"""Options by device type; other types only have the common ones."""
NEEDED: Mapping[str, tuple[str, ...]] = {"net": ("tap", "tun")}
"""Options by device type, exactly one of which must be given."""
UNSEALED = (
    "Accept guest memory that is not sealed against shrinking, such as DPDK's. If its owner truncates it, SIGBUS kills "
    "this process and all its devices at the next access. QEMU's memory-backend-memfd is sealed."
)


class ServeGroup(click.Group):
    """A command for each device type, those of ``--load`` included."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(DEVICES)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in DEVICES:
            return None
        options = (*OPTIONS.get(name, ()), *COMMON)
        params: list[click.Parameter] = [
            click.Option(
                ["--vhost-user", "path"],
                required=True,
                metavar="SOCK",
                type=click.Path(path_type=Path),
                help="Unix socket for the front end.",
            ),
            *(option.as_click() for option in options),
            click.Option(["--connect"], is_flag=True, help="Connect to the socket, where the front end listens."),
            click.Option(
                ["--peer-uid"],
                type=click.IntRange(0, ANY_UID - 1),
                metavar="UID",
                help="With --connect: user, besides yours and root, whose process may listen there.",
            ),
            click.Option(["--allow-unsealed"], is_flag=True, help=UNSEALED),
        ]
        return click.Command(
            name,
            params=params,
            callback=errors_in_one_line(partial(_serve, name, options)),
            help=f"Serve a {name} device until Ctrl-C.",
            short_help=f"Serve a {name} device.",
        )


@click.group("serve", cls=ServeGroup)
def command() -> None:
    """Serve a device over vhost-user, for example to QEMU."""


def _serve(
    kind: str,
    options: Sequence[ServeOption],
    path: Path,
    connect: bool,
    peer_uid: int | None,
    allow_unsealed: bool,
    **given: Any,
) -> None:
    if peer_uid is not None and not connect:
        raise click.UsageError("--peer-uid requires --connect: the mode of our own socket decides who may connect")
    needed = NEEDED.get(kind, ())
    if needed and sum(given[name] is not None for name in needed) != 1:
        raise click.UsageError(f"exactly one of {' and '.join(f'--{name}' for name in needed)} must be given")
    device: dict[str, Any] = {"type": kind}
    for option in options:
        if option.is_given(given[option.name]):
            option.put(given[option.name], device)
    place = partial(
        settings_of, f"vnet serve {kind}", partial(_flag, [o for o in options if o.is_given(given[o.name])])
    )
    with place():
        if not fits_socket(str(path)):
            raise ConfigError("", "--vhost-user", str(path), f"must be {PATH_RULE}")
        export = DeviceExport(parse_device(device, ""), path, connect, peer_uid)
    run_until_ended(partial(_run, f"{kind}0", export, allow_unsealed, qemu_version(), place))


async def _run(
    name: str,
    export: DeviceExport,
    allow_unsealed: bool,
    version: Version | None,
    place: Callable[[], AbstractContextManager[None]],
    serving: trio.Event,
) -> NoReturn:
    with place():
        async with open_exports({name: export}, allow_unsealed=allow_unsealed, report=report):
            click.echo(hint(name, export, version))
            serving.set()
            await trio.sleep_forever()
            raise AssertionError


def hint(name: str, export: DeviceExport, version: Version | None = None) -> str:
    """Return lines with the socket of the device and the arguments for that version of QEMU."""
    verb = "connects to" if export.connect else "listens at"
    lines = [f"{name} {verb} {export.socket}; Ctrl-C ends it."]
    qemu = arguments(export.spec, export.socket, version, connect=export.connect)
    return "\n".join([*lines, *([describe(version)] if qemu else []), *(f"  {line}" for line in qemu)])
