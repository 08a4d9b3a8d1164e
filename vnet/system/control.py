"""The control socket of a running system. It speaks QMP, so that QEMU's ``qmp-shell`` works with it."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import attrs
import trio

from drivers.contracts.events import ControlCommanded, Source
from drivers.errors import DriverError
from vnet.ends import DEVICE_TYPES
from vnet.ends.settings import change_setting
from vnet.linux.unix_socket import accept, listen, owner_uid
from vnet.names import named
from vnet.system import qmp
from vnet.system.config_spaces import take_config_spaces
from vnet.system.qmp import NEGOTIATE, Framer, QmpError, TooLong
from vnet.system.snapshot import queue_sides, take_ring, take_snapshot, take_status
from vnet.system.world import World
from vnet.version import __version__
from vnet.views.plain import to_plain

__all__ = ["COMMANDS", "MESSAGE_MAX", "ControlCommand", "ControlServer"]

MESSAGE_MAX = 64 << 10
"""Bytes of the longest command."""
CHUNK = 16 << 10
"""Bytes of a read from a client."""
CLIENTS_MAX = 64
"""Clients at the same time."""
BACKLOG = 16
"""Connections that wait to be accepted."""
LINGER = 1.0
"""Seconds that a client may take to read the error before we close the connection."""


@attrs.frozen
class ControlCommand:
    """A command: its parameters and its function."""

    parameters: Mapping[str, type]
    """JSON types by parameter name."""
    run: Callable[..., Awaitable[object]]


async def _query_vnet(world: World) -> object:
    return to_plain(take_snapshot(world))


async def _query_status(world: World) -> object:
    """Return only names, and which parts are up."""
    return to_plain(take_status(world))


async def _query_ring(world: World, name: str, queue: str) -> object:
    """Return the memory of one ring, with every outstanding chain."""
    sides = queue_sides(named("device", world.devices, name, QmpError))
    mine, other = named("queue", sides, queue, QmpError, f"{name}: ")
    return to_plain(take_ring(mine, other, world.ring_looks, trio.current_time()))


async def _query_config_space(world: World) -> object:
    """Return the bytes of each function's configuration space, as its endpoint has them."""
    return to_plain(take_config_spaces(world))


async def _link_set(world: World, name: str, up: bool) -> object:
    link = named("link", world.links, name, QmpError)
    if up:
        link.bring_up()
    else:
        link.bring_down()
    return {}


async def _device_reset(world: World, name: str) -> object:
    """Unbind the driver, which resets the device, and bind it again."""
    device = named("device", world.devices, name, QmpError)
    if device.virtio is None:
        raise QmpError(f"{name} is not enumerated yet")
    await device.driver_host.virtio.rebind(device.virtio)
    return {}


async def _device_set(world: World, name: str, setting: str, value: str) -> object:
    """Change a setting of a device while it runs."""
    device = named("device", world.devices, name, QmpError)
    settings = DEVICE_TYPES[device.spec.type].settings
    try:
        await change_setting(settings, device.spec, device.driver_end, device.device_end, setting, value)
    except LookupError as exc:
        raise QmpError(f"{name}: {exc.args[0]}") from None
    except (ValueError, DriverError) as exc:
        raise QmpError(f"{name}: {setting} {value!r}: {exc}") from None
    return {}


async def _query_commands(_: World) -> object:
    return [{"name": name} for name in (NEGOTIATE, *COMMANDS)]


async def _quit(_: World) -> object:
    return {}  # the server ends after the reply


COMMANDS: Mapping[str, ControlCommand] = {
    "query-vnet": ControlCommand({}, _query_vnet),
    "query-status": ControlCommand({}, _query_status),
    "query-ring": ControlCommand({"name": str, "queue": str}, _query_ring),
    "query-config-space": ControlCommand({}, _query_config_space),
    "link-set": ControlCommand({"name": str, "up": bool}, _link_set),
    "device-reset": ControlCommand({"name": str}, _device_reset),
    "device-set": ControlCommand({"name": str, "setting": str, "value": str}, _device_set),
    "query-commands": ControlCommand({}, _query_commands),
    "quit": ControlCommand({}, _quit),
}
"""Commands by name."""


class ControlServer:
    """The control socket of a world. ``quit`` is set when a client sends quit."""

    def __init__(self, world: World) -> None:
        self.quit = trio.Event()
        self._world = world
        self._clients = 0

    async def cancel_at_quit(self, scope: trio.CancelScope) -> None:
        """Cancel ``scope`` when a client sends quit."""
        await self.quit.wait()
        scope.cancel()

    async def serve(self, path: Path, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen at ``path`` until cancelled. Raises OSError."""
        with listen(path, socket.SOCK_STREAM, BACKLOG) as listening:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    nursery.start_soon(self._admit, await accept(listening))

    async def _admit(self, client: socket.socket) -> None:
        uid = owner_uid(client)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(client)) as stream:
            if uid in (0, os.geteuid()) and self._clients < CLIENTS_MAX:
                await self.converse(stream)

    async def converse(self, stream: trio.abc.Stream) -> None:
        """Serve one client until it disconnects. Its requests and pauses do not disturb other clients."""
        framer, negotiated = Framer(MESSAGE_MAX), False
        self._clients += 1
        try:
            await stream.send_all(qmp.emit(qmp.greeting(__version__)))
            while data := await stream.receive_some(CHUNK):
                for message in framer.feed(bytes(data)):
                    reply, executed = await self._answer(message, negotiated)
                    negotiated |= executed == NEGOTIATE
                    await stream.send_all(reply)
                    if executed == "quit":
                        self.quit.set()
        except TooLong as exc:
            with trio.move_on_after(LINGER):
                await self._reject(stream, QmpError(str(exc)))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._clients -= 1

    async def _reject(self, stream: trio.abc.Stream, error: QmpError) -> None:
        """Send the error before closing. Read the client's data to its end: unread data would discard our error."""
        try:
            await stream.send_all(qmp.emit(error.as_dict()))
            if isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()
            while await stream.receive_some(CHUNK):
                pass
        except trio.BrokenResourceError:
            pass

    async def _answer(self, message: bytes, negotiated: bool) -> tuple[bytes, str]:
        """Return the reply, and the name of the command if it succeeded, else ""."""
        about: dict[str, object] = {}
        execute = ""
        try:
            raw = qmp.parse(message)
            about = {"id": raw["id"]} if "id" in raw else {}
            request = qmp.request(raw)
            execute = request.execute
            if request.execute == NEGOTIATE and negotiated:
                raise QmpError("Capabilities negotiation is already complete, command ignored", "CommandNotFound")
            if request.execute != NEGOTIATE and not negotiated:
                raise QmpError(f"Expecting capabilities negotiation with '{NEGOTIATE}'", "CommandNotFound")
            returned: object = {}
            if request.execute != NEGOTIATE:
                command = COMMANDS.get(request.execute)
                if command is None:
                    raise QmpError(f"The command {request.execute} has not been found", "CommandNotFound")
                request.check(command.parameters)
                returned = await command.run(self._world, **request.arguments)
            self._report(execute)
            return qmp.emit({"return": returned, **about}), execute
        except QmpError as exc:
            self._report(execute, str(exc))
            return qmp.emit({**exc.as_dict(), **about}), ""
        except OSError as exc:  # the kernel refused the command: the server goes on
            why = exc.strerror or str(exc)
            refusal = QmpError(f"{exc.filename}: {why}" if exc.filename else why)
            self._report(execute, str(refusal))
            return qmp.emit({**refusal.as_dict(), **about}), ""

    def _report(self, command: str, error: str = "") -> None:
        if (emit := self._world.events.control) is not None:
            emit(ControlCommanded(trio.current_time(), Source(), command, error))
