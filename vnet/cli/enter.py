"""``vnet exec``: run a program on one of the hosts of a running system."""

from __future__ import annotations

import os
import signal

import click

from vnet.cli.common import errors_in_one_line, name_option
from vnet.errors import ControlError
from vnet.ports.netns import NETNS_DIR, enter
from vnet.state import running

__all__ = ["command"]


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@name_option
@click.argument("host")
@click.argument("cmd", nargs=-1, required=True, type=click.UNPROCESSED)
@errors_in_one_line
def command(name: str, host: str, cmd: tuple[str, ...]) -> None:
    """Run CMD in the network namespace of HOST, and become it: its exit status is CMD's.

    \b
    vnet exec rc -- curl http://198.18.0.2/
    """
    cmd = cmd[cmd[0] == "--" :]
    if not cmd:
        raise click.UsageError("Missing argument 'CMD...'.")
    state = running(name)
    if state is None:
        raise ControlError(f"{name} is not running; try: vnet up --name {name}")
    if host not in state.hosts:
        raise ControlError(f"{name} has no host {host!r}; there are: {', '.join(state.hosts)}")
    netns = state.hosts[host]
    if netns is None:
        raise ControlError(f"{host} has in-memory ports only, and so no namespace")
    enter(NETNS_DIR / netns)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores these, and programs would inherit that
    try:
        os.execvp(cmd[0], cmd)  # noqa: S606  running it is the point
    except OSError as exc:
        raise ControlError(f"{cmd[0]}: {exc.strerror}") from None
