"""``vnet web``: a page of a running system for browsers of this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import trio

from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.extras import extra
from vnet.cli.listen import Address, listen_option
from vnet.cli.signals import run_until_ended
from vnet.errors import ControlError
from vnet.system.state import running

__all__ = ["command"]

LOOPBACK = ("127.0.0.1", "::1")
"""Addresses that only programs of this machine reach."""


@click.command("web")
@name_option
@listen_option("Address of this machine (127.0.0.1 or [::1]) and port.", "127.0.0.1:8080")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="File with the token of the page; it is made if it does not exist.",
)
@errors_in_one_line
def command(name: str, listen: Address, token_file: Path | None) -> None:
    """Serve a web page of a running system to browsers of this machine.

    It shows the topology, each ring as its memory is, rates, events and PCI functions, and moves links, resets devices
    and changes settings. The system is asked while a browser shows the page, and costs nothing else. Only browsers that
    open the printed address, which has a token, see it; without --token-file the token is a new one. Ctrl-C ends it.
    """
    if listen.host not in LOOPBACK:
        raise ControlError(f"--listen {listen}: must be 127.0.0.1 or [::1], because the page controls {name}")
    with extra("web"):
        run_until_ended(partial(_serve, name, listen, token_file))


async def _serve(name: str, listen: Address, token_file: Path | None, serving: trio.Event) -> int:
    """Serve the page until cancelled. Raises ControlError, OSError."""
    from vnet.qmp.async_client import Control
    from vnet.web.serve import serve_page
    from vnet.web.token import file_token, new_token

    token = new_token() if token_file is None else file_token(token_file)

    def started(port: int) -> None:
        state = "" if running(name) is not None else f" ({name} does not run yet)"
        click.echo(f"http://{Address(listen.host, port)}/?token={token} shows {name}{state}. Ctrl-C ends it.")
        serving.set()

    await serve_page(Control(name), listen.host, listen.port, token, started)
    return 0
