"""``vnet metrics``: the figures of a running system for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import click
import trio

from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.extras import extra
from vnet.cli.listen import Address, listen_option
from vnet.cli.query import query
from vnet.cli.signals import run_until_ended
from vnet.system.state import running
from vnet.views.system import SystemView

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["command"]


@click.command("metrics")
@name_option
@listen_option("Serve them over HTTP, such as at 127.0.0.1:9100.")
@errors_in_one_line
def command(name: str, listen: Address | None) -> None:
    """Print the figures of a running system for Prometheus.

    With --listen, serve them at /metrics until Ctrl-C. The system is asked when it is scraped, and costs nothing
    between. While it does not run, vnet_up is 0.
    """
    look = partial(query, name, SystemView, "query-vnet")
    with extra("metrics"):
        if listen is None:
            _print(name, look())
        else:
            run_until_ended(partial(_serve, _registry(name, look), name, listen))


def _registry(name: str, look: Callable[[], SystemView]) -> CollectorRegistry:
    from prometheus_client import CollectorRegistry

    from vnet.metrics.collector import SystemCollector

    registry = CollectorRegistry()
    registry.register(SystemCollector(name, look))
    return registry


def _print(name: str, view: SystemView) -> None:
    from prometheus_client import generate_latest

    click.echo(generate_latest(_registry(name, lambda: view)).decode(), nl=False)


async def _serve(registry: CollectorRegistry, name: str, listen: Address, serving: trio.Event) -> int:
    """Serve scrapes in threads of their own until cancelled. Raises OSError."""
    from prometheus_client import start_http_server

    server, thread = start_http_server(listen.port, listen.host, registry)
    try:
        port = server.server_port
        state = "" if running(name) is not None else f" ({name} does not run yet)"
        click.echo(f"http://{Address(listen.host, port)}/metrics has the figures of {name}{state}. Ctrl-C ends it.")
        serving.set()
        await trio.sleep_forever()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
