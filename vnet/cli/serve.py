"""``vnet serve``: one device for somebody else's driver, such as that of a guest in QEMU, over vhost-user."""

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
    """Stands for what was given on the command line."""


VALUE = _Value()


@attrs.frozen
class ServeOption:
    """An option, and the keys of a topology's device that it stands for."""

    flag: str
    keys: Mapping[str, object]
    help: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    make: Callable[[Any], object] = lambda given: list(given) if isinstance(given, tuple) else given
    """What becomes of the option's value."""

    @property
    def name(self) -> str:
        return self.flag.lstrip("-").replace("-", "_")

    def is_given(self, value: object) -> bool:
        """Whether the user gave ``value``: 0 and an empty text are values, an absent flag is False, a list empty."""
        return value is not None and value is not False and value != ()

    def option(self) -> click.Option:
        return click.Option([self.flag], help=self.help, **self.options)

    def put(self, given: Any, device: dict[str, Any]) -> None:
        for path, value in self.keys.items():
            *tables, key = path.split(".")
            table = device
            for name in tables:
                table = table.setdefault(name, {})
            table[key] = self.make(given) if value is VALUE else value


def _value(kind: Any, text: str) -> object:
    """The value of a key of this type that a topology would have for ``text``; text that is no such value stays."""
    kinds = {kind, *get_args(kind)}
    if int in kinds and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    return {"true": True, "false": False}.get(text, text) if bool in kinds else text


def _table(text: str, record: type) -> dict[str, object]:
    """``key=value,key=value`` as the table that a topology has for that record."""
    kinds = get_type_hints(record)
    rows = [part.partition("=") for part in text.split(",")]
    keys = [key for key, _, _ in rows]
    if len({*keys}) < len(keys) or not all(equals for _, equals, _ in rows):
        raise click.BadParameter(f"{text!r}: must be KEY=VALUE,..., each key once", param_hint="'--lun'")
    return {key: _value(kinds.get(key), value) for key, _, value in rows}


def _luns(given: Sequence[str]) -> list[dict[str, object]]:
    return [{"store": "file", "lun": number, **_table(text, LunSpec)} for number, text in enumerate(given)]


def _flag(settings: Sequence[ServeOption], path: str) -> str:
    """The option that gave the setting at ``path`` of a device, else the path itself."""
    key = re.sub(r"^devices\.\w+\.", "", path)
    for setting in settings:
        for given, value in setting.keys.items():
            if value is VALUE and re.match(rf"{re.escape(given)}(\[|$)", key):
                return setting.flag + key.removeprefix(given)
    return path


COMMON = (
    ServeOption(
        "--queue-size", {"queue_size": VALUE}, "Descriptors of a queue, where the front end asks.", {"type": int}
    ),
    ServeOption(
        "--ring",
        {"ring": VALUE},
        "The format of its queues: packed is offered where this says so.",
        {"type": click.Choice(["split", "packed"])},
    ),
    ServeOption(
        "--features-off",
        {"features_off": VALUE},
        "A feature not to offer, such as EVENT_IDX; may be given several times.",
        {"multiple": True, "metavar": "NAME"},
    ),
)
SETTINGS: Mapping[str, Sequence[ServeOption]] = {
    "net": (
        ServeOption(
            "--tap",
            {"device.kind": "tap", "device.ifname": VALUE},
            "Plug it into a TAP interface of this name, which is made.",
            {"metavar": "NAME"},
        ),
        ServeOption(
            "--tun",
            {"device.kind": "tun", "device.ifname": VALUE},
            "Plug it into a TUN interface of this name, which is made.",
            {"metavar": "NAME"},
        ),
        ServeOption("--netns", {"device.netns": VALUE}, "The namespace of that interface; it has to exist."),
        ServeOption(
            "--address",
            {"device.addresses": VALUE},
            "An address of the interface with its prefix; may be given several times.",
            {"multiple": True, "metavar": "ADDRESS"},
        ),
        ServeOption("--mtu", {"mtu": VALUE}, "Bytes of a packet.", {"type": int}),
        ServeOption("--pairs", {"queue_pairs": VALUE}, "How many pairs of queues it has at most.", {"type": int}),
        ServeOption("--mac", {"mac": VALUE}, "The address of the driver's interface, where it shall not be learnt."),
    ),
    "blk": (
        ServeOption(
            "--file",
            {"device.store": "file", "device.path": VALUE},
            "The file or block device that keeps the sectors.",
            {"metavar": "IMG", "required": True},
        ),
        ServeOption("--read-only", {"device.read_only": True}, "Let nobody write to it.", {"is_flag": True}),
        ServeOption(
            "--shared",
            {"device.shared": True},
            "Others that say so too may have the file open as well, such as the device that a guest is migrated to.",
            {"is_flag": True},
        ),
        ServeOption("--size", {"device.size": VALUE}, "MiB of a file that is not there yet.", {"type": int}),
        ServeOption("--serial", {"device.serial": VALUE}, "What the disk calls itself, by default blk0."),
        ServeOption("--queues", {"queues": VALUE}, "How many queues it has at most.", {"type": int}),
    ),
    "scsi": (
        ServeOption(
            "--lun",
            {"device.luns": VALUE},
            "A logical unit, such as path=disk.img,size=256; more keys are target, lun, read_only, shared, block_size, "
            "serial. May be given several times.",
            {"multiple": True, "required": True, "metavar": "KEY=VALUE,..."},
            _luns,
        ),
        ServeOption("--queues", {"queues": VALUE}, "How many request queues it has at most.", {"type": int}),
    ),
}
"""By device type; one that is not here has none but the common ones."""
NEEDED: Mapping[str, tuple[str, ...]] = {"net": ("tap", "tun")}
"""One of which has to be given."""
UNSEALED = (
    "Take memory that is not sealed against shrinking, such as DPDK's. The risk: whoever owns it can cut it off, and "
    "then this process is killed at its next access (SIGBUS), with every device it serves. QEMU's "
    "memory-backend-memfd is sealed."
)


class ServeGroup(click.Group):
    """A command for each device type there is, those of ``--load`` included."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(DEVICES)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in DEVICES:
            return None
        settings = (*SETTINGS.get(name, ()), *COMMON)
        params: list[click.Parameter] = [
            click.Option(
                ["--vhost-user", "path"],
                required=True,
                metavar="SOCK",
                type=click.Path(path_type=Path),
                help="The unix socket at which a front end finds the device.",
            ),
            *(setting.option() for setting in settings),
            click.Option(["--connect"], is_flag=True, help="The front end listens there; connect to it."),
            click.Option(
                ["--peer-uid"],
                type=click.IntRange(0, ANY_UID - 1),
                metavar="UID",
                help="With --connect: the user, besides yours and root, whose process may listen there.",
            ),
            click.Option(["--allow-unsealed"], is_flag=True, help=UNSEALED),
        ]
        return click.Command(
            name,
            params=params,
            callback=errors_in_one_line(partial(_serve, name, settings)),
            help=f"Serve a {name} device until Ctrl-C.",
            short_help=f"Serve a {name} device.",
        )


@click.group("serve", cls=ServeGroup)
def command() -> None:
    """Serve a device to somebody else's driver, such as that of a guest in QEMU, over vhost-user."""


def _serve(
    kind: str,
    settings: Sequence[ServeOption],
    path: Path,
    connect: bool,
    peer_uid: int | None,
    allow_unsealed: bool,
    **given: Any,
) -> None:
    if peer_uid is not None and not connect:
        raise click.UsageError("--peer-uid is for --connect: the mode of a socket of ours says who may connect to it")
    needed = NEEDED.get(kind, ())
    if needed and sum(given[name] is not None for name in needed) != 1:
        raise click.UsageError(f"exactly one of {' and '.join(f'--{name}' for name in needed)} has to be given")
    device: dict[str, Any] = {"type": kind}
    for setting in settings:
        if setting.is_given(given[setting.name]):
            setting.put(given[setting.name], device)
    place = partial(
        settings_of, f"vnet serve {kind}", partial(_flag, [s for s in settings if s.is_given(given[s.name])])
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
    """Describe where the device is served, and the arguments with which that version of QEMU finds it."""
    verb = "connects to" if export.connect else "listens at"
    lines = [f"{name} {verb} {export.socket}; Ctrl-C ends it."]
    found = arguments(export.spec, export.socket, version, connect=export.connect)
    return "\n".join([*lines, *([describe(version)] if found else []), *(f"  {line}" for line in found)])
