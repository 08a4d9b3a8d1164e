"""``vnet cfs``: the management tree of a running system, without a mount."""

from __future__ import annotations

import stat
from typing import Any

import click

from vnet.cli.common import check_name, errors_in_one_line
from vnet.cli.live_names import complete_systems
from vnet.errors import ControlError
from vnet.qmp.client import CHANGE_PATIENCE, ask

__all__ = ["command", "system_argument"]

MARKS = {stat.S_IFDIR: "/", stat.S_IFLNK: "@"}

system_argument = click.argument("name", callback=check_name, shell_complete=complete_systems)


def _complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete a path of the tree."""
    above, slash, name = incomplete.rpartition("/")
    try:
        entries: Any = ask(context.params["name"], "cfs-list", {"path": above}, timeout=1.0)
        return [f"{above}{slash}{each['name']}{_mark(each)}" for each in entries if each["name"].startswith(name)]
    except (ControlError, OSError, KeyError):
        return []


def _mark(entry: dict[str, Any]) -> str:
    return "/" if stat.S_IFMT(entry["mode"]) == stat.S_IFDIR else ""


path_argument = click.argument("path", shell_complete=_complete)
paths_argument = click.argument("paths", metavar="PATH...", nargs=-1, required=True, shell_complete=_complete)


@click.group("cfs")
def command() -> None:
    """Look at and change the management tree of a running system.

    It is the tree that `vnet mount` mounts. Paths begin at the root of the tree. An error begins with the symbol of
    the kernel's error number, such as EBUSY.

    \b
    vnet cfs ls vnet pci_ep/controllers
    vnet cfs mkdir vnet pci_ep/functions/pci_epf_virtio/func1
    vnet cfs echo vnet 1 pci_ep/controllers/pcie0/start
    """


def _change(name: str, operation: str, **arguments: str) -> None:
    ask(name, f"cfs-{operation}", arguments, CHANGE_PATIENCE)


def _is_directory(name: str, path: str) -> bool:
    """Return whether a directory is at a path; also False if nothing is."""
    try:
        ask(name, "cfs-list", {"path": path})
    except ControlError:
        return False
    return True


@command.command("ls")
@system_argument
@click.option("-l", "details", is_flag=True, help="Also print permissions, and where links lead to.")
@click.argument("path", default="", shell_complete=_complete)
@errors_in_one_line
def list_entries(name: str, details: bool, path: str) -> None:
    """List the entries of the directory at PATH, by default of the root."""
    entries: Any = ask(name, "cfs-list", {"path": path})
    for entry in entries:
        target = f" -> {entry['target']}" if "target" in entry else ""
        click.echo(f"{stat.filemode(entry['mode'])} {entry['name']}{target}" if details else entry["name"])


@command.command("cat")
@system_argument
@paths_argument
@errors_in_one_line
def print_values(name: str, paths: tuple[str, ...]) -> None:
    """Print the values of the attributes at each PATH."""
    for path in paths:
        value: Any = ask(name, "cfs-read", {"path": path})
        click.echo(value["text"], nl=False)


@command.command("mkdir")
@system_argument
@paths_argument
@errors_in_one_line
def make(name: str, paths: tuple[str, ...]) -> None:
    """Make a directory at each PATH."""
    for path in paths:
        _change(name, "mkdir", path=path)


@command.command("rmdir")
@system_argument
@paths_argument
@errors_in_one_line
def remove(name: str, paths: tuple[str, ...]) -> None:
    """Remove the empty directory at each PATH."""
    for path in paths:
        _change(name, "rmdir", path=path)


@command.command("rm")
@system_argument
@paths_argument
@errors_in_one_line
def remove_links(name: str, paths: tuple[str, ...]) -> None:
    """Remove the link at each PATH."""
    for path in paths:
        _change(name, "unlink", path=path)


@command.command("ln")
@system_argument
@click.argument("target", shell_complete=_complete)
@path_argument
@errors_in_one_line
def link(name: str, target: str, path: str) -> None:
    """Make a link at PATH, or in it, to the directory at TARGET."""
    if _is_directory(name, path):
        path = f"{path.rstrip('/')}/{target.rstrip('/').rpartition('/')[2]}"
    _change(name, "symlink", target=target, path=path)


@command.command("echo")
@system_argument
@click.argument("value")
@path_argument
@errors_in_one_line
def write(name: str, value: str, path: str) -> None:
    """Give the attribute at PATH the VALUE."""
    _change(name, "write", path=path, data=f"{value}\n")
