"""``vnet serve``: serve a device or a function to a driver in another process, such as a guest in QEMU."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
import trio

from vnet.cli.common import check_name, errors_in_one_line
from vnet.cli.isolate import AND, DEVICE_NAME, isolated
from vnet.cli.logs import log_options
from vnet.cli.sandbox import Confining, confining, sandbox_option
from vnet.cli.signals import run_until_ended
from vnet.ends import DEVICE_TYPES
from vnet.ends.serve import VALUE, ServeOption
from vnet.errors import ConfigError, ControlError, settings_of
from vnet.functions import FUNCTIONS, FunctionKind
from vnet.qmp.server import ControlServer
from vnet.spec import ANY_UID, PATH_RULE, fits_socket
from vnet.system.claim import claim, claim_free
from vnet.system.export_topology import HOST, DeviceExport, export_topology, system_name
from vnet.system.exports import open_export_system
from vnet.system.function_export import function_transports
from vnet.system.function_system import function_topology, open_function
from vnet.system.log import log_line
from vnet.system.qemu import VFIO_USER, Version, arguments, describe, function_arguments, qemu_version
from vnet.system.sandbox import Sandbox
from vnet.system.state import socket_path
from vnet.system.world import World
from vnet.topology import Topology, parse_device

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
    key = re.sub(r"^devices\.[^.]+\.", "", path)
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
    ServeOption(
        "--features-on",
        {"features_on": VALUE},
        "Feature that is offered only if it is given here, such as IN_ORDER. Repeatable.",
        metavar="NAME",
        repeatable=True,
    ),
)
"""Options of every device type."""
UNSEALED = (
    "Accept guest memory that is not sealed against shrinking, such as DPDK's. If its owner truncates it, SIGBUS kills "
    "this process and all its devices at the next access. QEMU's memory-backend-memfd is sealed."
)
FUNCTION_TITLE = f"For QEMU: (from {'.'.join(map(str, VFIO_USER))} on)"
NAME = click.Option(
    ["--name", "system"],
    callback=check_name,
    metavar="NAME",
    help="Name of the system for vnet show, ps and the like; made from the type and the socket by default.",
)
device_name = click.Option(
    [DEVICE_NAME],
    callback=check_name,
    metavar="NAME",
    help="Name of the device in messages and in vnet show; its type with a 0 by default.",
)
ALLOW_UNSEALED = click.Option(["--allow-unsealed"], is_flag=True, help=UNSEALED)


class ServeGroup(click.Group):
    """A command for each device type and each endpoint function, those of ``--load`` included."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command as the base class does; with --isolate, the one that takes several of them."""
        system = ctx.params["system"]
        if ctx.params["isolate"]:
            return "--isolate", isolated(self, system), args
        if system is not None:
            raise click.UsageError("--name requires --isolate; the name of one device's system stands behind its type")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*DEVICE_TYPES, *FUNCTIONS]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in DEVICE_TYPES:
            return self._device(name)
        return _function(name) if name in FUNCTIONS else None

    def _device(self, name: str) -> click.Command:
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
            click.Option(
                ["--transport"],
                type=click.Choice(function_transports()),
                help="With --vfio-user: transport whose registers the function has. Default: pci.",
            ),
            click.Option(["--connect"], is_flag=True, help="Connect to the socket, where the front end listens."),
            click.Option(
                ["--peer-uid"],
                type=click.IntRange(0, ANY_UID - 1),
                metavar="UID",
                help="With --connect: user, besides yours and root, whose process may listen there.",
            ),
            ALLOW_UNSEALED,
            NAME,
            device_name,
            sandbox_option,
        ]
        serve_it = log_options(errors_in_one_line(partial(_serve, name, options, serve.one_of)))
        text = f"Serve a {name} device"
        return click.command(name, params=params, help=f"{text} until Ctrl-C.", short_help=f"{text}.")(serve_it)


def _function(name: str) -> click.Command:
    kind = FUNCTIONS[name]
    number = "" if kind.links == 1 else f" Given {kind.links} times, once for each link."
    params: list[click.Parameter] = [
        click.Option(
            ["--vfio-user", "paths"],
            metavar="SOCK",
            type=click.Path(path_type=Path),
            multiple=True,
            help=f"Unix socket for a vfio-user client, whose driver sees the function.{number}",
        ),
        ALLOW_UNSEALED,
        NAME,
        device_name,
        sandbox_option,
    ]
    serve_it = log_options(errors_in_one_line(partial(_serve_function, name, kind)))
    return click.command(name, params=params, help=f"{kind.help} Until Ctrl-C.", short_help=kind.help)(serve_it)


@click.group("serve", cls=ServeGroup)
@click.option(
    "--isolate",
    is_flag=True,
    help=f"Give each device a process of its own, which is started again if it fails; {AND} stands between devices.",
)
@click.option(
    "--name",
    "system",
    callback=check_name,
    metavar="NAME",
    help=f"With --isolate: name of the system that has the processes, {HOST} by default.",
)
def command(isolate: bool, system: str | None) -> None:
    """Serve a device or a PCI function, for example to QEMU.

    Several devices, each in a process of its own:
    vnet serve --isolate blk --vhost-user a.sock --file a.img --and net --vhost-user n.sock --tap tap0
    """


def _serve(
    kind: str,
    options: Sequence[ServeOption],
    one_of: Sequence[str],
    path: Path | None,
    function_path: Path | None,
    connect: bool,
    peer_uid: int | None,
    allow_unsealed: bool,
    transport: str | None,
    system: str | None,
    device_name: str | None,
    sandbox: Sandbox,
    **given: Any,
) -> None:
    socket = path or function_path
    if socket is None or (path is not None and function_path is not None):
        raise click.UsageError("exactly one of --vhost-user and --vfio-user must be given")
    if connect and function_path is not None:
        raise click.UsageError("--connect requires --vhost-user: vfio-user clients connect")
    if peer_uid is not None and not connect:
        raise click.UsageError("--peer-uid requires --connect: the mode of our own socket decides who may connect")
    if transport is not None and function_path is None:
        raise click.UsageError("--transport requires --vfio-user")
    used = [option for option in options if option.is_given(given[option.name])]
    if one_of and sum(option.flag in one_of for option in used) != 1:
        raise click.UsageError(f"exactly one of {' and '.join(one_of)} must be given")
    device: dict[str, Any] = {"type": kind, **({} if transport is None else {"transport": transport})}
    for option in used:
        try:
            option.put(given[option.name], device)
        except ValueError as exc:
            raise click.BadParameter(str(exc), param_hint=f"'{option.flag}'") from None
    place = partial(settings_of, f"vnet serve {kind}", partial(_flag, used))
    with place():
        _check_path("--vhost-user" if path is not None else "--vfio-user", socket)
        export = DeviceExport(parse_device(device, ""), socket, connect, peer_uid, function_path is not None)
    version = None if export.vfio_user else qemu_version()  # vfio-user: one set of arguments
    exports = {device_name or f"{kind}0": export}
    topology = export_topology(exports)
    with confining(sandbox, system or export.name, namespaces=any(topology.namespaces(HOST))) as confined:
        run_until_ended(partial(_run, exports, system, allow_unsealed, version, place, confined))


async def _run(
    exports: Mapping[str, DeviceExport],
    system: str | None,
    allow_unsealed: bool,
    version: Version | None,
    place: Callable[[], AbstractContextManager[None]],
    confined: Confining,
    serving: trio.Event,
) -> int:
    [(device, export)] = exports.items()
    with place(), _claimed(system, export.name, export_topology(exports)) as name:
        async with open_export_system(exports, name or HOST, allow_unsealed=allow_unsealed) as served:
            await _control(served.world, name, hint(device, export, version, name), confined, serving)
    return 0


async def _control(world: World, name: str | None, text: str, confined: Confining, serving: trio.Event) -> None:
    """Print ``text``, and take commands at the control socket of the system, if it has a name, until one ends it."""
    control = ControlServer(world)
    async with trio.open_nursery() as nursery:
        if name is not None:
            await nursery.start(control.serve, socket_path(name))
        await confined.enter(world, name)
        click.echo(text)
        serving.set()
        await control.quit.wait()
        nursery.cancel_scope.cancel()


def _check_path(flag: str, path: Path) -> None:
    """Raise ConfigError if no socket can have that path."""
    if not fits_socket(str(path)):
        raise ConfigError("", flag, str(path), f"must be {PATH_RULE}")


def _serve_function(
    name: str,
    kind: FunctionKind,
    paths: Sequence[Path],
    allow_unsealed: bool,
    system: str | None,
    device_name: str | None,
    sandbox: Sandbox,
) -> None:
    if len(paths) != kind.links:
        count = "once" if kind.links == 1 else f"{kind.links} times"
        raise click.UsageError(f"--vfio-user must be given {count}")
    place = partial(settings_of, f"vnet serve {name}", str)
    with place():
        for path in paths:
            _check_path("--vfio-user", path)
    with confining(sandbox, system or system_name(name, paths[0]), namespaces=False) as confined:
        default, function = system_name(name, paths[0]), device_name or f"{name}0"
        run_until_ended(partial(_run_function, function, default, kind, paths, system, allow_unsealed, place, confined))


async def _run_function(
    function: str,
    default: str,
    kind: FunctionKind,
    paths: Sequence[Path],
    system: str | None,
    allow_unsealed: bool,
    place: Callable[[], AbstractContextManager[None]],
    confined: Confining,
    serving: trio.Event,
) -> int:
    with place(), _claimed(system, default, function_topology(function, paths)) as name:
        async with open_function(function, kind, paths, name or HOST, allow_unsealed=allow_unsealed) as served:
            lines = [f"{function} listens at {' and '.join(map(str, paths))}; Ctrl-C ends it.", *_looks(name)]
            for path in paths:
                lines += [FUNCTION_TITLE, *(f"  {line}" for line in function_arguments(path))]
            await _control(served.world, name, "\n".join(lines), confined, serving)
    return 0


@contextmanager
def _claimed(given: str | None, default: str, topology: Topology) -> Iterator[str | None]:
    """Reserve the name of the system during the context, by default a free one like ``default``.

    Yields None if this user has no directory for control sockets: the device works without one.
    """
    with ExitStack() as stack:
        if given is not None:
            yield stack.enter_context(claim(given, topology)).name
            return
        name: str | None = None
        try:
            name = stack.enter_context(claim_free(default, topology)).name
        except (ControlError, OSError) as exc:
            log_line(f"vnet show and the like do not see this device: {exc}")
        yield name


def _looks(system: str | None) -> list[str]:
    """Return the line about commands for the system; none without a name."""
    if system is None:
        return []
    return [f"In another shell: vnet show --name {system}; vnet down --name {system} ends it as well."]


def hint(name: str, export: DeviceExport, version: Version | None = None, system: str | None = None) -> str:
    """Return lines with the socket of the device, its system, and the arguments for that version of QEMU."""
    verb = "connects to" if export.connect else "listens at"
    lines = [f"{name} {verb} {export.socket}; Ctrl-C ends it.", *_looks(system)]
    if export.vfio_user:
        title, qemu = FUNCTION_TITLE, function_arguments(export.socket)
    else:
        title, qemu = describe(version), arguments(export.spec, export.socket, version, connect=export.connect)
    return "\n".join([*lines, *([title] if qemu else []), *(f"  {line}" for line in qemu)])
