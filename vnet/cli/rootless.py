"""Systems in a user namespace: the options of the commands that make and enter one."""

from __future__ import annotations

import click

from vnet.errors import ControlError
from vnet.linux.privileges import rootless
from vnet.system.state import State, make_run_dir, open_owner, run_dir

__all__ = ["enter_rootless", "join_system", "require_rootless", "require_rootless_option", "rootless_option"]

rootless_option = click.option(
    "--rootless",
    "in_namespace",
    is_flag=True,
    help="Make namespaces and interfaces in a user namespace, without root. /dev/net/tun must be open to this user.",
)
require_rootless_option = click.option(
    "--rootless", is_flag=True, help="Fail unless the system is one of `vnet up --rootless`, which is seen without it."
)


def enter_rootless() -> None:
    """Move this process to a user namespace, which commands outside find. Raises PrivilegeError, ControlError, OSError.

    The process must have one thread.
    """
    make_run_dir()
    rootless.enter(run_dir())


def require_rootless(state: State | None, name: str) -> None:
    """Raise ControlError if a running system is not rootless."""
    if state is not None and not state.rootless:
        raise ControlError(f"{name} is not rootless; leave --rootless out")


def join_system(state: State, *, required: bool) -> None:
    """Enter the user namespace of a rootless system; do nothing for another one unless it is ``required``.

    Raises ControlError, OSError.
    """
    if required:
        require_rootless(state, state.name)
    if not state.rootless:
        return
    with open_owner(state) as process:
        if process is None:
            raise ControlError(f"{state.name} has ended")
        rootless.join(process, state.pid)
