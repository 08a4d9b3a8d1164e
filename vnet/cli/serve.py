"""``vnet serve``: serve one device over vhost-user to a driver in another process, such as a guest in QEMU."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click
import trio

from vnet.cli.common import errors_in_one_line
from vnet.cli.logs import log_options
from vnet.cli.signals import run_until_ended
from vnet.ends import DEVICE_TYPES
from vnet.ends.serve import VALUE, ServeOption
from vnet.errors import ConfigError, settings_of
from vnet.spec import ANY_UID, PATH_RULE, fits_socket
from vnet.system.exports import DeviceExport, open_exports
from vnet.system.qemu import VFIO_USER, Version, arguments, describe, function_arguments, qemu_version
from vnet.topology import parse_device

__all__ = ["command", "hint"]


def _as_click(option: ServeOption) -> click.Option:
    """Return the option for click."""
    kind: Any = click.Choice(list(option.choices)) if option.choices else option.kind
    return click.Option(
        [option.flag],
        help=option.help,
        metavar=option.metavar,
        required=option.required,
        multiple=option.repeatable,
        **({"is_flag": True} if option.kind is bool else {"type": kind}),
    )


def _flag(options: Sequence[ServeOption], path: str) -> str:
    """Return the option that set the key at ``path`` of a device, else the path itself."""
    key = re.sub(r"^devices\.\w+\.", "", path)
    for option in options:
        for given, value in option.keys.items():
            if value is VALUE and re.match(rf"{re.escape(given)}(\[|$)", key):
                return option.flag + key.removeprefix(given)
    return path


COMMON = (
    ServeOption("--queue-size", {"queue_size": VALUE}, "Largest number of descriptors in a queue.", int),
    ServeOption(
        "--ring",
        {"ring": VALUE},
        "Virtqueue format: packed is offered only if it is given here.",
        choices=("split", "packed"),
    ),
    ServeOption(
        "--features-off",
        {"features_off": VALUE},
        "Feature that is not offered, such as EVENT_IDX. Repeatable.",
        metavar="NAME",
        repeatable=True,
    ),
)
"""Options of every device type."""
UNSEALED = (
    "Accept guest memory that is not sealed against shrinking, such as DPDK's. If its owner truncates it, SIGBUS kills "
    "this process and all its devices at the next access. QEMU's memory-backend-memfd is sealed."
)


class ServeGroup(click.Group):
    """A command for each device type, those of ``--load`` included."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(DEVICE_TYPES)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in DEVICE_TYPES:
            return None
        serve = DEVICE_TYPES[name].serve
        options = (*serve.options, *COMMON)
        params: list[click.Parameter] = [
            click.Option(
                ["--vhost-user", "path"],
                metavar="SOCK",
                type=click.Path(path_type=Path),
                help="Unix socket for a vhost-user front end, which shows the device to its driver.",
            ),
            click.Option(
                ["--vfio-user", "function_path"],
                metavar="SOCK",
                type=click.Path(path_type=Path),
                help="Unix socket for a vfio-user client, whose driver sees the whole PCI function.",
            ),
            *map(_as_click, options),
            click.Option(["--connect"], is_flag=True, help="Connect to the socket, where the front end listens."),
            click.Option(
                ["--peer-uid"],
                type=click.IntRange(0, ANY_UID - 1),
                metavar="UID",
                help="With --connect: user, besides yours and root, whose process may listen there.",
            ),
            click.Option(["--allow-unsealed"], is_flag=True, help=UNSEALED),
        ]
        serve_it = log_options(errors_in_one_line(partial(_serve, name, options, serve.one_of)))
        text = f"Serve a {name} device"
        return click.command(name, params=params, help=f"{text} until Ctrl-C.", short_help=f"{text}.")(serve_it)


@click.group("serve", cls=ServeGroup)
def command() -> None:
    """Serve a device over vhost-user or vfio-user, for example to QEMU."""


def _serve(
    kind: str,
    options: Sequence[ServeOption],
    one_of: Sequence[str],
    path: Path | None,
    function_path: Path | None,
    connect: bool,
    peer_uid: int | None,
    allow_unsealed: bool,
    **given: Any,
) -> None:
    socket = path or function_path
    if socket is None or (path is not None and function_path is not None):
        raise click.UsageError("exactly one of --vhost-user and --vfio-user must be given")
    if connect and function_path is not None:
        raise click.UsageError("--connect requires --vhost-user: vfio-user clients connect")
    if peer_uid is not None and not connect:
        raise click.UsageError("--peer-uid requires --connect: the mode of our own socket decides who may connect")
    used = [option for option in options if option.is_given(given[option.name])]
    if one_of and sum(option.flag in one_of for option in used) != 1:
        raise click.UsageError(f"exactly one of {' and '.join(one_of)} must be given")
    device: dict[str, Any] = {"type": kind}
    for option in used:
        try:
            option.put(given[option.name], device)
        except ValueError as exc:
            raise click.BadParameter(str(exc), param_hint=f"'{option.flag}'") from None
    place = partial(settings_of, f"vnet serve {kind}", partial(_flag, used))
    with place():
        if not fits_socket(str(socket)):
            flag = "--vhost-user" if path is not None else "--vfio-user"
            raise ConfigError("", flag, str(socket), f"must be {PATH_RULE}")
        export = DeviceExport(parse_device(device, ""), socket, connect, peer_uid, function_path is not None)
    version = None if export.vfio_user else qemu_version()  # vfio-user: one set of arguments
    run_until_ended(partial(_run, f"{kind}0", export, allow_unsealed, version, place))


async def _run(
    name: str,
    export: DeviceExport,
    allow_unsealed: bool,
    version: Version | None,
    place: Callable[[], AbstractContextManager[None]],
    serving: trio.Event,
) -> NoReturn:
    with place():
        async with open_exports({name: export}, allow_unsealed=allow_unsealed):
            click.echo(hint(name, export, version))
            serving.set()
            await trio.sleep_forever()
            raise AssertionError


def hint(name: str, export: DeviceExport, version: Version | None = None) -> str:
    """Return lines with the socket of the device and the arguments for that version of QEMU."""
    verb = "connects to" if export.connect else "listens at"
    lines = [f"{name} {verb} {export.socket}; Ctrl-C ends it."]
    if export.vfio_user:
        title, qemu = f"For QEMU: (from {'.'.join(map(str, VFIO_USER))} on)", function_arguments(export.socket)
    else:
        title, qemu = describe(version), arguments(export.spec, export.socket, version, connect=export.connect)
    return "\n".join([*lines, *([title] if qemu else []), *(f"  {line}" for line in qemu)])
