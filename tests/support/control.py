"""Commands of the command line that ask a world in this process, instead of a system behind a socket."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from click.testing import CliRunner, Result

from vnet.cli import group, live_names, query
from vnet.errors import ControlError
from vnet.qmp.codec import QmpError, emit
from vnet.qmp.commands import Context, execute
from vnet.system.world import World

__all__ = ["command_line"]


def command_line(monkeypatch: pytest.MonkeyPatch, world: World, *modules: Any) -> Callable[..., Result]:
    """Return a function that runs ``vnet`` with arguments. ``modules`` are those that import `ask` themselves.

    Only commands of the control socket that wait for nothing are answered.
    """

    def ask(name: str, command: str, arguments: Mapping[str, object] | None = None, **_: object) -> object:
        running = execute(Context(world), command, json.loads(json.dumps(arguments)))
        try:
            running.send(None)
        except StopIteration as done:
            return json.loads(emit({"return": done.value}))["return"]
        except QmpError as exc:
            raise ControlError(str(exc)) from None
        raise AssertionError(f"{command} waits")

    for module in (query, live_names, *modules):
        monkeypatch.setattr(module, "ask", ask)
    return lambda *args: CliRunner().invoke(group.main, args)
