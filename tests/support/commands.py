"""Commands of the control socket, without the socket."""

from __future__ import annotations

import json
from typing import Any

from vnet.qmp.codec import emit
from vnet.qmp.commands import Context, execute
from vnet.system.world import World

__all__ = ["command"]


async def command(world: World, name: str, /, **arguments: object) -> Any:
    """The result of a command, as a client receives it. Raises QmpError."""
    return json.loads(emit({"return": await execute(Context(world), name, arguments)}))["return"]
