"""The commands of the control socket: for each, records of its arguments and of its result, and its function.

`COMMANDS` is the one table of them: the server executes it, and the schema and the reference are made from it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import cache, wraps
from typing import Any, Generic, TypeVar

import attrs
import trio

from drivers.errors import DriverError
from vnet.configfs.service import Configfs, WorldSystem
from vnet.configfs.values import TreeError
from vnet.ends import DEVICE_TYPES
from vnet.ends.settings import change_setting
from vnet.names import named
from vnet.qmp import cfs, changes, faults, virtio
from vnet.qmp.capturing import prepare_capture
from vnet.qmp.cfs import CfsEntry, CfsLink, CfsPath, CfsText, CfsWrite
from vnet.qmp.change_records import (
    ChangeStep,
    DeviceAddition,
    DeviceDeletion,
    LunAddition,
    PartChoice,
    SideChoice,
    TopologyChange,
    WantedTopology,
)
from vnet.qmp.codec import NEGOTIATE, QmpError, not_found
from vnet.qmp.events import EVENTS
from vnet.qmp.fault_records import FaultChoice, RuleChoice
from vnet.qmp.qapi import Empty, QapiRecord, to_wire
from vnet.qmp.records import (
    CaptureChoice,
    CommandInfo,
    DeviceChoice,
    EventChoice,
    LinkChoice,
    LinkMove,
    LinkSetting,
    Negotiation,
    RingChoice,
    RingsChoice,
    SettingChange,
    StatusInfo,
    VersionInfo,
    VersionTriple,
)
from vnet.qmp.schema import make_schema
from vnet.qmp.schema_records import SchemaInfo
from vnet.qmp.virtio_records import (
    DevicePath,
    Element,
    ElementChoice,
    QueueChoice,
    VhostQueueStatus,
    VirtioInfo,
    VirtioStatus,
    VirtQueueStatus,
)
from vnet.system.config_spaces import take_config_spaces
from vnet.system.device_keys import KEYS
from vnet.system.link_settings import change_link
from vnet.system.ring_reports import take_ring, take_slots
from vnet.system.snapshot import queue_sides, take_snapshot, take_status
from vnet.system.world import World
from vnet.topology.structure import structure
from vnet.version import __version__
from vnet.views.link import FaultRuleView
from vnet.views.pci import ConfigImages
from vnet.views.ring import RingReport, RingSlotsOfQueues
from vnet.views.system import StatusView, SystemView

__all__ = ["COMMANDS", "Command", "Context", "Takeover", "execute", "tree_of", "version"]

A = TypeVar("A", bound=QapiRecord)
Takeover = Callable[[trio.abc.Stream], Awaitable[None]]
"""Uses a connection until it ends."""
DONE = Empty()


@attrs.frozen(eq=False)
class Context:
    """The objects that commands use."""

    world: World
    listen: Callable[[Collection[str]], None] = lambda _: None
    """Chooses the events that the client gets, by name."""
    take_over: Callable[[Takeover], None] = lambda _: None
    """After the reply, the connection is given to this function, and no longer speaks QMP."""
    tree: Callable[[], Configfs] = attrs.field(default=attrs.Factory(lambda self: tree_of(self.world), takes_self=True))
    """Returns the management tree, which all clients share."""


def tree_of(world: World) -> Callable[[], Configfs]:
    """Return a function that makes the management tree of a world when it is called for the first time."""
    return cache(lambda: Configfs(WorldSystem(world)))


@attrs.frozen
class Command(Generic[A]):
    """A command. The docstring of its function is its description."""

    arguments: type[A]
    """Record of the arguments."""
    result: Any
    """Type of the result."""
    run: Callable[[Context, A], Awaitable[object]]
    rest: str = ""
    """Argument that takes all that have no name of their own; empty: there are none."""


# The protocol


async def _negotiate(_: Context, arguments: Negotiation) -> object:
    """Begin: all other commands come after it. The server has no capabilities."""
    for name in arguments.enable:
        raise QmpError(f"Parameter 'enable': capability {name!r}: there is none")
    return DONE


def version() -> VersionInfo:
    """Return the version of this program."""
    major, minor, micro = map(int, __version__.split(".")[:3])
    return VersionInfo(VersionTriple(major, minor, micro), f"vnet {__version__}")


async def _query_version(_: Context, __: Empty) -> object:
    """Return the version."""
    return version()


async def _query_commands(_: Context, __: Empty) -> object:
    """Return the names of all commands."""
    return [CommandInfo(name) for name in COMMANDS]


async def _set_events(context: Context, arguments: EventChoice) -> object:
    """Send these events to this client from now on, and no others."""
    for name in arguments.events:
        named("event", EVENTS, name, QmpError, "Parameter 'events': ")
    context.listen(arguments.events)
    return DONE


async def _query_schema(_: Context, __: Empty) -> object:
    """Return all commands, events and their types."""
    commands = {name: (command.arguments, command.result) for name, command in COMMANDS.items()}
    return make_schema(commands, {name: kind.data for name, kind in EVENTS.items()})


# The system


async def _query_status(_: Context, __: Empty) -> object:
    """Return that the system runs."""
    return StatusInfo(True, "running")


async def _query_vnet(context: Context, _: Empty) -> object:
    """Return the system as it is now: hosts, links, NTBs and devices with both sides, queues and counters."""
    return take_snapshot(context.world)


async def _query_vnet_status(context: Context, _: Empty) -> object:
    """Return the names of all parts, and which links and devices are up."""
    return take_status(context.world)


async def _query_ring(context: Context, arguments: RingChoice) -> object:
    """Return the memory of one ring, with every outstanding chain."""
    name = arguments.name
    device = named("device", context.world.devices, name, not_found)
    named("queue", queue_sides(device), arguments.queue, QmpError, f"{name}: ")
    return take_ring(device, arguments.queue, context.world.ring_looks, trio.current_time())


async def _query_ring_slots(context: Context, arguments: RingsChoice) -> object:
    """Return which slots of each ring are outstanding, without its memory: a small look at several rings."""
    name = arguments.name
    device = named("device", context.world.devices, name, not_found)
    sides = queue_sides(device)
    for queue in arguments.queues:
        named("queue", sides, queue, QmpError, f"{name}: ")
    return RingSlotsOfQueues({queue: take_slots(device, queue) for queue in arguments.queues})


async def _query_config_space(context: Context, _: Empty) -> object:
    """Return the bytes of each function's configuration space, as its endpoint has them."""
    return take_config_spaces(context.world)


async def _set_link(context: Context, arguments: LinkMove) -> object:
    """Take a link up or down."""
    link = named("link", context.world.links, arguments.name, not_found)
    if arguments.up:
        link.bring_up()
    else:
        link.bring_down()
    return DONE


async def _link_set(context: Context, arguments: LinkSetting) -> object:
    """Change the time that accesses take on a link, for all further accesses."""
    name, setting, value = arguments.name, arguments.setting, arguments.value
    named("link", context.world.links, name, not_found)
    try:
        change_link(context.world.timed.get(name), setting, value, wired=name in context.world.wires)
    except ValueError as exc:
        raise QmpError(f"{name}: {setting} {value!r}: {exc}") from None
    except LookupError as exc:
        raise QmpError(f"{name}: {exc.args[0]}") from None
    return DONE


async def _device_reset(context: Context, arguments: DeviceChoice) -> object:
    """Unbind the driver, which resets the device, and bind it again."""
    device = named("device", context.world.devices, arguments.name, not_found)
    if not device.spec.driven:
        raise QmpError(f"{device.name}: its driver is in another process, which alone can reset it")
    if device.virtio is None:
        raise QmpError(f"{device.name} is not enumerated yet")
    await device.driver_host.virtio.rebind(device.virtio)
    return DONE


async def _device_set(context: Context, arguments: SettingChange) -> object:
    """Change a setting of a device while it runs, or a key of a device whose driver is unbound."""
    device = named("device", context.world.devices, arguments.name, not_found)
    setting, value = arguments.setting, arguments.value
    if setting in KEYS:
        await changes.change(context.world, device.name, setting, value)
        return DONE
    settings = DEVICE_TYPES[device.spec.type].settings
    try:
        await change_setting(settings, device.spec, device.driver_end, device.device_end, setting, value)
    except (ValueError, DriverError) as exc:
        raise QmpError(f"{device.name}: {setting} {value!r}: {exc}") from None
    except LookupError as exc:
        raise QmpError(f"{device.name}: {exc.args[0]}") from None
    return DONE


async def _capture(context: Context, arguments: CaptureChoice) -> object:
    """Send events as pcapng after the reply, until the client closes its direction of the connection."""
    context.take_over(prepare_capture(context.world, **attrs.asdict(arguments)))
    return DONE


async def _quit(_: Context, __: Empty) -> object:
    """End the system after the reply."""
    return DONE


def _on_world(function: Callable[[World, A], object]) -> Callable[[Context, A], Awaitable[object]]:
    """Return a synchronous function of a world and arguments as the function of a command."""

    @wraps(function)
    async def run(context: Context, arguments: A) -> object:
        return function(context.world, arguments)

    return run


def _on_tree(function: Callable[[Configfs, A], Awaitable[object]]) -> Callable[[Context, A], Awaitable[object]]:
    """Return a function of the management tree and arguments as the function of a command, whose errors are QMP's."""

    @wraps(function)
    async def run(context: Context, arguments: A) -> object:
        try:
            return await function(context.tree(), arguments)
        except TreeError as exc:
            raise QmpError(str(exc)) from None

    return run


def _change(function: Callable[[World, A], Awaitable[object]]) -> Callable[[Context, A], Awaitable[object]]:
    """Return a change of a world as the function of a command."""

    @wraps(function)
    async def run(context: Context, arguments: A) -> object:
        return await function(context.world, arguments)

    return run


Steps = tuple[ChangeStep, ...]
COMMANDS: Mapping[str, Command[Any]] = {
    NEGOTIATE: Command(Negotiation, Empty, _negotiate),
    "query-version": Command(Empty, VersionInfo, _query_version),
    "query-commands": Command(Empty, tuple[CommandInfo, ...], _query_commands),
    "query-qmp-schema": Command(Empty, tuple[SchemaInfo, ...], _query_schema),
    "set-events": Command(EventChoice, Empty, _set_events),
    "query-status": Command(Empty, StatusInfo, _query_status),
    "query-vnet": Command(Empty, SystemView, _query_vnet),
    "query-vnet-status": Command(Empty, StatusView, _query_vnet_status),
    "query-ring": Command(RingChoice, RingReport, _query_ring),
    "query-ring-slots": Command(RingsChoice, RingSlotsOfQueues, _query_ring_slots),
    "query-config-space": Command(Empty, ConfigImages, _query_config_space),
    "set_link": Command(LinkMove, Empty, _set_link),
    "link-set": Command(LinkSetting, Empty, _link_set),
    "query-faults": Command(LinkChoice, tuple[FaultRuleView, ...], _on_world(faults.rules)),
    "fault-set": Command(FaultChoice, tuple[FaultRuleView, ...], _on_world(faults.set_rules)),
    "fault-clear": Command(RuleChoice, tuple[FaultRuleView, ...], _on_world(faults.clear)),
    "device-reset": Command(DeviceChoice, Empty, _device_reset),
    "device-set": Command(SettingChange, Empty, _device_set),
    "device_add": Command(DeviceAddition, Empty, _change(changes.device_add), "properties"),
    "device_del": Command(DeviceDeletion, Empty, _change(changes.device_del)),
    "device-bind": Command(SideChoice, Empty, _change(changes.bind)),
    "device-unbind": Command(SideChoice, Empty, _change(changes.unbind)),
    "lun-add": Command(LunAddition, Steps, _change(changes.lun_add)),
    "controller-start": Command(LinkChoice, Empty, _change(changes.start)),
    "controller-stop": Command(LinkChoice, Empty, _change(changes.stop)),
    "topology-add": Command(TopologyChange, Steps, _change(changes.add)),
    "topology-remove": Command(PartChoice, Steps, _change(changes.remove)),
    "topology-apply": Command(WantedTopology, Steps, _change(changes.apply)),
    "x-query-virtio": Command(Empty, tuple[VirtioInfo, ...], _on_world(virtio.devices)),
    "x-query-virtio-status": Command(DevicePath, VirtioStatus, _on_world(virtio.status)),
    "x-query-virtio-queue-status": Command(QueueChoice, VirtQueueStatus, _on_world(virtio.queue_status)),
    "x-query-virtio-vhost-queue-status": Command(QueueChoice, VhostQueueStatus, _on_world(virtio.vhost_queue_status)),
    "x-query-virtio-queue-element": Command(ElementChoice, Element, _on_world(virtio.element)),
    "cfs-list": Command(CfsPath, tuple[CfsEntry, ...], _on_tree(cfs.list_entries)),
    "cfs-stat": Command(CfsPath, CfsEntry, _on_tree(cfs.stat)),
    "cfs-read": Command(CfsPath, CfsText, _on_tree(cfs.read)),
    "cfs-write": Command(CfsWrite, Empty, _on_tree(cfs.write)),
    "cfs-mkdir": Command(CfsPath, Empty, _on_tree(cfs.mkdir)),
    "cfs-rmdir": Command(CfsPath, Empty, _on_tree(cfs.rmdir)),
    "cfs-symlink": Command(CfsLink, Empty, _on_tree(cfs.symlink)),
    "cfs-unlink": Command(CfsPath, Empty, _on_tree(cfs.unlink)),
    "capture": Command(CaptureChoice, Empty, _capture),
    "quit": Command(Empty, Empty, _quit),
}
"""Commands by name."""


async def execute(context: Context, name: str, arguments: Mapping[str, object] | None = None) -> Any:
    """Return the result of a command, ready for JSON.

    Raises QmpError, which names the first wrong argument, and OSError if the kernel refused the command.
    """
    command = COMMANDS.get(name)
    if command is None:
        raise QmpError(f"The command {name} has not been found", "CommandNotFound")
    given = dict(arguments or {})
    for key in (key for key, value in given.items() if value is None):
        raise QmpError(f"Parameter '{key}': must not be null")
    if command.rest:
        own = {field.name for field in attrs.fields(command.arguments)}
        others = {key: given.pop(key) for key in [key for key in given if key not in own]}
        if isinstance(named_rest := given.get(command.rest, {}), dict):
            given[command.rest] = {**named_rest, **others}
    record, errors = structure(given, command.arguments)
    for error in errors:
        raise QmpError(f"Parameter '{'.'.join(map(str, error.keys))}': {error.why}")
    assert record is not None
    return to_wire(await command.run(context, record))
