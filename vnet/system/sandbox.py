"""The sandbox of a system that is up: what its process may still do, and what that forbids."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import attrs

from vnet.errors import PrivilegeError
from vnet.linux.files import naming
from vnet.linux.privileges.calls import allowed_calls
from vnet.linux.privileges.confinement import confine, rights_left, why_impossible, why_incomplete
from vnet.linux.privileges.landlock import Access, FileRule, Ruleset, landlock_version
from vnet.linux.privileges.seccomp import why_no_filter
from vnet.system.state import run_dir
from vnet.topology import Topology
from vnet.views.system import SandboxView

__all__ = ["Sandbox", "check_sandbox", "enter_sandbox", "sandbox_view"]

READ = Access.READ_FILE | Access.READ_DIR
OWN_FILES = Access.MAKE_SOCK | Access.REMOVE_FILE
"""Accesses to the folders of sockets and terminals: sockets are made, both are removed."""
SYSTEM_FILES = ("/proc", "/etc/localtime", "/usr/share/zoneinfo", "/lib", "/lib64", "/usr/lib", "/usr/lib64")
"""Files that Python and the C library read: libraries, the time zone, the state of this process."""


class Sandbox(Enum):
    """Mode of a sandbox: the rights that a process gives up once its system is up."""

    OFF = "off"
    ON = "on"
    """All that this machine can take. Changes of the running system work if they need no right and no other file."""
    STRICT = "strict"
    """The same and more: the system does not change, and the process does not start if the machine lacks something."""


_in_force = SandboxView()


def check_sandbox(sandbox: Sandbox) -> None:
    """Raise PrivilegeError if this machine lacks something that the sandbox needs."""
    if sandbox is not Sandbox.OFF and (lacking := why_impossible()):
        raise PrivilegeError(f"no sandbox: {lacking}", "mount -t proc proc /proc")
    if sandbox is Sandbox.STRICT and (lacking := why_incomplete()):
        raise PrivilegeError(f"no strict sandbox: {lacking}", "vnet doctor, or --sandbox=on")


async def enter_sandbox(sandbox: Sandbox, topology: Topology, name: str | None, *, runs_command: bool) -> None:
    """Take the rights that a running system of this ``topology`` does not need from this process, for good.

    ``name`` is that of the system, None if it has no files. ``runs_command``: the process waits for a command that it
    has started. Raises PrivilegeError, OSError.
    """
    global _in_force  # noqa: PLW0603  a process has one sandbox, which it never leaves
    if sandbox is Sandbox.OFF:
        return
    calls = allowed_calls(strict=sandbox is Sandbox.STRICT, runs_command=runs_command)
    rules, version = None, landlock_version()
    with naming("the sandbox"):
        if version:
            rules = Ruleset(file_rules(topology, name))
        try:
            await confine(calls, rules)
        finally:
            if rules is not None:
                rules.close()
    _in_force = SandboxView(sandbox.value, calls=0 if why_no_filter() else len(calls), landlock=version)


def file_rules(topology: Topology, name: str | None) -> Iterator[FileRule]:
    """Yield the files that a running system opens, makes and removes; those of its devices are open already."""
    paths = sysconfig.get_paths()
    modules = {sys.prefix, sys.base_prefix, *filter(None, sys.path), *paths.values()}
    for path in (*SYSTEM_FILES, *sorted(modules)):
        yield FileRule(Path(path), READ)
    folders = {path.absolute().parent for path in topology.paths()}
    if name is not None:
        folders.add(run_dir())
    for folder in sorted(folders):
        yield FileRule(folder, OWN_FILES)


def sandbox_view() -> SandboxView:
    """Return what is in force; rights as the kernel says."""
    left = rights_left()
    if left is None:
        return _in_force
    return attrs.evolve(_in_force, capabilities=left.capabilities, no_new_privs=left.no_new_privs)
